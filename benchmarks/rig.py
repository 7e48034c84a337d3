"""A federation to measure rounds on: a coordinator and plants as processes, mutual TLS, loopback only.

The first rounds of a run warm the machine up, the next ones count; in the last ones memory is looked at,
which takes time of its own.
"""

import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import light
from meters import Meter, Peak, memory

from interplant.core import config, models
from interplant.core.schema import Task
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.prepared import offer_readings
from interplant.server.records import Run
from interplant.server.run_folder import RunFolder

WARM, WATCHED = 2, 3
"""Rounds before those that count, and after them."""

_MACHINES = 6
_LIMIT = 900.0
"""Seconds that a run may take."""

_EPSILON = 1000.0
"""Budget of a plant: it shall not end a benchmark."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        plants: How many.
        rounds: That count.
        steps: Of training in a round.
        batch: Windows in a step; 0: the task's own.
        hidden: Units of the model's linear layer; 0: its own.
        light: Whether the plants are those of `light`.
    """

    plants: int = 4
    rounds: int = 20
    steps: int = 5
    batch: int = 0
    hidden: int = 0
    light: bool = False

    def task(self, mechanism: str = "none") -> Task:
        """The built-in task."""
        words = [f"rounds={WARM + self.rounds + WATCHED}", f"training.steps={self.steps}"]
        words += [f"privacy.mechanism={mechanism}"]
        words += [f"training.batch={self.batch}"] if self.batch else []
        words += [f"model.args={{hidden: {self.hidden}}}"] if self.hidden else []
        return config.load(builtin("turbofan"), Task, words)

    @property
    def names(self) -> list[str]:
        """The plants'."""
        return [f"plant-{number + 1}" for number in range(self.plants)]


@dataclass
class Watch:
    """Looks at a run while it goes on.

    Args:
        federation: Whose run it is.
        rounds: How many rounds count.
        used: Once they are over, a round's processor seconds of all and of the coordinator, and bytes.
    """

    federation: LocalFederation
    rounds: int
    used: tuple[float, float, int, int] = (0.0, 0.0, 0, 0)
    _meters: tuple[Meter, ...] = ()
    _from: int = 0
    coordinator: Peak = field(init=False)
    together: Peak = field(init=False)

    def __post_init__(self) -> None:
        self.coordinator = Peak(lambda: memory(self._own()))
        self.together = Peak(lambda: memory(self._all()))

    def look(self, run: Run) -> None:
        """Called again and again."""
        if not self._meters and run.round >= WARM:
            port = int(self.federation.coordinator.load().listen.rpartition(":")[2])
            self._meters, self._from = (Meter(self._all(), port), Meter(self._own())), run.round
        elif self._meters and not self.used[0] and run.round >= WARM + self.rounds:
            (cpu, came, went), (own, _, _) = (meter.read() for meter in self._meters)
            rounds = run.round - self._from
            self.used = cpu / rounds, own / rounds, came // rounds, went // rounds
        elif self.used[0]:
            self.coordinator.look()
            self.together.look()

    def _all(self) -> list[int]:
        return [child.pid for child in self.federation.children.values()]

    def _own(self) -> list[int]:
        return [self.federation.children["coordinator"].pid]


@contextmanager
def started(case: Case) -> Iterator[LocalFederation]:
    """Run a federation whose plants are connected; all of it is gone at the end, also after a polite kill."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory() as scratch, local_federation(Path(scratch)) as federation:
        federation.create("bench")
        federation.start_coordinator()
        if case.light:
            light.join(federation, case.names)
            for name in case.names:
                federation.edit(name, offer_readings(simulate(0, 1, 0), case.task(), _EPSILON))
            light.start(federation, case.names)
        else:
            for number, name in enumerate(case.names):
                _start_plant(federation, name, simulate(number, _MACHINES, 0), case.task())
        federation.until_online(case.names, 120)
        yield federation


def row(federation: LocalFederation, case: Case, name: str, mechanism: str = "none") -> dict[str, Any]:
    """Carry out a run and say what its rounds took: seconds, bytes a round and plant, MB."""
    task, watch = case.task(mechanism), Watch(federation, case.rounds)
    run = federation.start_run(task, release=False)
    ended = federation.until_over(run.id, _LIMIT, watch.look)
    if ended.state != "finished":
        raise SystemExit(f"run {run.id} is {ended.state}: {ended.reason}")
    counted = slice(WARM, WARM + case.rounds)
    seconds, trained = _seconds(federation, run.id, case.names)
    beyond = [whole - own for whole, own in zip(seconds, trained, strict=True)][counted]
    cpu, own, came, went = watch.used
    return {
        "case": name,
        "plants": case.plants,
        "parameters": sum(value.size for value in models.parameters(models.build(task)).values()),
        "rounds": len(beyond),
        "seconds": round(statistics.median(seconds[counted]), 4),
        "overhead_per_round_s": round(statistics.median(beyond), 4),
        "overhead_worst_s": round(max(beyond), 4),
        "cpu_s": round(cpu, 3),
        "coordinator_cpu_s": round(own, 4),
        "peak_pss_mb": round(watch.together.pss),
        "coordinator_pss_mb": round(watch.coordinator.pss),
        "coordinator_anonymous_mb": round(watch.coordinator.anonymous),
        "bytes_up": came // case.plants,
        "bytes_down": went // case.plants,
    }


def _seconds(federation: LocalFederation, run: str, plants: list[str]) -> tuple[list[float], list[float]]:
    """Of each round: its seconds at the coordinator, and its slowest plant's training as the plant says."""
    trained: dict[int, float] = {}
    for name in plants:
        path = federation.plant(name).rounds
        for line in path.read_text().splitlines() if path.exists() else []:
            entry = json.loads(line)
            if entry["run"] == run:
                trained[entry["round"]] = max(trained.get(entry["round"], 0.0), entry["seconds"])
    records = [one for one in RunFolder(federation.coordinator.runs / run).records() if one["settled"]]
    return [one["seconds"] for one in records], [trained.get(one["round"], 0.0) for one in records]


def _start_plant(federation: LocalFederation, name: str, readings: Dataset, task: Task) -> None:
    plant = federation.join(name, offer_readings(readings, task, _EPSILON))
    Repository(plant.data).snapshot(readings)
    federation.start_plant(name)
