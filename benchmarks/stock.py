"""Flower's own engine with nothing to do: SuperLink, SuperNodes, FedAvg, plants that send back what came.

Flower's processes import this module by name; see `row`.
"""

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes, to_bytes
from interplant.lab.flower_engine import run_on_flower

_LIMIT = 600.0
_WEIGHTS, _TIMES = "weights.safetensors", "times"

server_app = ServerApp()
client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Send the arrays back."""
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run rounds, and note the time before the first and after each."""
    folder, words = Path(str(context.run_config["folder"])), context.run_config

    def note(number: int, arrays: ArrayRecord) -> None:
        with (folder / _TIMES).open("a") as file:
            file.write(f"{time.monotonic()}\n")

    weights = from_bytes((folder / _WEIGHTS).read_bytes())
    start = ArrayRecord({name: Array(array) for name, array in weights.items()})
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=int(str(words["plants"])))
    strategy.start(grid, start, num_rounds=int(str(words["rounds"])), evaluate_fn=note)


def row(weights: Tensors, plants: int, rounds: int) -> dict[str, Any]:
    """Measure rounds of stock Flower on this machine, with TLS, from the weights there to all back again.

    Args:
        weights: What is sent both ways.
        plants: How many SuperNodes.
        rounds: How many; the first one counts too, as nothing of it is kept for the next.
    """
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / _WEIGHTS).write_bytes(to_bytes(weights))
        done = run_on_flower(
            folder / "logs",
            "stock:server_app",
            "stock:client_app",
            {f"plant-{number + 1}": {"number": number} for number in range(plants)},
            {"folder": scratch, "plants": plants, "rounds": rounds},
            timeout=_LIMIT,
        )
        if done.status != "completed":
            raise SystemExit(f"the run on Flower is {done.status}: {done.details}; {done.log[-500:]}")
        times = [float(line) for line in (folder / _TIMES).read_text().split()]
    seconds = [after - before for before, after in itertools.pairwise(times)]
    middle = round(statistics.median(seconds), 4)
    return {
        "case": "flower, stock",
        "plants": plants,
        "parameters": sum(value.size for value in weights.values()),
        "rounds": len(seconds),
        "seconds": middle,
        "overhead_per_round_s": middle,
        "overhead_worst_s": round(max(seconds), 4),
    }
