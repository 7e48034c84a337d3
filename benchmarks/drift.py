"""How often the drift monitor alarms by chance, and how soon it finds what is there.

    python benchmarks/drift.py --json --data DIR [--windows 100000] [--shuffles 10] [--cmapss DIR]

``DIR`` holds ``gas_turbine_2011_2015.csv.gz`` (H. Kaya et al., 2019, CC BY 4.0), of which the nine process
variables are watched. Each shuffle bootstraps a reference and then windows from all years: every reading is
drawn with replacement, so nothing drifts, and whatever alarms is false. Windows with an alarm are counted
over all sensors and tests together, with a Clopper-Pearson interval (95 %); once of the readings alone, and
once with the predictions of a linear model of one variable and its errors, which share the rate.
``observed`` has no bars: it says what the monitor does with readings in their own order, and how soon errors
that rise are found; with ``--cmapss``, which holds `cmapss.tar.xz` or its text files, also how many windows
of half of the machines alarm against the other half, six times each, for NASA's four subsets and for four
simulated plants.
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
from interplant.core.plant_config import LABEL
from interplant.core.schema import Task
from interplant.data import cmapss
from interplant.data.blocks import Block, of_frame, of_series
from interplant.data.contract import columns
from interplant.data.drift import Monitor, Watched
from interplant.data.events import ERRORS, INPUTS, PREDICTIONS, Event
from interplant.data.reference import Reference
from interplant.data.simulator import simulate
from interplant.data.survey import build
from interplant.data.tasks import builtin

FILE = "gas_turbine_2011_2015.csv.gz"
PUBLISHED = "62bbc480a9b0aa902fd596d53488f056f57d861f1d665a9039e2a670656228d8"
SENSORS = ["AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP"]
WINDOW = 100

TARGET = "TEY"
"""The turbine's energy yield, which a linear model predicts."""

SIZES = {PREDICTIONS: WINDOW, ERRORS: WINDOW // LABEL}
"""Predictions and errors of a window."""

HELD_OUT = 70
"""Windows of readings that the model is held against: a fifth of all."""

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


class Linear:
    """Predicts `TARGET` from the other variables, by least squares.

    Args:
        block: Learns from these readings.
    """

    def __init__(self, block: Block) -> None:
        self._place = SENSORS.index(TARGET)
        self._factors = np.linalg.lstsq(self._inputs(block), block.values[:, self._place], rcond=None)[0]

    def predict(self, block: Block) -> np.ndarray:
        """Return a prediction for each reading (N,)."""
        return self._inputs(block) @ self._factors

    def errors(self, block: Block) -> np.ndarray:
        """Return how far it is off (N,)."""
        return np.abs(self.predict(block) - block.values[:, self._place])

    def _inputs(self, block: Block) -> np.ndarray:
        others = np.delete(block.values, self._place, axis=1)
        return np.column_stack([others, np.ones(len(others))])


def monitors(past: Block, held_out: Block) -> tuple[Linear, list[Monitor]]:
    """A model of past readings, and monitors of inputs, predictions and errors: a third of the rate each."""
    model = Linear(past)
    series = {PREDICTIONS: model.predict(held_out), ERRORS: model.errors(held_out)}
    own = {name: build(lambda name=name: [of_series(series[name])], [name], SIZES[name]) for name in series}  # type: ignore[misc]
    references = {INPUTS: reference_of(past), **own}
    return model, [
        Monitor(reference, Watched("benchmark", name=name, false_alarms=reference.window / WINDOW / 3))
        for name, reference in references.items()
    ]


def together(pool: Block, windows: int, shuffles: int) -> dict[str, Any]:
    """Count windows of readings in which inputs, predictions or errors alarm where nothing drifts."""
    alarms, each = dict.fromkeys((INPUTS, PREDICTIONS, ERRORS), 0), windows // shuffles
    for seed in range(shuffles):
        random = np.random.default_rng(2000 + seed)
        past = next(bootstrapped(pool, random, len(pool) // WINDOW))
        model, watching = monitors(past, next(bootstrapped(pool, random, HELD_OUT)))
        for block in bootstrapped(pool, random, each):
            live = [
                block,
                of_series(model.predict(block), block.time),
                of_series(model.errors(block), block.time),
            ]
            for one, readings in zip(watching, live, strict=True):
                alarms[one.watched.name] += len({event.windows[1] for event in one.watch([readings])})
    count = each * shuffles
    low, high = binomtest(sum(alarms.values()), count).proportion_ci(0.95, "exact")
    case = "the same over inputs, predictions and errors together: upper end of the 95 % interval"
    more = {"alarms": alarms, "windows": count, "interval": [1e4 * low, 1e4 * high]}
    return {**result(case, 1e4 * high, "alarms", 1.0), **more}


def risen(pool: Block, shuffles: int) -> dict[str, Any]:
    """Let errors rise, and see after how many labels that is found."""
    found: dict[str, list[int | None]] = {}
    for factor in (1.25, 1.5, 2.0):
        waits: list[int | None] = []
        for seed in range(shuffles):
            random = np.random.default_rng(3000 + seed)
            past = next(bootstrapped(pool, random, len(pool) // WINDOW))
            model, (_, _, watching) = monitors(past, next(bootstrapped(pool, random, HELD_OUT)))
            (block,) = bootstrapped(pool, random, 100)
            events = watching.watch([of_series(factor * model.errors(block))])
            waits.append((events[0].windows[1] + 1) * SIZES[ERRORS] if events else None)
        found[f"{factor:g} times as large"] = waits
    return {"labels until errors are found that are": found}


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
        together(pool, given.windows, given.shuffles),
    ]
    observed |= risen(pool, min(given.shuffles, 5))
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
