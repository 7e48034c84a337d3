"""What a round costs beyond its training: real processes, mutual TLS, loopback.

Overhead of a round is its wall time at the coordinator minus the slowest plant's own training time in
it, as that plant measured it. Seconds depend on the machine; the median over the rounds is reported.
``cpu_s`` is the processor time of all processes in a round, training too, ``coordinator_cpu_s`` the
coordinator's; ``bytes_up`` and ``bytes_down``
are a plant's in a round. Memory is PSS; ``coordinator_anonymous_mb`` leaves out mapped files.

    python benchmarks/rounds.py --json                                           # 4 plants
    python benchmarks/rounds.py --json --plants 10
    python benchmarks/rounds.py --json --light --plants 64                       # see `light`
    python benchmarks/rounds.py --json --hidden 48000 --batch 8 --steps 1 --bare # 50 MB a plant, see `bare`
    python benchmarks/rounds.py --json --private                                 # without and with privacy
    python benchmarks/rounds.py --json --flower                                  # stock Flower, see `stock`
    python benchmarks/rounds.py --json --light --plants 4,64 --hidden 48000 --rounds 3    # memory
"""

import argparse
import itertools
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bare
import rig
import stock
from rig import Case

from interplant.core import models

Row = dict[str, Any]


def rows(case: Case, private: bool) -> Iterator[Row]:
    """Measure one federation: without privacy, and then the same processes with it."""
    with rig.started(case) as federation:
        open_ = rig.row(federation, case, "grpc, light" if case.light else "grpc")
        yield open_
        if private:
            row = rig.row(federation, case, "grpc, private", "dp-sgd")
            added = {
                name: round((row[key] - open_[key]) / case.plants, 4)
                for name, key in (("added_a_plant_s", "overhead_per_round_s"), ("added_all_s", "seconds"))
            }
            yield row | added


def beside_wire(row: Row) -> Row:
    """Add what the same bytes take over a bare stream to a row."""
    with tempfile.TemporaryDirectory() as scratch:
        floor = bare.seconds(row["plants"], 4 * row["parameters"], Path(scratch))
    return row | {
        "bare_stream_s": round(floor, 4),
        "ratio_to_wire": round(row["overhead_per_round_s"] / floor, 2),
    }


def beside_flower(row: Row, case: Case, rounds: int) -> Iterator[Row]:
    """Add how many times as long a round takes on Flower's own engine, and what was measured there."""
    theirs = stock.row(models.parameters(models.build(case.task())), case.plants, rounds)
    yield row | {"ratio_to_flower": round(theirs["overhead_per_round_s"] / row["overhead_per_round_s"], 1)}
    yield theirs


def main() -> None:
    """Print the results."""
    given = _given()
    results: list[Row] = []
    for plants, hidden in itertools.product(given.plants, given.hidden):
        case = replace(given.case, plants=plants, hidden=hidden)
        found = list(rows(case, given.private))
        if given.bare:
            found[0] = beside_wire(found[0])
        if given.flower:
            found[:1] = beside_flower(found[0], case, given.flower_rounds)
        results += found
    print(json.dumps({"machine": platform.platform(), "results": results}, indent=2))


def _given() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--plants", type=_numbers, default=[4], help="how many; several are measured in turn")
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--steps", type=int, default=5)
    words.add_argument("--batch", type=int, default=0, help="windows in a step; 0: the task's own")
    words.add_argument("--hidden", type=_numbers, default=[0], help="units of the linear layer; 0: its own")
    words.add_argument("--light", action="store_true", help="plants that do all but train, in one process")
    words.add_argument("--bare", action="store_true", help="compare with a bare stream of the same bytes")
    words.add_argument("--private", action="store_true", help="add the same with the task's own privacy")
    words.add_argument("--flower", action="store_true", help="compare with Flower's own engine")
    words.add_argument("--flower-rounds", type=int, default=5, help="how many there: each takes seconds")
    given = words.parse_args()
    if given.light and given.private:
        words.error("--light: such plants spend no privacy; leave --private out")
    given.case = Case(0, given.rounds, given.steps, given.batch, light=given.light)
    return given


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
