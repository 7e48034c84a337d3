"""What merging costs: means beside torch's own sum, robust rules beside Flower's, all in one process.

Both sides get the same arrays and take their turns, so that a busy machine slows them alike; a ratio is
the median over the turns of one turn's seconds over the other's. Each side gets updates as its own engine
hands them over: ours in the files in which they have come, Flower's in memory. ``--held`` gives ours arrays
in memory too, as the ``simulate`` engine does: what goes beyond a robust rule's memory is then written to
disk. Above 1 is faster than what it is compared with.

    python benchmarks/merge.py --json [--short] [--held] [--scratch DIR]
"""

import argparse
import gc
import json
import logging
import platform
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from interplant.core import blobs
from interplant.core.flower import Envelope, message
from interplant.strategies.arrays import Arrays
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.krum import Krum
from interplant.strategies.mean import Mean
from interplant.strategies.median import Median
from interplant.strategies.multikrum import MultiKrum
from interplant.strategies.strategy import Strategy
from interplant.strategies.trimmed_mean import TrimmedMean

COUNT, FAULTY, KEEP = 16, 3, 5

MEAN_BAR, ROBUST_BAR = 0.9, 4.0

ROBUST: list[tuple[str, Strategy[Any], Callable[[], flower.FedAvg]]] = [
    ("median", Median(), flower.FedMedian),
    ("trimmed_mean", TrimmedMean(0.2), lambda: flower.FedTrimmedAvg(beta=0.2)),
    ("krum", Krum(FAULTY), lambda: flower.Krum(num_malicious_nodes=FAULTY)),
    (
        "multikrum",
        MultiKrum(FAULTY, KEEP),
        lambda: flower.MultiKrum(num_malicious_nodes=FAULTY, num_nodes_to_select=KEEP),
    ),
]


def model(short: bool) -> Arrays:
    """Weights of a network with large and small arrays: 50 MB, or 6 MB."""
    wide = 512 if short else 1536
    shapes = {"in": (wide, wide), "mid": (3, wide, wide), "out": (wide, wide), "bias": (wide,), "scale": ()}
    rng = np.random.default_rng(0)
    return {name: draw(rng, shape) for name, shape in shapes.items()}


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.asarray(rng.standard_normal(shape), np.float32)


def updates(weights: Arrays) -> list[Arrays]:
    rng = np.random.default_rng(1)
    return [
        {
            name: np.asarray(0.01 * rng.standard_normal(array.shape), np.float32)
            for name, array in weights.items()
        }
        for _ in range(COUNT)
    ]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Do something; how long it took, and what came of it."""
    gc.collect()
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def arrived(several: list[Arrays], scratch: Path) -> list[Path]:
    """Files with the updates, as the coordinator's spool keeps them."""
    files = [scratch / f"{number}.body" for number in range(len(several))]
    for file, update in zip(files, several, strict=True):
        blobs.save(file, update)
    return files


def ours(
    strategy: Strategy[Any], weights: Arrays, several: Sequence[Arrays | Path], scratch: Path
) -> tuple[Arrays, float]:
    """One round's merge, from the first update to the next weights; and when the last update was in."""
    merge = strategy.begin(weights, scratch)
    for update in several:
        strategy.fold(merge, blobs.load(update) if isinstance(update, Path) else update)
    folded = time.perf_counter()
    return strategy.finish(merge, weights, strategy.init(weights))[0], time.perf_counter() - folded


