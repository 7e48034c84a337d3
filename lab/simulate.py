"""What ``interplant simulate`` does: a run of many virtual plants, and what came of it."""

import contextlib
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Connection, Plant, Rounds, Task
from interplant.core.tensors import Tensors
from interplant.data.frames import Dataset
from interplant.data.readings import ENDINGS, read_folder, require
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.data.windows import Windows
from interplant.lab.baselines import measured_windows, pool, scores
from interplant.lab.host import Recipe
from interplant.lab.pool import PooledGrid
from interplant.lab.prepared import offer_readings
from interplant.lab.virtual import VirtualTrainer, scratch
from interplant.server import rounds
from interplant.server.run_folder import Checkpoint, RunFolder, make_order

TESTED = 8
"""Plants on whose held-out machines the models are measured, at most."""

BOUNDS = {"plants": (1, 100_000), "machines": (1, 10_000), "seed": (0, None), "processes": (0, 1024)}
"""The least and the most of a fleet's numbers: more would fill memory or the process table."""

DEADLINE = 1e6
"""Seconds of a round: virtual plants are never late, they only take turns."""


@dataclass(frozen=True)
class Fleet:
    """Virtual plants.

    Args:
        plants: How many.
        machines: Machines in each plant's record.
        seed: Of the simulator.
        epsilon: Each plant's privacy budget.
        processes: How many share the work; 0: one a core.
        data: Folder with one folder a plant, of ``train`` and ``holdout`` tables; None: simulated machines.

    Raises:
        UsageError: A number that cannot be, or no plant in the folder.
    """

    plants: int
    machines: int = 8
    seed: int = 0
    epsilon: float = 4.0
    processes: int = 0
    data: Path | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            found = getattr(self, name)
            if found < least:
                raise UsageError(f"--{name}: expected {least} or more, found {found}")
            if most is not None and found > most:
                raise UsageError(f"--{name}: expected {most} or fewer, found {found}")
        if not 0 < self.epsilon < float("inf"):
            raise UsageError(f"--epsilon: expected a number more than 0, found {self.epsilon}")

    @classmethod
    def of(cls, data: Path, epsilon: float = 4.0, processes: int = 0) -> "Fleet":
        """Make one plant of each folder in ``data``."""
        return cls(len(plant_folders(data)), epsilon=epsilon, processes=processes, data=data)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the plants' readings lie, in the order of their numbers; empty for simulated ones."""
        return plant_folders(self.data) if self.data else ()

    @property
    def names(self) -> list[str]:
        """The plants' names, in the order of their numbers."""
        if self.data:
            return [folder.name for folder in self.folders]
        width = len(str(self.plants))
        return [f"plant-{number:0{width}}" for number in range(1, self.plants + 1)]


@dataclass(frozen=True)
class Simulated:
    """What came of a simulation.

    Args:
        task: Its name.
        strategy: How updates were merged.
        mechanism: Of the task's privacy; ``unit``, ``epsilon`` and ``delta`` are the largest of any plant.
        unit: The privacy unit.
        epsilon: Spent by the plant that spent most; 0 without privacy.
        delta: The probability beside it.
        plants: How many there were.
        processes: How many shared the work.
        parameters: Of the model.
        rmse_first: Error of a time or a value on held-out machines before the first round, on average over
            the plants, in the label's unit and a time capped; None for an event or a class.
        rmse: After the last round.
        scores: All figures of `interplant.core.measures.scores` after the last round that are finite, by
            plant: on its hold-out, or on all readings of a plant that was only tested on.
        scores_first: Before the first round.
        rounds: The record of each attempt at a round.
        seconds: The whole run, without the start of the processes.
        ms_per_plant_round: Milliseconds a plant and round.
        simulated: Whether the readings are the simulator's.
    """

    task: str
    strategy: str
    mechanism: str
    unit: str
    epsilon: float
    delta: float
    plants: int
    processes: int
    parameters: int
    rmse_first: float | None
    rmse: float | None
    rounds: list[dict[str, Any]] = field(repr=False)
    seconds: float
    ms_per_plant_round: float
    simulated: bool = True
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    scores_first: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


