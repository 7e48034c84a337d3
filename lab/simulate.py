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
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.data.windows import last_windows
from interplant.lab.baselines import error
from interplant.lab.host import Recipe
from interplant.lab.pool import PooledGrid
from interplant.lab.prepared import offer_readings
from interplant.lab.virtual import VirtualTrainer, scratch
from interplant.server import rounds
from interplant.server.run_folder import Checkpoint, RunFolder, make_order

TESTED = 8
"""Plants on whose held-out machines the models are measured, at most."""

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

    Raises:
        UsageError: A number that cannot be.
    """

    plants: int
    machines: int = 8
    seed: int = 0
    epsilon: float = 4.0
    processes: int = 0

    def __post_init__(self) -> None:
        for name, least in (("plants", 1), ("machines", 1), ("seed", 0), ("processes", 0)):
            found = getattr(self, name)
            if found < least:
                raise UsageError(f"--{name}: expected {least} or more, found {found}")
        if not 0 < self.epsilon < float("inf"):
            raise UsageError(f"--epsilon: expected a number more than 0, found {self.epsilon}")

    @property
    def names(self) -> list[str]:
        """The plants' names, in the order of their numbers."""
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
        rmse_first: Capped RMSE in cycles on held-out machines before the first round.
        rmse: After the last.
        rounds: The record of each attempt at a round.
        seconds: The whole run, without the start of the processes.
        ms_per_plant_round: Milliseconds a plant and round.
        simulated: Always true: the readings are the simulator's.
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
    rmse_first: float
    rmse: float
    rounds: list[dict[str, Any]] = field(repr=False)
    seconds: float
    ms_per_plant_round: float
    simulated: bool = True

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

    Returns:
        What came of it, and the state after the last round.

    Raises:
        UsageError: The task asks for columns that the simulator does not make, or a strategy is wrong.
        QuorumError: Too few plants took part.
    """
    _check_columns(task)
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
            start_from=str(start_from or ""),
        )
        run.create(order)
        run.task()  # read once here, and not again in each copy of this process
        recipe = Recipe(place, fleet_settings(fleet, task), fleet.machines, fleet.seed, trainer=trainer)
        grid = PooledGrid(order.run, order.run_id, recipe, fleet.names, count)
        stack.callback(grid.close)
        first = rounds.first_weights(run, task)  # loads torch while the processes start
        grid.until_ready()
        begun = time.monotonic()
        state = rounds.carry_out(grid, run, tell)
        seconds = time.monotonic() - begun
        rmse = [_rmse(fleet, task, weights, tested) for weights in (first, state.weights)]
        return _result(fleet, task, run, state, rmse, seconds, grid.processes), state


def fleet_settings(fleet: Fleet, task: Task) -> Plant:
    """Settings of every plant: sizes as the first one's, declared public like those of a real plant."""
    plant = Plant(name="virtual", federation="simulated", connection=Connection("127.0.0.1:1"))
    offer_readings(simulate(0, fleet.machines, fleet.seed), task, fleet.epsilon)(plant)
    return plant


def _result(
    fleet: Fleet,
    task: Task,
    run: RunFolder,
    state: Checkpoint,
    rmse: list[float],
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
        rmse_first=rmse[0],
        rmse=rmse[1],
        rounds=records,
        seconds=seconds,
        ms_per_plant_round=1e3 * seconds / (fleet.plants * len(records)),
    )


def _rmse(fleet: Fleet, task: Task, weights: Tensors, tested: int) -> float:
    """Mean over the first plants of the capped RMSE on their held-out machines; NaN for none."""
    if not tested:
        return math.nan
    numbers = range(min(fleet.plants, tested))
    holdouts = [simulate(number, fleet.machines, fleet.seed).holdout for number in numbers]
    return float(np.mean([error(task, weights, last_windows(one, task)) for one in holdouts]))


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
