"""What the federation is compared with: each plant alone, and all their data in one place.

Both train the same model for as many steps as a federated plant, on as large batches, without
privacy. Errors are those of `interplant.core.measures`. A time to failure is measured the way C-MAPSS
is scored: the last window of each held-out machine, the target capped. Only who owns every plant can
do this: none of these figures leaves a real plant.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interplant.core import config, measures, models, processes
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.schema import Task
from interplant.core.targets import TIME, scaled
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.snapshots import load
from interplant.data.windows import Windows, last_windows, training_windows
from interplant.lab.summary import finite

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PlantWindows:
    """One plant's windows: those it trains on, and those of held-out machines on which it is measured."""

    train: Windows
    test: Windows

    @classmethod
    def of(cls, dataset: Dataset, task: Task) -> "PlantWindows":
        """Cut a plant's data."""
        return cls(training_windows(dataset.train, task), measured_windows(dataset.holdout, task))

    @property
    def longest(self) -> int:
        """Training windows of the machine that has most: what its privacy is computed for."""
        return int(np.unique(self.train.machine, return_counts=True)[1].max())


def read_plant(repository: Path, task: Task) -> PlantWindows:
    """Cut the newest snapshot of a data repository."""
    return PlantWindows.of(load(Repository(repository).open(), task.split), task)


def measured_windows(holdout: "pd.DataFrame", task: Task) -> Windows:
    """Cut what a model is measured on: of a time to failure each machine's last window, else all of them."""
    return (last_windows if task.target.kind == TIME else training_windows)(holdout, task)


def public(task: Task) -> Task:
    """Return the same task without privacy."""
    return replace(task, privacy=replace(task.privacy, mechanism="none"))


def train_alone(task: Task, windows: Windows) -> Tensors:
    """Train the task's model on these windows for all the steps of a run, without privacy.

    Args:
        task: Model, training, rounds and seed; its privacy is not used.
        windows: Of one plant, or pooled.

    Returns:
        The weights.
    """
    from interplant.privacy.training import train

    model = models.build(task)
    training = replace(task.training, steps=task.rounds * task.training.steps)
    y = scaled(task.target, windows.y)
    made = train(model, windows.x, y, training, None, lambda: None, seed=task.seed)
    return {name: value + made.update[name] for name, value in models.parameters(model).items()}


def pool(parts: Sequence[Windows]) -> Windows:
    """Put the windows of several plants in one place; what a federation is there to avoid."""
    return Windows(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.machine for part in parts]),
    )


def error(task: Task, weights: Tensors, test: Windows) -> float:
    """Return a model's error of `interplant.core.measures.MEASURES`, a time capped."""
    return measures.error(task.target, _predicted(task, weights, test))


def scores(task: Task, weights: Tensors, test: Windows) -> dict[str, float]:
    """Return all figures of `interplant.core.measures.scores`."""
    return measures.scores(task.target, _predicted(task, weights, test))


def _predicted(task: Task, weights: Tensors, test: Windows) -> measures.Predicted:
    from interplant.core.export import predict

    model = models.build(task)
    models.set_parameters(model, weights)
    return measures.Predicted(predict(model, test.x[:], outputs=task.target.outputs), test.y)


def measure(
    task: Task, plants: Mapping[str, PlantWindows], weights: Mapping[str, Tensors]
) -> dict[str, dict[str, float]]:
    """Train the baselines and measure everything on every plant.

    Args:
        task: Of the federated runs.
        plants: Windows by plant.
        weights: Models to measure beside the baselines, by what they are called.

    Returns:
        By plant: ``alone``, ``pooled`` and the names of ``weights``; errors as from `error`.
    """
    pooled = train_alone(task, pool([one.train for one in plants.values()]))
    shared = {"pooled": pooled, **weights}
    return {
        name: {"alone": error(task, train_alone(task, own.train), own.test)}
        | {kind: error(task, model, own.test) for kind, model in shared.items()}
        for name, own in plants.items()
    }


def measure_in_child(task: Task, plants: Mapping[str, Path], weights: Mapping[str, Path], log: Path) -> Any:
    """Do `measure` in a process of its own, and read the plants' ledgers too; see `main`.

    Args:
        task: Of the federated runs.
        plants: Plant directories by name.
        weights: Safetensors files by what they are called.
        log: Where the child writes its log; its answer lies beside it.

    Returns:
        By plant: ``rmse`` (as from `measure`), ``epsilon``, ``machine_windows``, ``machine_epsilon``.
    """
    order, answer = log.with_name("measure.json"), log.with_name("measured.json")
    content = {
        "task": config.dump(task),
        "plants": {name: str(path.resolve()) for name, path in plants.items()},
        "weights": {name: str(path.resolve()) for name, path in weights.items()},
    }
    write_atomic(order, json.dumps(content))
    child = processes.start(processes.python_module("interplant.lab.baselines", str(order), str(answer)), log)
    try:
        code = child.wait()
    finally:
        processes.stop(child)
    if code:
        raise InterplantError(f"measuring the models failed; see {log}")
    return json.loads(answer.read_text())


def main(words: list[str]) -> int:
    """Measure what the order in the file ``words[0]`` says; write the answer to ``words[1]``."""
    processes.follow_parent()
    import torch

    torch.set_num_threads(1)  # so small a model is no faster with more
    order = json.loads(Path(words[0]).read_text())
    task = config.parse(order["task"], Task, "task")
    paths = {name: Path(path) for name, path in order["plants"].items()}
    plants = {name: read_plant(path / "data", task) for name, path in paths.items()}
    weights = {name: from_bytes(Path(path).read_bytes()) for name, path in order["weights"].items()}
    errors = measure(task, plants, weights)
    answer = {
        name: {"rmse": errors[name]} | _spent(path, task, plants[name].longest)
        for name, path in paths.items()
    }
    write_atomic(Path(words[1]), json.dumps(answer, indent=1))
    return 0


def _spent(plant: Path, task: Task, windows: int) -> dict[str, float | None]:
    """What the plant's ledger holds, by window and for the plant's longest machine."""
    from interplant.privacy import accounting
    from interplant.privacy.ledger import Ledger

    events, delta = Ledger(plant / "ledger.db").events(), task.privacy.delta
    return {
        "epsilon": accounting.spent(events, delta).epsilon,
        "machine_windows": windows,
        "machine_epsilon": finite(accounting.machine_epsilon(events, delta, windows)),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
