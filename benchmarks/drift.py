"""How often the drift monitor alarms by chance, and how soon it finds what is there.

    python benchmarks/drift.py --json --data DIR [--windows 100000] [--shuffles 10] [--cmapss DIR]

``DIR`` holds ``gas_turbine_2011_2015.csv.gz`` (H. Kaya et al., 2019, CC BY 4.0), of which the nine process
variables are watched. Each shuffle bootstraps a reference and then windows from all years: every reading is
drawn with replacement, so nothing drifts, and whatever alarms is false. Windows with an alarm are counted
over all sensors and tests together, with a Clopper-Pearson interval (95 %). ``observed`` has no bars: it
says what the monitor does with readings in their own order; with ``--cmapss``, which holds `cmapss.tar.xz`
or its text files, also how many windows of half of the machines alarm against the other half, six times
each, for NASA's four subsets and for four simulated plants.
"""

import argparse
import functools
import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from interplant.core import config
from interplant.core.schema import Task
from interplant.data import cmapss
from interplant.data.blocks import Block, of_frame, of_series
from interplant.data.contract import columns
from interplant.data.drift import Monitor, Watched
from interplant.data.events import Event
from interplant.data.reference import Reference
from interplant.data.simulator import simulate
from interplant.data.survey import build
from interplant.data.tasks import builtin

FILE = "gas_turbine_2011_2015.csv.gz"
PUBLISHED = "62bbc480a9b0aa902fd596d53488f056f57d861f1d665a9039e2a670656228d8"
SENSORS = ["AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP"]
WINDOW = 100

OFFSET = 0.5
"""Standard deviations of a sensor over all years."""

PATIENCE = 500
"""Windows in which an offset must be found."""


def bootstrapped(pool: Block, random: np.random.Generator, windows: int) -> Iterator[Block]:
    """Yield readings drawn with replacement, one after the other."""
    for begin in range(0, windows, 1000):
        size = min(1000, windows - begin) * WINDOW
        drawn = pool[random.integers(0, len(pool), size)]
        yield replace(drawn, time=begin * WINDOW + np.arange(size, dtype=np.float64))


def reference_of(block: Block) -> Reference:
    return build(lambda: [block], SENSORS, WINDOW)


def watched(reference: Reference, live: Iterator[Block] | list[Block]) -> list[Event]:
    return Monitor(reference, Watched("benchmark")).watch(live)


