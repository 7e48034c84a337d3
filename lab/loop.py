"""The loop that closes by itself: a sensor begins to drift at one plant. Read `run_loop` from top to bottom.

Real processes, as in the demo's first part. Files arrive in a plant's folder; its monitor raises the alarm
and proposes, the coordinator starts a run from the model that serves, and every plant tries the release.
Nobody types a command. What the errors were is measured here, as the demo owns all plants.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from interplant.client import monitor, proposals, verdicts
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.core import config, export, measures
from interplant.core.errors import InterplantError
from interplant.core.release import ONNX
from interplant.core.schema import Automation, Federation, Plant, Task
from interplant.data import events
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.data.windows import training_windows
from interplant.lab import stocked
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.stocked import Stock
from interplant.server.records import Run

if TYPE_CHECKING:
    import pandas as pd

PLANTS: Final = 4
MACHINES: Final = 24
"""Machines in each plant's history."""

SENSOR: Final = "s21"
"""The sensor that begins to drift: the coolant bleed of the low-pressure turbine."""

OFF: Final = 1.5
"""How far it reads off then, in half widths of its declared range."""

BEFORE: Final = (8, 8)
DRIFTING: Final = (24, 24, 24)
AFTER: Final = (24, 24)
"""Machines in each file that arrives, run to failure: enough to learn the drift, and to tell errors apart."""

FIRST_ROUNDS: Final = 16
_WORDS: Final = (
    "rounds=6",
    "training.steps=30",
    "training.batch=64",
    "split.holdout=0.3",
    "privacy.mechanism=none",
)
_LIMIT: Final = 400.0
_STRICT: Final = "plant-4"


class Teller(Protocol):
    """Hears how it gets on."""

    def stage(self, text: str) -> None:
        """Something new begins."""


@dataclass(frozen=True)
class Arrived:
    """A file that arrived, and how well the model that served then did on it.

    Args:
        file: Its number, from 1.
        offset: How far the sensor read off, in half widths of its range.
        release: What served.
        rmse: Its error on the file's machines, in cycles.
        rmse_first: That of the first release on the same machines.
    """

    file: int
    offset: float
    release: str
    rmse: float
    rmse_first: float


@dataclass(frozen=True)
class Tried:
    """What a plant's gate made of the new release: ``active`` or ``refused``, and its own sentence."""

    plant: str
    state: str
    sentence: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class LoopResult:
    """What the loop has shown.

    Args:
        plant: Where the sensor drifted.
        sensor: Which.
        arrived: The files, in order.
        alarm: The number of the file after which the alarm came.
        alarms: Sensors that the monitor has named.
        because: Why the coordinator started the run, in its own words.
        run: The run.
        first: The release that served before.
        release: The run's.
        tried: Each plant's verdict.
        seconds: From the file that raised the alarm to the new model serving at the plant.
    """

    plant: str
    sensor: str
    arrived: tuple[Arrived, ...]
    alarm: int
    alarms: tuple[str, ...]
    because: str
    run: str
    first: str
    release: str
    tried: tuple[Tried, ...]
    seconds: float


@dataclass
class _Feed:
    """Files that arrive at the plant whose sensor drifts."""

    plant: PlantDirectory
    task: Task
    seed: int
    known: int = MACHINES
    arrived: list[Arrived] = field(default_factory=list)

    def arrive(self, machines: int, offset: float) -> None:
        """Let the next file arrive, and measure what serves on it."""
        number = len(self.arrived) + 1
        readings = _file(self.task, self.seed, self.known, machines, offset)
        self.known += machines
        stocked.arrive(self.plant, readings, f"day-{number}.csv")
        serves = champion(self.plant)
        assert serves is not None, "a release serves before files arrive"
        first = self.arrived[0].release if self.arrived else serves.release
        errors = [
            _error(self.plant.releases / one / ONNX, readings, self.task) for one in (serves.release, first)
        ]
        self.arrived.append(Arrived(number, offset, serves.release, *errors))


def run_loop(path: Path, tell: Teller, seed: int = 0) -> LoopResult:
    """Run the loop in ``path``, which is empty or not there.

    Args:
        path: The federation's folder.
        tell: Hears how it gets on.
        seed: Of the simulated machines.

    Raises:
        InterplantError: Something did not come; the sentence says what, and where the logs are.
    """
    task = config.load(builtin("turbofan"), Task, _WORDS)
    with local_federation(path) as federation:
        tell.stage("the loop: four plants whose readings come from files, and no more commands")
        plants = _begin(federation, task, seed)
        feed = _Feed(plants[0], task, seed)
        serves = champion(plants[0])
        assert serves is not None, "the first release serves where the sensor will drift"
        first = serves.release
        for machines in BEFORE:
            feed.arrive(machines, 0.0)
        tell.stage(f"sensor {SENSOR} of {plants[0].path.name} begins to drift")
        _until_looked(federation, plants[0])
        began = datetime.now(UTC)
        for machines in DRIFTING:
            feed.arrive(machines, OFF)
            if _alarmed(federation, plants[0]):
                break
        alarm = len(feed.arrived)
        tell.stage("the alarm, the plant's proposal, a run that nobody has typed")
        release = _until_release(federation, first)
        tell.stage("each plant tries the release at its own gate")
        tried = _until_tried(federation, plants, release)
        seconds = (datetime.now(UTC) - began).total_seconds()
        for machines in AFTER:
            feed.arrive(machines, OFF)
        run = federation.registry.runs()[0]
        return LoopResult(
            plants[0].path.name,
            SENSOR,
            tuple(feed.arrived),
            alarm,
            tuple(sorted({one.sensor or "joint" for one in events.read(plants[0].drift_events)})),
            str(run.config.get("because", "")),
            run.id,
            first,
            release,
            tuple(tried),
            round(seconds, 1),
        )


