"""Readings of four sensors, of which three go together, and drifts that are planted in them."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from interplant.data.blocks import Block, of_series
from interplant.data.drift import Monitor, Watched
from interplant.data.events import Event
from interplant.data.reference import Reference
from interplant.data.survey import build

NAMES = ("heat", "flow", "power", "noise")
CENTRES = np.array([400.0, 20.0, 80.0, 0.0])
SIZES = np.array([10.0, 2.0, 8.0, 1.0])
WINDOW = 50
BEGIN = 10
"""The window in which a planted drift begins."""

Change = Callable[[np.ndarray], None]


def values(windows: int, seed: int) -> np.ndarray:
    """Independent readings (windows * WINDOW, 4)."""
    random = np.random.default_rng(seed)
    load, *own = random.normal(size=(5, windows * WINDOW))
    scores = np.column_stack([*(0.9 * load + np.sqrt(0.19) * one for one in own[:3]), own[3]])
    return CENTRES + SIZES * scores


@lru_cache
def reference() -> Reference:
    block = of_series(values(200, 0))
    return build(lambda: [block], NAMES, WINDOW)


def monitor(rate: float = 1.0) -> Monitor:
    return Monitor(reference(), Watched("d" * 64, "turbofan-1", false_alarms=rate))


def live(change: Change | None = None, windows: int = 40, seed: int = 1) -> Block:
    """Readings with a change from window `BEGIN` on."""
    readings = values(windows, seed)
    if change is not None:
        change(readings[BEGIN * WINDOW :])
    return of_series(readings)


def found(change: Change | None, windows: int = 40, seed: int = 1) -> list[Event]:
    return monitor().watch([live(change, windows, seed)])
