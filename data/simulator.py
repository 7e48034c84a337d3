"""The plant simulator: turbofan-like machines that wear until they fail, at plants that differ.

It stands in for a plant's own readings where there are none, in the columns of the turbofan task.
It is not a physical model: every sensor moves along a straight line per fault mode, in units of its
declared range, as a machine's wear grows. What it keeps from real fleets is what makes federating
worth while: plants differ (`_site`), machines differ, and no plant has seen enough of both faults.

Wear grows exponentially from a random onset, after Saxena et al., "Damage Propagation Modeling for
Aircraft Engine Run-to-Failure Simulation" (2008). The numbers here are our own.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.data.frames import Dataset
from interplant.data.tasks import builtin

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

FAULTS: Final = {
    "compressor": (0.7, 0.8, 1.0, -0.9, 0.7, 0.8, 1.0, -1.0, 0.7, 0.7, 0.9, 0.8, -0.8, -0.8),
    "fan": (0.5, 0.6, 0.8, 0.9, 0.9, -0.4, 0.7, 0.9, 0.9, -0.6, -0.9, 0.5, 0.8, 0.8),
}
"""How far each sensor (in the task's order) has moved at failure, in half widths of its range."""

HOLDOUT_LEAST: Final = 20
"""A plant's holdout has as many machines as its record, and no fewer than this."""

TYPES: Final = 3
"""Machine types; each answers to the same wear with other gains and from another base."""

NOISE: Final = 0.22
MACHINE_SPREAD: Final = 0.15
TYPE_SPREAD: Final = 0.1
PLANT_SPREAD: Final = 0.08


@dataclass(frozen=True)
class _Types:
    """The machine types, the same at every plant.

    Args:
        gains: How strongly each type's sensors answer to wear (types, sensors).
        bases: Where each type's sensors stand, in half widths of their range (types, sensors).
    """

    gains: Floats
    bases: Floats


@dataclass(frozen=True)
class _Site:
    """What is particular about one plant.

    Args:
        conditions: Indices of the operating conditions its machines run in.
        compressor: Share of compressor faults in the plant's record so far; the others are fan.
        types: Share of each machine type.
        offset: What its gauges read too much, in half widths of each sensor's range.
        pace: Mean life of a machine there, in cycles.
    """

    conditions: tuple[int, ...]
    compressor: float
    types: Floats
    offset: Floats
    pace: float


def simulate(plant: int, machines: int, seed: int) -> Dataset:
    """Simulate one plant's machines, in the columns of the built-in turbofan task.

    Args:
        plant: Which plant, from 0; it shapes what differs. Even plants run in one operating
            condition, odd ones in all; what faults a plant has met goes round by four.
        machines: Machines in the plant's record, each run to failure.
        seed: The same seed, plant and number give the same readings.

    Returns:
        The record, and a holdout of as many machines (at least `HOLDOUT_LEAST`), each cut off
        before failure with ``rul`` known. The holdout is what the plant meets next: half of
        its machines get either fault, also the one that was rare or unknown in its record.

    Raises:
        UsageError: A negative plant or seed, or no machines.
    """
    if plant < 0 or seed < 0 or machines < 1:
        raise UsageError(
            "simulator: expected plant and seed from 0 and at least 1 machine, "
            f"found plant {plant}, seed {seed}, machines {machines}"
        )
    contract = _contract()
    types = _types(np.random.default_rng([seed, 0]), len(contract.sensors))
    generator = np.random.default_rng([seed, 1, plant])
    site = _site(plant, generator, contract)
    frames = {}
    for part, count, share in (
        ("train", machines, site.compressor),
        ("holdout", max(machines, HOLDOUT_LEAST), 0.5),
    ):
        faults = _mixed(generator, count, share)
        histories = [_history(generator, site, types, fault) for fault in faults]
        frames[part] = _frame(histories, contract)
    return Dataset(frames["train"], _cut_short(frames["holdout"], generator), simulated=True)


@cache
def _contract() -> Contract:
    return config.load(builtin("turbofan"), Task).contract


def _types(generator: np.random.Generator, sensors: int) -> _Types:
    gains = generator.uniform(0.75, 1.25, (TYPES, sensors))
    return _Types(gains, generator.normal(0.0, TYPE_SPREAD, (TYPES, sensors)))


def _site(plant: int, generator: np.random.Generator, contract: Contract) -> _Site:
    every = tuple(range(len(contract.conditions)))
    types = np.full(TYPES, 0.15)
    types[plant % TYPES] = 1.0 - 0.15 * (TYPES - 1)
    return _Site(
        conditions=every if plant % 2 else ((plant // 2) % len(every),),
        compressor=(1.0, 0.0, 0.8, 0.3)[plant % 4],
        types=types,
        offset=generator.normal(0.0, PLANT_SPREAD, len(contract.sensors)),
        pace=generator.uniform(170.0, 220.0),
    )


def _mixed(generator: np.random.Generator, count: int, share: float) -> list[str]:
    """Faults of ``count`` machines, the share rounded, so that a few machines are no lottery."""
    compressor = round(share * count)
    faults = np.array(["compressor"] * compressor + ["fan"] * (count - compressor))
    return [str(fault) for fault in generator.permutation(faults)]


def _history(generator: np.random.Generator, site: _Site, types: _Types, fault: str) -> Floats:
    """One machine from its first cycle to failure: rows of settings and sensors."""
    kind = generator.choice(TYPES, p=site.types)
    wear = _wear(generator, site.pace)
    sensors = len(site.offset)
    direction = np.array(FAULTS[fault]) * types.gains[kind]
    # A healthy machine stands on the side of the range from which wear mostly moves it away.
    healthy = -0.35 * np.array(FAULTS["compressor"]) + types.bases[kind] + site.offset
    healthy += generator.normal(0.0, MACHINE_SPREAD, sensors)
    noise = generator.normal(0.0, NOISE, (len(wear), sensors))
    return _readings(generator, healthy + 1.4 * wear[:, None] * direction + noise, site)


def _wear(generator: np.random.Generator, pace: float) -> Floats:
    """Wear at each cycle of one life: about 0 until a random onset, then exponential up to 1."""
    life = int(np.clip(generator.lognormal(np.log(pace), 0.22), 90, 380))
    onset = generator.uniform(0.05, 0.3) * life
    rate = generator.uniform(1.5, 3.0)
    progress = np.clip((np.arange(1, life + 1) - onset) / (life - onset), 0.0, 1.0)
    worn: Floats = np.expm1(rate * progress) / np.expm1(rate) + generator.uniform(0.0, 0.08)
    return worn


def _readings(generator: np.random.Generator, scaled: Floats, site: _Site) -> Floats:
    """Turn sensors in half widths into their units, each cycle in one of the site's conditions."""
    centres, low, high = _tables(_contract())
    where = generator.choice(site.conditions, size=len(scaled))
    settings = centres[where] + generator.uniform(-1e-4, 1e-4, (len(scaled), centres.shape[1]))
    middle, half = (high + low)[where] / 2, (high - low)[where] / 2
    return np.column_stack([settings, middle + half * scaled])


def _tables(contract: Contract) -> tuple[Floats, Floats, Floats]:
    """Centres (conditions, settings), and lows and highs (conditions, sensors)."""
    centres = [[one.centre[name] for name in contract.settings] for one in contract.conditions]
    ranges = np.array([[one.ranges[name] for name in contract.sensors] for one in contract.conditions])
    return np.array(centres), ranges[..., 0], ranges[..., 1]


def _frame(histories: list[Floats], contract: Contract) -> "pd.DataFrame":
    import pandas as pd

    lengths = [len(history) for history in histories]
    names = [*contract.settings, *contract.sensors]
    frame = pd.DataFrame(np.round(np.concatenate(histories), 4), columns=names)
    frame.insert(0, contract.machine, np.repeat(np.arange(1, len(lengths) + 1), lengths))
    frame.insert(1, contract.time, np.concatenate([np.arange(1, n + 1) for n in lengths]))
    return frame


def _cut_short(frame: "pd.DataFrame", generator: np.random.Generator) -> "pd.DataFrame":
    """Drop the end of each machine's life at random and keep the true cycles left as ``rul``."""
    last = frame.groupby("machine")["cycle"].transform("max")
    share = generator.uniform(0.35, 0.98, int(frame["machine"].max()))
    kept = np.ceil(last * share[frame["machine"].to_numpy() - 1])
    frame = frame.assign(rul=last - frame["cycle"])
    return frame[frame["cycle"] <= kept].reset_index(drop=True)
