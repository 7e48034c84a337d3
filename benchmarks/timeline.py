"""Where the time of a loop went, by what its processes have left on record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from meters import tree

from interplant.client.directory import PlantDirectory
from interplant.data.snapshots import RECORD
from interplant.lab.federation import LocalFederation
from interplant.lab.summary import slowest
from interplant.server.run_folder import RunFolder

TRAINER = "interplant.client.worker"

TRAINING = (
    "training is what the slowest plant of each round took: opening its snapshot, cutting windows, the "
    "steps, ledger and receipt; `in_steps` is the steps alone. All else is outside: the file's rest, the "
    "look, the snapshot, the proposal, the decision, the start, the way there and back, the merge, the "
    "package, the gates, the activation"
)
"""What counts."""


@dataclass(frozen=True)
class Moments:
    """Seconds from the file on.

    Args:
        steps: What had been done, and when, in order.
        training: Seconds of the slowest plant, over all rounds.
        in_steps: The same, from each round's first step on.
    """

    steps: list[tuple[str, float]]
    training: float
    in_steps: float

    def taken(self) -> list[dict[str, Any]]:
        """Return how long each step took, and when it was done."""
        before, found = 0.0, []
        for name, until in self.steps:
            found.append({"step": name, "seconds": round(until - before, 2), "until": round(until, 2)})
            before = until
        return found


def moments(made: LocalFederation, plants: Sequence[PlantDirectory], run: str, clock: float) -> Moments:
    """Read when what was done.

    Args:
        made: The federation.
        plants: Its plants; the file came to the first.
        run: The run that followed.
        clock: When the file came, as `time.time`.
    """
    trained = [[one for one in _lines(plant) if one["run"] == run] for plant in plants]
    every = [one for own in trained for one in own]
    told = {one.kind: one.time.timestamp() for one in reversed(made.registry.events())}
    proposal = max(at for kind, at in told.items() if kind.startswith("proposal."))
    rounds = RunFolder(made.coordinator.runs / run).records()
    serving = sorted(plant.champion.stat().st_mtime for plant in plants)
    found = [
        ("the file rests, the plant looks, its snapshot is made", _changed(plants[0], RECORD)),
        ("the proposal is heard", proposal),
        ("a run is decided on and queued", told["run.queued"]),
        ("the first plant trains", min(one["finished"] - one["seconds"] for one in every)),
        ("the last round is merged", rounds[-1]["finished"]),
        ("the release is packaged and signed", told["release.candidate"]),
        ("it serves at the first plant", serving[0]),
        ("it serves at the last plant", serving[-1]),
    ]
    stepped = [[one | {"seconds": one["finished"] - one["first_step"]} for one in own] for own in trained]
    return Moments(
        [(name, at - clock) for name, at in found],
        sum(slowest(trained).values()),
        sum(slowest(stepped).values()),
    )


@dataclass
class Spent:
    """Processor seconds of a federation's processes, those that have ended among them.

    Args:
        made: The federation.
    """

    made: LocalFederation

    def __post_init__(self) -> None:
        self._before = self._read()

    def since(self) -> tuple[float, float]:
        """Return what all have taken since this was made, and the trainers of that."""
        now = self._read()
        return now[0] - self._before[0], now[1] - self._before[1]

    def _read(self) -> tuple[float, float]:
        every = trainers = 0.0
        for process in tree(child.pid for child in self.made.children.values()):
            try:
                times, command = process.cpu_times(), process.cmdline()
            except psutil.NoSuchProcess:
                continue
            own = times.user + times.system
            every += own + times.children_user + times.children_system
            trainers += own if TRAINER in command else 0.0
        return every, trainers


def _lines(plant: PlantDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in plant.rounds.read_text().splitlines()]


def _changed(plant: PlantDirectory, name: str) -> float:
    return (plant.data / name).stat().st_mtime