def _begin(federation: LocalFederation, task: Task, seed: int) -> list[PlantDirectory]:
    """Start a coordinator and plants, and have a first release serve."""

    def follow(settings: Federation) -> None:
        settings.rounds.quorum = PLANTS
        own = Automation(
            task=task.name, overrides=list(_WORDS), on=["drift"], action="start", apart_hours=0.0
        )
        settings.automation = [own]

    def watch(plant: Plant) -> None:
        plant.data.drift.window = 50
        plant.automation.snapshots = plant.automation.watch = True
        plant.automation.rest_seconds = 0.5
        plant.automation.propose, plant.automation.tell = ["drift"], "declared"
        # Three plants leave room for what helps another; one takes only what is surely no worse for itself.
        plant.policy.release.margin = 0.0 if plant.name == _STRICT else 0.25

    federation.create("loop", follow)
    federation.start_coordinator()
    names = [f"plant-{number + 1}" for number in range(PLANTS)]
    for number, name in enumerate(names):
        stock = Stock(name, simulate(number, MACHINES, seed).train, simulated=True)
        stocked.join(federation, stock, task, 1.0, watch)
        federation.start_plant(name)
    federation.until_online(names)
    run = federation.until_over(federation.start_run(replace(task, rounds=FIRST_ROUNDS)).id, _LIMIT)
    plants = [federation.plant(name) for name in names]
    release = _release_of(federation, run.id)
    for one in _until_tried(federation, plants, release):
        # Another plant may refuse its first release too; it then has none, and tries the next.
        if one.plant == names[0] and one.state == verdicts.REFUSED:
            raise InterplantError(f"{one.plant} refuses the first release: {one.sentence}; try another seed")
    return plants


def _file(task: Task, seed: int, known: int, machines: int, offset: float) -> "pd.DataFrame":
    """Machines of the first plant that come after those known, with a sensor that may read off."""
    made = simulate(0, known + machines, seed).train
    readings = made[made[task.contract.machine] > known].reset_index(drop=True)
    low, high = task.contract.conditions[0].ranges[SENSOR]
    return readings.assign(**{SENSOR: readings[SENSOR] + offset * (high - low) / 2})


def _error(onnx: Path, readings: "pd.DataFrame", task: Task) -> float:
    """RMSE in cycles of a model on machines whose end is known."""
    windows = training_windows(readings, task)
    predicted = export.predict_onnx(onnx, windows.x[:], outputs=task.target.outputs)
    return round(float(measures.error(task.target, measures.Predicted(predicted, windows.y))), 2)


def _until_looked(federation: LocalFederation, plant: PlantDirectory) -> None:
    federation.until(
        lambda: len(plant.repository().log()) > 1 and monitor.readings(plant) == 0,
        _LIMIT,
        "the monitor to have looked",
    )


def _alarmed(federation: LocalFederation, plant: PlantDirectory) -> bool:
    """Wait until the monitor has looked at what arrived; return whether it has raised an alarm."""
    before = len(plant.repository().log())
    federation.until(
        lambda: len(plant.repository().log()) > before and not monitor.readings(plant),
        _LIMIT,
        "the monitor to have looked",
    )
    return any(one["what"] == "proposal" and one["reason"] == "drift" for one in proposals.noted(plant))


def _until_release(federation: LocalFederation, first: str) -> str:
    run: list[Run] = []

    def started() -> bool:
        run[:] = [one for one in federation.registry.runs() if one.config.get("start_from") == first]
        return bool(run)

    federation.until(started, _LIMIT, "a run to start by itself")
    federation.until_over(run[0].id, _LIMIT)
    return _release_of(federation, run[0].id)


def _release_of(federation: LocalFederation, run: str) -> str:
    for one in federation.registry.releases():
        if one.run == run:
            return one.id
    raise InterplantError(f"run {run} has no release: {federation.registry.run(run).reason}")


def _until_tried(federation: LocalFederation, plants: Sequence[PlantDirectory], release: str) -> list[Tried]:
    federation.until(
        lambda: all(verdicts.verdict_of(one, release) for one in plants), _LIMIT, "every plant's verdict"
    )
    return [_tried(plant, release) for plant in plants]


def _tried(plant: PlantDirectory, release: str) -> Tried:
    verdict = verdicts.verdict_of(plant, release)
    assert verdict is not None
    before, after = verdict.figures.get("rmse_champion"), verdict.figures.get("rmse")
    return Tried(plant.path.name, verdict.state, verdict.sentence, _finite(before), _finite(after))


def _finite(value: float | None) -> float | None:
    return round(float(value), 2) if value is not None and np.isfinite(value) else None