def false_alarms(pool: Block, windows: int, shuffles: int) -> dict[str, Any]:
    """Count windows that alarm where nothing drifts."""
    alarms, each = 0, windows // shuffles
    for seed in range(shuffles):
        random = np.random.default_rng(seed)
        reference = reference_of(next(bootstrapped(pool, random, len(pool) // WINDOW)))
        found = watched(reference, bootstrapped(pool, random, each))
        alarms += len({event.windows[1] for event in found})
    count = each * shuffles
    low, high = binomtest(alarms, count).proportion_ci(0.95, "exact")
    case = "false alarms on shuffles of all years, in 10 000 windows: upper end of the 95 % interval"
    more = {"alarms": alarms, "windows": count, "interval": [1e4 * low, 1e4 * high]}
    return {**result(case, 1e4 * high, "alarms", 1.0), **more}


def offsets(pool: Block, shuffles: int) -> list[dict[str, Any]]:
    """Move one sensor after another, up and down, and see how soon it is found and whether it is named."""
    sizes, waits, right = pool.values.std(axis=0), [], []
    for seed in range(shuffles):
        random = np.random.default_rng(1000 + seed)
        reference = reference_of(next(bootstrapped(pool, random, len(pool) // WINDOW)))
        for place in range(len(SENSORS)):
            for sign in (1, -1):
                moved = pool.values.copy()
                moved[:, place] += sign * OFFSET * sizes[place]
                first = next(first_alarms(reference, replace(pool, values=moved), random), None)
                waits.append(PATIENCE + 1 if first is None else first.windows[1] + 1)
                right.append(first is not None and (first.sensor, first.kind) == (SENSORS[place], "offset"))
    named = result(
        "of offsets that were found, named by sensor and kind", float(np.mean(right)), "share", 0.9
    )
    return [
        result(
            "windows to find an offset of 0.5 sigma on one sensor, the slowest",
            max(waits),
            "windows",
            PATIENCE,
        ),
        {**named, "holds": named["value"] >= named["bar"], "offsets": len(right)},
    ]


def first_alarms(reference: Reference, pool: Block, random: np.random.Generator) -> Iterator[Event]:
    """Yield the events of at most `PATIENCE` windows, as they come."""
    monitor = Monitor(reference, Watched("benchmark"))
    for block in bootstrapped(pool, random, PATIENCE):
        for begin in range(0, len(block), 10 * WINDOW):
            yield from monitor.watch([block[begin : begin + 10 * WINDOW]])


def drift_of_2014(years: dict[int, Block]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train on 2011 to 2013, watch every year in its own order."""
    past = [years[year].values for year in (2011, 2012, 2013)]
    reference = reference_of(of_series(np.concatenate(past)))
    events = {year: watched(reference, [block]) for year, block in years.items()}
    there = len(years[2014]) // WINDOW
    first = events[2014][0].windows[1] + 1 if events[2014] else there + 1
    result_ = result("windows of 2014 to the first alarm, trained on 2011 to 2013", first, "windows", there)
    shown = {
        str(year): [f"{one.windows[1]}: {one.sensor} {one.kind} ({one.test})" for one in found]
        for year, found in events.items()
    }
    return result_, {"in order, trained on 2011 to 2013": shown}


def held_out(source: Path) -> dict[str, Any]:
    """Hold half of a fleet's machines against the other half, which are of the same kind."""
    with tempfile.TemporaryDirectory() as folder:
        cmapss.fetch(source, Path(folder))
        engines = [cmapss.read(Path(folder), subset).train for subset in cmapss.SUBSETS]
    simulated = [simulate(plant, 80, 0).train for plant in range(4)]
    return {
        "halves of C-MAPSS engines": halves(engines),
        "halves of 80 simulated machines": halves(simulated),
    }


def halves(fleets: list[pd.DataFrame]) -> dict[str, Any]:
    rules = config.load(builtin("turbofan"), Task).contract
    random, alarms, windows = np.random.default_rng(0), 0, 0
    for frame in fleets:
        machines = frame["machine"].unique()
        for _ in range(6):
            own = frame["machine"].isin(random.permutation(machines)[: len(machines) // 2])
            past, live = of_frame(frame[own], rules), of_frame(frame[~own], rules)
            reference = build(functools.partial(list, [past]), columns(rules), WINDOW)
            alarms += len({event.windows[1] for event in watched(reference, [live])})
            windows += len(live) // WINDOW
    low, high = binomtest(alarms, windows).proportion_ci(0.95, "exact")
    return {"alarms": alarms, "windows": windows, "in 10 000": [1e4 * low, 1e4 * high]}


def result(case: str, value: float, unit: str, bar: float) -> dict[str, Any]:
    return {"case": case, "value": round(value, 4), "unit": unit, "bar": bar, "holds": value <= bar}


def main() -> None:
    """Print the results."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    words.add_argument("--json", action="store_true", help="print JSON (the only form)")
    words.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    words.add_argument("--windows", type=int, default=100_000, help="bootstrapped windows in all")
    words.add_argument("--shuffles", type=int, default=10, help="references that they are divided among")
    words.add_argument("--cmapss", type=Path, help="folder with cmapss.tar.xz or its text files")
    given = words.parse_args()
    path = given.data / FILE
    frame = pd.read_csv(path)
    years = {int(year): of_series(own[SENSORS].to_numpy(np.float64)) for year, own in frame.groupby("year")}
    pool = of_series(frame[SENSORS].to_numpy(np.float64))
    drift, observed = drift_of_2014(years)
    results = [
        false_alarms(pool, given.windows, given.shuffles),
        *offsets(pool, min(given.shuffles, 3)),
        drift,
    ]
    if given.cmapss:
        observed |= held_out(given.cmapss)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(
        json.dumps(
            {
                "machine": platform.platform(),
                "data": {"sha256": digest, "published": digest == PUBLISHED},
                "window": WINDOW,
                "results": results,
                "observed": observed,
            },
            indent=2,
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
