"""The loop that closes by itself: a new file at one of four plants, and what follows without a command.

A federation learns a task and serves its first release. Then a file arrives at one plant: its source brings
it in, the monitor makes a snapshot and proposes a retraining, the coordinator starts a run from what serves,
and each plant tries the release. The clock runs from the file to the last plant's new model. `timeline` says
what counts as training, and where the time went.

    python benchmarks/loop.py --json [--only simulated|gas_turbine|push|swaps] [--data DIR]

``push`` is the release alone, to 100 plants that watch: see `push`. ``swaps`` is promotion and rollback under
load: see `swaps`.

``--data`` is the folder with the gas turbine's file (`interplant data fetch gas_turbine`). Each day of a year
is a record of its own there, and of these some are held out: a year's end alone would tell of the turbine's
drift, and not of a model.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from push import push
from swaps import measure as swaps
from timeline import TRAINING, Spent, moments

from interplant.client import verdicts
from interplant.core import config
from interplant.core.schema import Automation, Federation, Plant, Task
from interplant.data import gas_turbine
from interplant.data.archives import contents
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab import stocked
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.stocked import Stock

if TYPE_CHECKING:
    import pandas as pd

BAR = 20.0
"""Seconds that may pass outside training."""

FIRST = 1
"""Rounds of the first release: one that learns little, so that the next has something to be better at."""

REST = 1.0
"""Seconds for which no more readings have to come before a plant looks at them."""

DAY = 24
"""Hours of a record of the gas turbine."""

_LIMIT = 300.0
_EXAMPLE = Path(__file__).parent.parent / "examples" / "gas_turbine" / "task.yaml"
_TASK_FILE = "task.yaml"
_RULES = ["privacy.mechanism=none"]


@dataclass(frozen=True)
class Case:
    """A loop.

    Args:
        name: Of the data.
        task: What is learned.
        stocks: The plants.
        late: What arrives at the first of them later.
        margin: Of the plants' gates.
    """

    name: str
    task: Task
    stocks: list[Stock]
    late: "pd.DataFrame"
    margin: float = 0.05


def simulated() -> Case:
    """Four plants of simulated turbofans; at the first, eight more machines have run to failure."""
    words = ["rounds=8", "training.steps=30", "split.holdout=0.3", *_RULES]
    task = config.load(builtin("turbofan"), Task, words)
    stocks = [Stock(f"plant-{n + 1}", simulate(n, 30, 0).train, simulated=True) for n in range(4)]
    late = stocked.machines(simulate(0, 8, 1).train, task, 31)
    return Case("simulated", task, stocks, late)


def turbine(data: Path) -> Case:
    """Four years of a gas turbine are four plants; the end of the first year arrives later.

    The turbine changes from year to year, so that what helps one may cost another a little: their gates leave
    room for that.
    """
    task = config.load(_EXAMPLE, Task, ["rounds=5", "training.steps=60", *_RULES])
    frames = {}
    for name, dataset in gas_turbine.plants(contents(data, gas_turbine.ARCHIVE)):
        import pandas as pd

        year = pd.concat([dataset.train, dataset.holdout], ignore_index=True)
        frames[Path(name).name] = year.assign(year=1000 * year["year"] + year["hour"] // DAY)
    names = sorted(frames)[:4]
    first = frames[names[0]]
    cut = round(0.8 * len(first))
    own = {names[0]: first.iloc[:cut]} | {name: frames[name] for name in names[1:]}
    stocks = [Stock(name, own[name], simulated=False) for name in names]
    return Case("gas_turbine", task, stocks, first.iloc[cut:].reset_index(drop=True), margin=0.25)


@contextmanager
def begun(case: Case) -> Iterator[LocalFederation]:
    """A federation of the case, in which every plant serves the first release."""

    def follow(federation: Federation) -> None:
        federation.rounds.quorum = len(case.stocks)
        federation.automation = [Automation(task=_TASK_FILE, action="start", apart_hours=0.0)]

    def watch(plant: Plant) -> None:
        plant.automation.snapshots = True
        plant.automation.rest_seconds = REST
        plant.automation.propose = ["new_data"]
        plant.automation.tell = "declared"
        plant.policy.release.margin = case.margin

    with tempfile.TemporaryDirectory(prefix="interplant-") as folder, local_federation(Path(folder)) as made:
        made.create("loop", follow)
        (made.coordinator.path / _TASK_FILE).write_text(config.to_yaml(case.task), encoding="utf-8")
        made.start_coordinator()
        for stock in case.stocks:
            stocked.join(made, stock, case.task, 1000.0, watch)
            made.start_plant(stock.name)
        made.until_online([stock.name for stock in case.stocks])
        first = replace(case.task, rounds=FIRST)
        run = made.until_over(made.start_run(first).id, _LIMIT)
        _until_serving(made, case, _release_of(made, run.id))
        yield made


def loop(case: Case) -> list[dict[str, Any]]:
    """Let a file arrive, and time what follows."""
    with begun(case) as made:
        plant = made.plant(case.stocks[0].name)
        before = {one.id for one in made.registry.runs()}
        spent, load, clock = Spent(made), os.getloadavg()[0], time.time()
        stocked.arrive(plant, case.late, "late.csv")

        def started() -> bool:
            return any(one.id not in before for one in made.registry.runs())

        made.until(started, _LIMIT, "a run to start by itself")
        (run,) = [one for one in made.registry.runs() if one.id not in before]
        made.until_over(run.id, _LIMIT)
        _until_serving(made, case, _release_of(made, run.id))
        total, (every, trainers) = time.time() - clock, spent.since()
        found = moments(made, [made.plant(stock.name) for stock in case.stocks], run.id, clock)
    outside = round(total - found.training, 2)
    return [
        {
            "case": f"new file to active at {len(case.stocks)} plants, {case.name}: outside training",
            "value": outside,
            "unit": "s",
            "bar": BAR,
            "holds": outside <= BAR,
            "total": round(total, 2),
            "training": round(found.training, 2),
            "in_steps": round(found.in_steps, 2),
            "what_counts": TRAINING,
            "steps": found.taken(),
            "processor_seconds": {"all": round(every, 1), "trainers": round(trainers, 1)},
            "load_before": round(load, 2),
            "settings": {
                "settle_seconds": stocked.SETTLES,
                "rest_seconds": REST,
                "margin": case.margin,
                "rounds": case.task.rounds,
                "steps": case.task.training.steps,
            },
        }
    ]


def _release_of(made: LocalFederation, run: str) -> str:
    found = [one.id for one in made.registry.releases() if one.run == run]
    if not found:
        raise SystemExit(f"run {run} has no release: {made.registry.run(run).reason}")
    return found[0]


def _until_serving(made: LocalFederation, case: Case, release: str) -> None:
    plants = [made.plant(stock.name) for stock in case.stocks]
    made.until(lambda: all(verdicts.verdict_of(one, release) for one in plants), 120, "every plant's verdict")
    refused = [
        f"{plant.path.name}: {verdict.sentence}"
        for plant in plants
        if (verdict := verdicts.verdict_of(plant, release)) and verdict.state == verdicts.REFUSED
    ]
    if refused:
        raise SystemExit(f"release {release} is refused: {'; '.join(refused)}")
    made.until(lambda: stocked.serving(plants) == {release}, 120, f"{release} to serve at every plant")


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["simulated", "gas_turbine", "push", "swaps"], action="append")
    parser.add_argument("--data", type=Path, help="folder with the gas turbine's file")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    wanted = words.only or ["simulated", *(["gas_turbine"] if words.data else [])]
    results: list[dict[str, Any]] = []
    if "simulated" in wanted:
        results += loop(simulated())
    if "gas_turbine" in wanted:
        if words.data is None:
            parser.error("gas_turbine: expected --data DIR")
        results += loop(turbine(words.data))
    if "push" in wanted:
        results += push(100, 5.0, 5)
    if "swaps" in wanted:
        results += swaps(10, 2000)
    if words.json:
        print(json.dumps({"results": results}, indent=1))
    else:
        for one in results:
            held = "holds" if one["holds"] else "FAILS"
            print(f"{one['case']}: {one['value']} {one['unit']} (bar {one['bar']:g}, {held})")


if __name__ == "__main__":
    main()
