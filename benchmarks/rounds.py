"""What a round costs beyond its training: real processes, mutual TLS, loopback.

Overhead of a round is its wall time at the coordinator minus the slowest plant's own training time in
it, as that plant measured it. Seconds depend on the machine; the median over the rounds is reported.
``cpu_s`` is the processor time of all processes in a round, training too. ``--bare`` adds what the same
bytes take over a bare gRPC stream, in the same run; see `bare`.

    python benchmarks/rounds.py --json [--plants 4] [--rounds 20]
    python benchmarks/rounds.py --json --hidden 48000 --batch 8 --steps 1 --bare    # 50 MB a plant
"""

import argparse
import json
import platform
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare
import psutil

from interplant.core import config, models
from interplant.core.schema import Plant, Task
from interplant.data.simulator import simulate
from interplant.data.snapshots import Repository
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server.records import Run
from interplant.server.run_folder import RunFolder

_WARM = 2
"""The first rounds load the data and warm the machine up: they do not count."""


@dataclass(frozen=True)
class Case:
    """What is measured; ``hidden`` sets the size of the model's linear layer, 0 leaves it."""

    plants: int
    rounds: int
    steps: int
    batch: int = 0
    hidden: int = 0

    @property
    def task(self) -> Task:
        """The task, without privacy."""
        words = [f"rounds={self.rounds + _WARM}", f"training.steps={self.steps}", "privacy.mechanism=none"]
        words += [f"training.batch={self.batch}"] if self.batch else []
        words += [f"model.args={{hidden: {self.hidden}}}"] if self.hidden else []
        return config.load(builtin("turbofan"), Task, words)


@dataclass
class Clock:
    """Processor seconds of a federation's processes, from the first round that counts."""

    federation: LocalFederation
    begun: tuple[int, float] = (0, 0.0)

    def look(self, run: Run) -> None:
        """Begin when the warm rounds are over."""
        if not self.begun[0] and run.round >= _WARM:
            self.begun = (run.round, self._spent())

    def per_round(self, rounds: int) -> float:
        """Processor seconds of one round, when ``rounds`` of them are over."""
        return (self._spent() - self.begun[1]) / max(1, rounds - self.begun[0])

    def _spent(self) -> float:
        spent = 0.0
        for child in self.federation.children.values():
            parent = psutil.Process(child.pid)
            for process in [parent, *parent.children(recursive=True)]:
                times = process.cpu_times()
                spent += times.user + times.system
        return spent


def offer_everything(plant: Plant) -> None:
    """Let a benchmark's plant take part without privacy: its data is simulated."""
    plant.policy.tasks = ["turbofan"]
    plant.policy.privacy.allow_none = True


def overheads(federation: LocalFederation, run: str, plants: list[str]) -> list[float]:
    """Seconds of each round beyond its slowest plant's training."""
    records = RunFolder(federation.coordinator.runs / run).records()
    trained: dict[int, float] = {}
    for name in plants:
        for line in federation.plant(name).rounds.read_text().splitlines():
            entry = json.loads(line)
            if entry["run"] == run:
                number = entry["round"]
                trained[number] = max(trained.get(number, 0.0), entry["seconds"])
    return [record["seconds"] - trained[record["round"]] for record in records if record["settled"]]


def measure(case: Case) -> dict[str, Any]:
    """Run a federation and return one row of results."""
    names = [f"plant-{number + 1}" for number in range(case.plants)]
    task = case.task
    with tempfile.TemporaryDirectory() as scratch, local_federation(Path(scratch)) as federation:
        federation.create("bench")
        federation.start_coordinator()
        for number, name in enumerate(names):
            plant = federation.join(name, offer_everything)
            Repository(plant.data).snapshot(simulate(number, 6, seed=0))
            federation.start_plant(name)
        federation.until_online(names)
        run, clock = federation.start_run(task, release=False), Clock(federation)
        federation.until_over(run.id, 600, clock.look)
        processor = clock.per_round(task.rounds)
        seconds = overheads(federation, run.id, names)[_WARM:]
        memory = federation.memory_mb()
    return {
        "case": "grpc",
        "plants": case.plants,
        "parameters": sum(value.size for value in models.parameters(models.build(task)).values()),
        "rounds": len(seconds),
        "overhead_per_round_s": round(statistics.median(seconds), 4),
        "overhead_worst_s": round(max(seconds), 4),
        "cpu_s": round(processor, 3),
        "peak_pss_mb": round(memory),
    }


def compared(row: dict[str, Any]) -> dict[str, Any]:
    """Add what the same bytes take over a bare stream to a row."""
    with tempfile.TemporaryDirectory() as scratch:
        floor = bare.seconds(row["plants"], 4 * row["parameters"], Path(scratch))
    times = row["overhead_per_round_s"] / floor
    return row | {"bare_stream_s": round(floor, 4), "times_bare": round(times, 2)}


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=int, default=4)
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--steps", type=int, default=5)
    words.add_argument("--batch", type=int, default=0, help="windows in a step; 0: the task's own")
    words.add_argument("--hidden", type=int, default=0, help="units of the model's linear layer; 0: its own")
    words.add_argument("--bare", action="store_true", help="compare with a bare stream of the same bytes")
    given = words.parse_args()
    row = measure(Case(given.plants, given.rounds, given.steps, given.batch, given.hidden))
    results = [compared(row) if given.bare else row]
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
