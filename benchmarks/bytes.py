"""What compression saves on the wire, and what it costs in error: C-MAPSS, four plants, no network.

The same run, from the same seed, plain and compressed, over the simulate engine; each message is counted as
the default engine sends it: the notice or the offer with all its records and words, the tensors within it or
in pieces. What TLS and HTTP/2 add to that (some tens of bytes a message) is left out on both sides.
``rmse`` is the mean over plants of the capped RMSE on held-out engines after the last round, in cycles; one
run differs from another by some percent whatever is changed in it, so it is the mean over ``--seeds`` runs.
Without ``--data`` the plants are the simulator's.

    python benchmarks/bytes.py --json --data DIR [--rounds 60] [--seeds 3] [--short]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Message

from interplant.core import config
from interplant.core import federation_pb2 as pb
from interplant.core.inline import INLINE
from interplant.core.schema import Compression, Connection, Plant, Rounds, Task
from interplant.core.tensors import Tensors
from interplant.core.wire import blob_of, pieces, tensors_of, to_bytes, to_parcel
from interplant.data.frames import Dataset
from interplant.data.tasks import builtin
from interplant.lab.baselines import PlantWindows, error
from interplant.lab.prepared import Source, datasets, offer_readings
from interplant.lab.simulation import SimulatedGrid
from interplant.lab.virtual import scratch, virtual_plant
from interplant.server import rounds
from interplant.server.run_folder import RunFolder, make_order

BAR = 3.9
"""Times fewer bytes that int8 with error feedback shall need, both ways and all rounds together."""

WORSE = 1.005
"""What its error may be, as a multiple of the plain run's."""

CASES = {
    "plain": Compression(),
    "bf16": Compression("bf16", "bf16"),
    "int8": Compression("int8", "int8"),
    "top_k 5 %": Compression("top_k", "top_k", 0.05),
}


class CountingGrid(SimulatedGrid):
    """Counts the bytes of messages as the default engine would send them."""

    up = down = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hold instructions, and count them."""
        held = list(messages)
        self.down += sum(sent(pb.Notice(work=wire(each)), each) for each in held)
        return super().push_messages(held)

    def _answer(self, message_id: str) -> Message:
        reply = super()._answer(message_id)
        parcel = wire(reply)
        # What the agent leaves out of a reply: the coordinator knows to whom and when it wrote.
        bare = pb.Parcel(reply_to=parcel.reply_to, records=parcel.records, body=parcel.body)
        self.up += sent(bare, reply)
        return reply


def wire(message: Message) -> pb.Parcel:
    return to_parcel(message, blob_of(to_bytes(tensors_of(message.content))))


def sent(parcel: Any, message: Message) -> int:
    """Bytes of a message: its tensors within it, or in pieces beside it."""
    body = to_bytes(tensors_of(message.content))
    if len(body) <= INLINE:
        (parcel.work if isinstance(parcel, pb.Notice) else parcel).inline = body
        return int(parcel.ByteSize())
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        return int(parcel.ByteSize()) + sum(piece.ByteSize() for piece in pieces(Path(file.name), 0))


@dataclass(frozen=True)
class Bench:
    """The plants' readings and windows, read once."""

    task: Task
    readings: dict[str, Dataset]
    windows: dict[str, PlantWindows]

    @classmethod
    def of(cls, source: Source, task: Task) -> "Bench":
        """Read and cut them."""
        readings = dict(datasets(source))
        return cls(task, readings, {name: PlantWindows.of(one, task) for name, one in readings.items()})

    def rmse(self, weights: Tensors) -> float:
        """Mean over the plants, in cycles."""
        errors = [error(self.task, weights, own.test) for own in self.windows.values()]
        return statistics.mean(errors)


@contextmanager
def grid(bench: Bench, task: Task, run_id: int) -> Iterator[CountingGrid]:
    """Virtual plants: the plant's own code over these readings."""
    with scratch() as place:
        plants = []
        for name, dataset in bench.readings.items():
            plant = Plant(name=name, federation="bench", connection=Connection("127.0.0.1:1"))
            offer_readings(dataset, task, 1000.0)(plant)
            plants.append(virtual_plant(place, name, plant, lambda dataset=dataset: dataset))
        yield CountingGrid(plants, run_id)


def carry_out(bench: Bench, task: Task, compression: Compression) -> dict[str, float]:
    """One run: its bytes, seconds and error."""
    rules = Rounds(quorum=len(bench.readings), order="plants", retries=0, compression=compression)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        order = make_order("bench", task, rules, engine="simulate", release=False)
        run.create(order)
        with grid(bench, task, order.run_id) as made:
            begun = time.perf_counter()
            state = rounds.carry_out(made, run)
            seconds = time.perf_counter() - begun
    parameters = sum(array.size for array in state.weights.values())
    return {
        "parameters": parameters,
        "seconds": seconds,
        "bytes_up": made.up,
        "bytes_down": made.down,
        "rmse": bench.rmse(state.weights),
    }


def row(
    case: str, bench: Bench, runs: list[dict[str, float]], plain: list[dict[str, float]]
) -> dict[str, Any]:
    """A case beside the plain one: bytes of one run, seconds and error as means over the seeds."""

    def mean(of: list[dict[str, float]], key: str) -> float:
        return statistics.mean(one[key] for one in of)

    up, down = mean(runs, "bytes_up"), mean(runs, "bytes_down")
    plain_up, plain_down = mean(plain, "bytes_up"), mean(plain, "bytes_down")
    times, worse = (plain_up + plain_down) / (up + down), mean(runs, "rmse") / mean(plain, "rmse")
    barred = case == "int8"
    return {
        "case": case,
        "plants": len(bench.readings),
        "parameters": int(runs[0]["parameters"]),
        "rounds": bench.task.rounds,
        "seconds": round(mean(runs, "seconds"), 2),
        "bytes_up": round(up),
        "bytes_down": round(down),
        "times_fewer": round(times, 2),
        "times_fewer_up": round(plain_up / up, 2),
        "times_fewer_down": round(plain_down / down, 2),
        "rmse": round(mean(runs, "rmse"), 3),
        "rmse_of_seeds": [round(one["rmse"], 3) for one in runs],
        "rmse_to_plain": round(worse, 4),
        "bar": {"times_fewer": BAR, "rmse_to_plain": WORSE} if barred else None,
        "holds": times >= BAR and worse <= WORSE if barred else None,
    }


def main() -> None:
    """Measure, and print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--data", type=Path, help="folder of cmapss.tar.xz")
    words.add_argument("--rounds", type=int, default=60)
    words.add_argument("--steps", type=int, default=30)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--changes", nargs="*", default=[], help="changes to the task, as key=value")
    words.add_argument("--short", action="store_true", help="smoke: two rounds, one seed")
    given = words.parse_args()
    count, seeds = (2, 1) if given.short else (given.rounds, given.seeds)
    changes = [f"rounds={count}", f"training.steps={given.steps}", "training.learning_rate=0.002"]
    changes += ["privacy.mechanism=none", *given.changes]
    task = config.load(builtin("turbofan"), Task, changes)
    source = Source("cmapss" if given.data else "simulated", given.data, 24, 0)
    bench = Bench.of(source, task)
    found = {
        case: [carry_out(bench, replace(task, seed=seed), compression) for seed in range(seeds)]
        for case, compression in CASES.items()
    }
    results = [row(case, bench, runs, found["plain"]) for case, runs in found.items()]
    print(json.dumps({"machine": platform.platform(), "data": source.name, "results": results}, indent=2))


if __name__ == "__main__":
    main()
