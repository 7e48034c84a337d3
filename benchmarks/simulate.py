"""What a virtual plant costs a round, and beside it Flower's own simulation.

Plants that stand still do everything but train: their update is zero. The round loop then has as much to do
as they have, and keeps one of the cores for itself. With ``--flower PYTHON``, whose environment has
``flwr[simulation]``, as many of Flower's virtual clients return zeros of the same size from its Ray backend;
both are then taken from the start of a command to its end.

    python benchmarks/simulate.py --json [--plants 1000] [--rounds 5] [--flower PYTHON] [--short]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from still import still

from interplant.client.trained import Trained
from interplant.core import config
from interplant.core.schema import Task
from interplant.core.tensors import Tensors
from interplant.core.wire import to_bytes
from interplant.data.tasks import builtin
from interplant.lab.simulate import Fleet, Simulated, simulate_fleet
from interplant.lab.virtual import VirtualTrainer
from interplant.privacy.ledger import Ledger

PROCESSES = max(1, (os.cpu_count() or 1) - 1)
"""That share the plants: what does not train leaves the round loop a core."""

PAIR = 100, 20
"""Plants and rounds of the comparison with Flower."""

SHAPES = [(32, 17, 5), (32,), (32,), (32,), (32, 32, 5), (32,), (32,), (32,), (64, 256), (64,), (1, 64), (1,)]
"""Of the arrays of the built-in model: 24 545 parameters."""

FLOWER = """
import sys
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

plants, rounds, size = map(int, sys.argv[1:])
client, server = ClientApp(), ServerApp()

@client.train()
def train(message, context):
    arrays = message.content["arrays"]
    zeros = ArrayRecord({name: Array(np.zeros_like(array.numpy())) for name, array in arrays.items()})
    content = RecordDict({"arrays": zeros, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)

@server.main()
def main(grid, context):
    start = ArrayRecord({"weights": Array(np.zeros(size, np.float32))})
    FedAvg(fraction_evaluate=0.0, min_available_nodes=plants).start(grid, start, num_rounds=rounds)

run_simulation(server, client, plants, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
"""


class Still(VirtualTrainer):
    """A plant that answers with zeros: all but the training is done, and torch is not needed."""

    @classmethod
    def load(cls, threads: int) -> None:
        """Load nothing."""

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Return an update of zeros with a signed receipt."""
        bench = self._kept.bench(self._plant.path)
        bench.ledger = bench.ledger or Ledger(self._plant.ledger)
        trained = still(self._plant, bench.ledger, run, number, task, weights)
        self._kept.settle(self._plant.path)
        return trained


def task(rounds: int) -> Task:
    words = [f"rounds={rounds}", "privacy.mechanism=none"]
    return config.load(builtin("turbofan"), Task, words)


def stand_still(plants: int, rounds: int) -> Simulated:
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        start.write_bytes(
            to_bytes({str(number): np.zeros(shape, np.float32) for number, shape in enumerate(SHAPES)})
        )
        fleet = Fleet(plants, machines=1, processes=PROCESSES)
        made, _ = simulate_fleet(fleet, task(rounds), trainer=Still, start_from=start, tested=0)
        return made


def ours(plants: int, rounds: int) -> float:
    """Seconds of a command of its own, from start to end."""
    return _seconds([sys.executable, __file__, "--once", f"{plants},{rounds}"])


def flower(python: str, plants: int, rounds: int, size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "simulation.py"
        script.write_text(FLOWER)
        return _seconds([python, str(script), *map(str, (plants, rounds, size))])


def _seconds(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def result(case: str, value: float, unit: str, bar: float | None, **more: Any) -> dict[str, Any]:
    """One row; a time below its bar holds, a ratio above it."""
    holds = None if bar is None else value >= bar if unit == "times" else value <= bar
    return {"case": case, "value": round(value, 3), "unit": unit, "bar": bar, "holds": holds, **more}


def compare(python: str, size: int) -> list[dict[str, Any]]:
    plants, rounds = PAIR
    own, theirs = ours(plants, rounds), flower(python, plants, rounds, size)
    what = f"{plants} plants x {rounds} rounds, command to end"
    return [
        result(f"{what}", own, "s", None),
        result(f"{what}, Flower on Ray", theirs, "s", None),
        result(f"{what}: Flower / ours", theirs / own, "times", 3.0),
    ]


def main() -> None:
    """Measure, and print the results."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=int, default=1000)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--flower", help="an interpreter with flwr[simulation]")
    words.add_argument("--short", action="store_true", help="smoke: few plants")
    words.add_argument("--once", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.once:
        stand_still(*map(int, given.once.split(",")))
        return
    plants, rounds = (8, 2) if given.short else (given.plants, given.rounds)
    made = stand_still(plants, rounds)
    about = {"plants": plants, "processes": made.processes, "parameters": made.parameters}
    rest = [record["seconds"] for record in made.rounds[1:]]
    results = [
        result("no training, ms a plant and round", made.ms_per_plant_round, "ms", 1.0, **about),
        result("the same without the first round", 1e3 * sum(rest) / len(rest) / plants, "ms", 1.0, **about),
    ]
    if given.flower:
        results += compare(given.flower, made.parameters)
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
