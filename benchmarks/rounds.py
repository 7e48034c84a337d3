"""What a round costs beyond its training: real processes, mutual TLS, loopback.

Overhead of a round is its wall time at the coordinator minus the slowest plant's own training time in
it, as that plant measured it. Seconds depend on the machine; the median over the rounds is reported.

    python benchmarks/rounds.py --json [--plants 4] [--rounds 20]
"""

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from interplant.core import config, models
from interplant.core.schema import Plant, Task
from interplant.data.simulator import simulate
from interplant.data.snapshots import Repository
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server.run_folder import RunFolder


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


def measure(plants: int, rounds: int, steps: int) -> dict[str, Any]:
    """Run a federation and return one row of results."""
    names = [f"plant-{number + 1}" for number in range(plants)]
    words = [f"rounds={rounds + 2}", f"training.steps={steps}", "privacy.mechanism=none"]
    task = config.load(builtin("turbofan"), Task, words)
    with tempfile.TemporaryDirectory() as scratch, local_federation(Path(scratch)) as federation:
        federation.create("bench")
        federation.start_coordinator()
        for number, name in enumerate(names):
            plant = federation.join(name, offer_everything)
            Repository(plant.data).snapshot(simulate(number, 6, seed=0))
            federation.start_plant(name)
        federation.until_online(names)
        run = federation.start_run(task, release=False)
        federation.until_over(run.id, 600)
        # The first two rounds load the data and warm the machine up.
        seconds = overheads(federation, run.id, names)[2:]
        memory = federation.memory_mb()
    return {
        "case": "grpc",
        "plants": plants,
        "parameters": sum(value.size for value in models.parameters(models.build(task)).values()),
        "rounds": len(seconds),
        "overhead_per_round_s": round(statistics.median(seconds), 4),
        "overhead_worst_s": round(max(seconds), 4),
        "peak_pss_mb": round(memory),
    }


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=int, default=4)
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--steps", type=int, default=5)
    given = words.parse_args()
    results = [measure(given.plants, given.rounds, given.steps)]
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