def simulate_fleet(
    fleet: Fleet,
    task: Task,
    rules: Rounds | None = None,
    folder: Path | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
    trainer: type[VirtualTrainer] = VirtualTrainer,
    start_from: Path | None = None,
    tested: int = TESTED,
    later: Path | None = None,
) -> tuple[Simulated, Checkpoint]:
    """Run a task over virtual plants: the same strategy, privacy and gateway as in a federation.

    Args:
        fleet: The plants.
        task: What is learned, in the columns of the simulator.
        rules: Of rounds; by default updates are folded by the plants' names, so that a run can be repeated.
        folder: Becomes the run's folder; by default it is gone at the end.
        tell: Hears of every attempt at a round.
        trainer: Trains the plants.
        start_from: Weights in a file; by default fresh ones from the task's seed.
        tested: Plants on whose held-out machines the models are measured, at most; the first ones.
        later: Folder with further plants, on all of whose readings the models are measured too.

    Returns:
        What came of it, and the state after the last round.

    Raises:
        UsageError: The task asks for columns that the simulator does not make, readings break its contract,
            a strategy is wrong, or ``folder`` cannot take a run.
        QuorumError: Too few plants took part.
        StrategyError: The strategy failed.
    """
    if folder:
        _check_folder(folder)
    if not fleet.data:
        _check_columns(task)
    for one in (*fleet.folders, *(plant_folders(later) if later else ())):
        require(read_folder(one), task, str(one))
    tests = _tests(fleet, task, tested, later)
    count = fleet.processes or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(scratch())
        run = RunFolder(folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run")
        order = make_order(
            f"simulated-{secrets.token_hex(4)}",
            task,
            rules or Rounds(order="plants", retries=0, deadline_seconds=DEADLINE),
            engine="simulate",
            release=False,
            start_from=str(start_from.absolute()) if start_from else "",
        )
        run.create(order)
        run.task()  # read once here, and not again in each copy of this process
        recipe = Recipe(
            place,
            fleet_settings(fleet, task),
            fleet.machines,
            fleet.seed,
            trainer=trainer,
            folders=fleet.folders,
            sizes=tuple(_settings(read_folder(one), task, fleet.epsilon).data for one in fleet.folders),
        )
        grid = PooledGrid(order.run, order.run_id, recipe, fleet.names, count)
        stack.callback(grid.close)
        first = rounds.first_weights(run, task)  # loads torch while the processes start
        grid.until_ready()
        begun = time.monotonic()
        state = rounds.carry_out(grid, run, tell)
        seconds = time.monotonic() - begun
        found = [_scores(task, weights, tests) for weights in (first, state.weights)]
        return _result(fleet, task, run, state, found, seconds, grid.processes), state


def fleet_settings(fleet: Fleet, task: Task) -> Plant:
    """Settings of every plant: sizes as the first one's, declared public like those of a real plant."""
    first = read_folder(fleet.folders[0]) if fleet.data else simulate(0, fleet.machines, fleet.seed)
    return _settings(first, task, fleet.epsilon)


def _settings(readings: Dataset, task: Task, epsilon: float) -> Plant:
    plant = Plant(name="virtual", federation="simulated", connection=Connection("127.0.0.1:1"))
    offer_readings(readings, task, epsilon)(plant)
    return plant


def plant_folders(data: Path) -> tuple[Path, ...]:
    """Return the folders in ``data`` that hold a plant's tables, sorted by name.

    Raises:
        UsageError: There is none.
    """
    found = sorted(data.iterdir()) if data.is_dir() else []
    folders = tuple(path for path in found if any((path / f"train{ending}").is_file() for ending in ENDINGS))
    if not folders:
        raise UsageError(f"{data}: expected one folder a plant, with train and holdout tables, found none")
    return folders


def _result(
    fleet: Fleet,
    task: Task,
    run: RunFolder,
    state: Checkpoint,
    scores: list[dict[str, dict[str, float]]],
    seconds: float,
    processes: int,
) -> Simulated:
    records = run.records()
    receipts = list(state.plants.values())
    most = max(receipts, key=lambda one: float(one["epsilon"]))
    return Simulated(
        task=task.name,
        strategy=task.strategy.name,
        mechanism=task.privacy.mechanism,
        unit=most["unit"],
        epsilon=most["epsilon"],
        delta=most["delta"],
        plants=fleet.plants,
        processes=processes,
        parameters=sum(array.size for array in state.weights.values()),
        rmse_first=_mean(scores[0], "rmse"),
        rmse=_mean(scores[1], "rmse"),
        rounds=records,
        seconds=seconds,
        ms_per_plant_round=1e3 * seconds / (fleet.plants * len(records)),
        simulated=fleet.data is None,
        scores_first=scores[0],
        scores=scores[1],
    )


def _tests(fleet: Fleet, task: Task, tested: int, later: Path | None) -> dict[str, Windows]:
    """What the models are measured on, by plant: some plants' hold-outs, and all that later ones have."""
    names = fleet.names[:tested]
    if fleet.data:
        holdouts = [read_folder(folder).holdout for folder in fleet.folders[:tested]]
    else:
        holdouts = [simulate(number, fleet.machines, fleet.seed).holdout for number in range(len(names))]
    found = {name: measured_windows(holdout, task) for name, holdout in zip(names, holdouts, strict=True)}
    for folder in plant_folders(later) if later else ():
        dataset = read_folder(folder)
        parts = [measured_windows(part, task) for part in (dataset.train, dataset.holdout)]
        found[f"{folder.parent.name}/{folder.name}"] = pool(parts)
    return found


def _scores(task: Task, weights: Tensors, tests: dict[str, Windows]) -> dict[str, dict[str, float]]:
    found = {name: scores(task, weights, windows) for name, windows in tests.items() if len(windows)}
    return {
        name: {key: value for key, value in own.items() if math.isfinite(value)}
        for name, own in found.items()
    }


def _mean(found: dict[str, dict[str, float]], name: str) -> float | None:
    values = [own[name] for own in found.values() if name in own]
    return float(np.mean(values)) if values else None


def _check_folder(folder: Path) -> None:
    """Refuse what a run's folder cannot be made at, before anything is done."""
    if (folder / "order.json").exists():
        raise UsageError(f"--dir: expected a folder without a run, found one in {folder}; name another")
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise UsageError(f"--dir: expected a folder, found the file {there}; name another")


def _check_columns(task: Task) -> None:
    made = config.load(builtin("turbofan"), Task).contract
    asked, known = task.contract, {**made.settings, **made.sensors}
    odd = [name for name in {**asked.settings, **asked.sensors} if name not in known]
    if odd or (asked.machine, asked.time) != (made.machine, made.time):
        names = ", ".join(odd) or f"{asked.machine}, {asked.time}"
        raise UsageError(
            f"task {task.name}: contract: the simulator makes the columns of the built-in task turbofan, not "
            f"{names}; for other data join plants of your own with `interplant plant join`"
        )
