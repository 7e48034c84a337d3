"""Readings become windows: fixed-length, normalised pieces of one machine's history.

Normalising uses only what the contract declares public: the range of the operating condition a
reading was taken in maps to -1..1, and what is further out than the contract accepts is clipped, so
that one wild reading cannot blow up a model or a gradient. No statistic is taken from the data.

A machine with fewer readings than a window is padded at the front by repeating its first reading
(17 of the 707 C-MAPSS test engines have fewer than 30 cycles, and the benchmark scores them all).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.schema import Task, Window
from interplant.data.contract import TOLERANCE, Floats, columns, limits, require, usable

if TYPE_CHECKING:
    import pandas as pd

BOUND = 1.0 + 2.0 * TOLERANCE
"""Normalised inputs lie in ``[-BOUND, BOUND]``."""


@dataclass(frozen=True)
class Windows:
    """Windows of several machines; all windows of a machine stand together, in time order.

    Args:
        x: Normalised inputs, float32 (N, channels, length); channels are settings, then sensors.
        y: Cycles left after the window's last reading, at most the task's cap, float32 (N,).
        machine: The machine of each window, int64 (N,).
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    machine: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Rows:
    """A table's readings in the order of machines and times, the first of a short machine repeated.

    Args:
        order: Which row of the table stands in each place (places,).
        first: Place of each machine's first reading (machines,).
        last: Of its last.
    """

    order: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]

    def ends(self, window: Window) -> NDArray[np.intp]:
        """Return the place of the last reading of each training window, machine after machine."""
        ends = [
            np.arange(last, first + window.length - 2, -window.stride)[::-1]
            for first, last in zip(self.first, self.last, strict=True)
        ]
        return np.concatenate(ends) if ends else np.empty(0, np.intp)


@dataclass(frozen=True)
class _Readings:
    """What a window needs of the reading in each place."""

    inputs: NDArray[np.float32]
    left: NDArray[np.float64]
    machine: NDArray[np.int64]


def training_windows(frame: "pd.DataFrame", task: Task, checked: bool = False) -> Windows:
    """Cut every machine's history into windows, ``task.window.stride`` readings apart.

    Counted from the end, so that a machine's last reading is always in.

    Args:
        frame: Readings after the contract, in any order. If the label's column is there it is used;
            if not, every machine ran to failure and its label is the time to its last reading.
        task: Contract, window and target.
        checked: Whether the readings were asked about already, under differential privacy: then they are
            taken as `usable` says, values that are not finite become the middle of their range, and no
            readings are no windows.

    Raises:
        Refusal: ``contract``: one may not learn from this table.
    """
    frame = _taken(frame, task.contract, checked)
    rows = arranged(frame, task)
    return _cut(_readings(frame, task, rows), rows.ends(task.window), task)


def last_windows(frame: "pd.DataFrame", task: Task, checked: bool = False) -> Windows:
    """Cut one window per machine, its last; the way C-MAPSS is scored. See `training_windows`.

    Without a label column ``y`` is 0, for a machine that ran to failure.
    """
    frame = _taken(frame, task.contract, checked)
    rows = arranged(frame, task)
    return _cut(_readings(frame, task, rows), rows.last, task)


@dataclass(frozen=True)
class Sizes:
    """How much there is, to two digits: what a plant may declare without telling its exact size.

    Args:
        windows: Training windows.
        units: Machines.
        unit_windows: The most windows of a machine, rounded up.
    """

    windows: int
    units: int
    unit_windows: int


def sizes(frame: "pd.DataFrame", task: Task) -> Sizes:
    """Count what `training_windows` cuts, without cutting it."""
    each = unit_windows(frame, task)
    return Sizes(rounded(int(each.sum())), rounded(len(each)), rounded(int(each.max()), up=True))


def unit_windows(frame: "pd.DataFrame", task: Task) -> NDArray[np.int64]:
    """Return how many windows `training_windows` cuts of each machine (machines,)."""
    rows = frame[task.contract.machine].value_counts().to_numpy(dtype=np.int64)
    beyond: NDArray[np.int64] = np.maximum(rows - task.window.length, 0)
    return beyond // task.window.stride + 1


def rounded(count: int, up: bool = False) -> int:
    """Return ``count`` to two digits, to the nearest or up."""
    scale: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // scale) * scale if up else (2 * count + scale) // (2 * scale) * scale


def normalise(values: Floats, contract: Contract) -> NDArray[np.float32]:
    """Map readings to ``[-BOUND, BOUND]`` by the declared ranges of their operating condition.

    Args:
        values: Readings (N, inputs) in the contract's order: settings, then sensors. One that is not finite
            becomes the middle of its range.
        contract: Declared ranges.
    """
    low, high = limits(values[:, : len(contract.settings)], contract)
    scaled = (2.0 * values - (low + high)) / (high - low)
    return np.where(np.isfinite(scaled), np.clip(scaled, -BOUND, BOUND), 0.0).astype(np.float32)


def _taken(frame: "pd.DataFrame", contract: Contract, checked: bool) -> "pd.DataFrame":
    if checked:
        return usable(frame, contract)
    require(frame, contract)
    return frame


def arranged(frame: "pd.DataFrame", task: Task) -> Rows:
    """Put a table's readings in the order in which windows are cut from them."""
    contract = task.contract
    by_machine, by_time = (frame[name].to_numpy() for name in (contract.machine, contract.time))
    order = np.lexsort((by_time, by_machine))
    machine = by_machine[order]
    first = np.flatnonzero(np.r_[len(machine) > 0, machine[1:] != machine[:-1]])
    count = np.diff(np.r_[first, len(machine)])
    repeats = np.ones(len(machine), dtype=np.intp)
    repeats[first] += np.maximum(task.window.length - count, 0)
    padded = np.maximum(count, task.window.length)
    last = np.cumsum(padded) - 1
    return Rows(np.repeat(order, repeats), last - padded + 1, last)


def _readings(frame: "pd.DataFrame", task: Task, rows: Rows) -> _Readings:
    contract = task.contract
    machine = frame[contract.machine].to_numpy(dtype=np.int64)[rows.order]
    if contract.label in frame.columns:
        left = frame[contract.label].to_numpy(dtype=np.float64)[rows.order]
    else:
        time = frame[contract.time].to_numpy(dtype=np.float64)[rows.order]
        left = np.repeat(time[rows.last], rows.last - rows.first + 1) - time
    inputs = normalise(frame[columns(contract)].to_numpy(dtype=np.float64), contract)
    return _Readings(inputs[rows.order], left, machine)


def _cut(readings: _Readings, ends: NDArray[np.intp], task: Task) -> Windows:
    length = task.window.length
    if not len(ends):
        empty = np.empty((0, readings.inputs.shape[1], length), np.float32)
        return Windows(empty, np.empty(0, np.float32), np.empty(0, np.int64))
    every = np.lib.stride_tricks.sliding_window_view(readings.inputs, length, axis=0)
    labels = np.minimum(readings.left[ends], task.target.cap)
    return Windows(
        x=np.ascontiguousarray(every[ends - (length - 1)]),
        y=labels.astype(np.float32),
        machine=readings.machine[ends],
    )