def replies(several: list[Arrays]) -> list[Message]:
    """The updates as Flower's strategies take them; some of them empty what they are given."""
    envelope = Envelope("", 7, 100, 0, "train", "1", "asked")
    return [
        message(
            envelope,
            RecordDict(
                {
                    "arrays": ArrayRecord({name: Array(array) for name, array in update.items()}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }
            ),
        )
        for update in several
    ]


def theirs(strategy: flower.FedAvg, given: list[Message]) -> Arrays:
    record, _ = strategy.aggregate_train(1, given)
    assert record is not None
    return {name: array.numpy() for name, array in record.items()}


def mean_speed(weights: Arrays, several: list[Arrays], turns: int) -> dict[str, Any]:
    """Folding into a float32 sum, beside torch's ``add_(alpha)`` over the same memory, at its best."""
    merge = FedAvg().begin(weights, Path())
    totals = {name: torch.zeros(array.shape) for name, array in weights.items()}
    shared = [{name: torch.from_numpy(array) for name, array in update.items()} for update in several]

    def fold() -> None:
        for update in several:
            FedAvg().fold(merge, update)

    def add() -> None:
        for update in shared:
            for name, total in totals.items():
                total.add_(update[name], alpha=1 / COUNT)

    def by(threads: int) -> float:
        torch.set_num_threads(threads)
        return seconds(add)[0]

    most = torch.get_num_threads()
    fold(), by(most)  # the first turn meets pages that are not there yet
    own: list[float] = []
    other: dict[int, list[float]] = {1: [], most: []}
    for _ in range(turns):
        own.append(seconds(fold)[0])
        for threads, taken in other.items():
            taken.append(by(threads))
    # On a busy machine torch's threads wait for one another: then one alone is faster.
    best = min(other, key=lambda threads: statistics.median(other[threads]))
    size = COUNT * sum(array.nbytes for array in weights.values()) / 1e9
    return result("mean-beside-torch-add", own, other[best], MEAN_BAR) | {
        "gb_per_s": round(size / statistics.median(own), 2),
        "torch_gb_per_s": round(size / statistics.median(other[best]), 2),
        "torch_threads": best,
    }


def whole(
    name: str, strategy: Strategy[Any], make: Callable[[], flower.FedAvg], bar: float | None,
    weights: Arrays, several: list[Arrays], given: Sequence[Arrays | Path], turns: int, scratch: Path,
) -> dict[str, Any]:  # fmt: skip
    """A whole merge beside Flower's, and how far the two results lie apart."""
    own, other, last, apart = [], [], [], 0.0
    for _ in range(turns):
        taken, (found, finishing) = seconds(partial(ours, strategy, weights, given, scratch))
        own.append(taken)
        last.append(finishing)
        # Flower's merges what it is given, updates here, and leaves the weights out.
        taken, expected = seconds(partial(theirs, make(), replies(several)))
        other.append(taken)
        for key, array in expected.items():
            apart = max(apart, float(np.abs(found[key] - weights[key] - array).max()))
    return result(f"{name}-beside-flower", own, other, bar) | {
        "seconds": round(statistics.median(own), 4),
        "after_the_last_update_s": round(statistics.median(last), 4),
        "flower_seconds": round(statistics.median(other), 4),
        "largest_difference": float(f"{apart:.2g}"),
    }


def result(case: str, own: list[float], other: list[float], bar: float | None) -> dict[str, Any]:
    ratio = statistics.median(b / a for a, b in zip(own, other, strict=True))
    found: dict[str, Any] = {"case": case, "value": round(ratio, 2), "unit": "times as fast"}
    return found | ({"bar": bar, "holds": ratio >= bar} if bar else {})


def memory(
    name: str, strategy: Strategy[Any], weights: Arrays, several: Sequence[Arrays | Path], scratch: Path
) -> dict[str, Any]:
    """Most memory of a round's merge in models, all updates given and none of them counted."""
    tracemalloc.start()
    ours(strategy, weights, several, scratch)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    models = most / sum(array.nbytes for array in weights.values())
    return {"case": f"{name}-memory", "value": round(models, 2), "unit": "models", "mb": round(most / 1e6, 1)}


def tolerance_holds(weights: Arrays, several: list[Arrays]) -> dict[str, Any]:
    """The largest difference of two orders' means, in parts of what `mean.tolerance` allows."""
    from interplant.strategies.mean import tolerance

    found: list[Arrays] = []
    for order in (several, several[::-1]):
        merge: Mean = FedAvg().begin(weights, Path())
        for update in order:
            FedAvg().fold(merge, update)
        found.append(merge.value())
    worst = 0.0
    for name in weights:
        sizes = np.mean([np.abs(update[name]) for update in several], axis=0, dtype=np.float64)
        apart = np.abs(found[0][name].astype(np.float64) - found[1][name])
        worst = max(worst, float((apart / (sizes * tolerance(COUNT, 1.0))).max()))
    return {
        "case": "mean-two-orders", "value": round(worst, 3), "unit": "of the tolerance", "bar": 1.0,
        "holds": worst <= 1.0,
    }  # fmt: skip


def main() -> None:
    """Measure, and print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--short", action="store_true", help="smoke: a small model, few turns")
    words.add_argument("--held", action="store_true", help="our updates are arrays in memory")
    words.add_argument("--scratch", type=Path, help="where updates are spilled")
    given = words.parse_args()
    logging.disable(logging.INFO)
    weights = model(given.short)
    several = updates(weights)
    turns = 3 if given.short else 5
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        scratch = Path(folder)
        come = several if given.held else arrived(several, scratch)
        results = [mean_speed(weights, several, 3 * turns), tolerance_holds(weights, several)]
        results.append(whole("mean", FedAvg(), flower.FedAvg, None, weights, several, come, turns, scratch))
        for name, strategy, make in ROBUST:
            results.append(whole(name, strategy, make, ROBUST_BAR, weights, several, come, turns, scratch))
        for name, strategy in [("mean", FedAvg()), *[(name, strategy) for name, strategy, _ in ROBUST]]:
            results.append(memory(name, strategy, weights, come, scratch))
    machine = {
        "machine": platform.platform(), "numpy": np.__version__, "torch": torch.__version__,
        "flwr": flwr.__version__, "updates": COUNT, "held": given.held,
        "model_mb": round(sum(array.nbytes for array in weights.values()) / 1e6, 1),
    }  # fmt: skip
    print(json.dumps({**machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
