"""Readings become windows: fixed-length, normalised pieces of one machine's history.

Normalising uses only what the contract declares public: the range of the operating condition a
reading was taken in maps to -1..1, and what is further out than the contract accepts is clipped, so
that one wild reading cannot blow up a model or a gradient. No statistic is taken from the data.

A machine's record falls into stretches: a new one begins where the contract's cycle changes and after
a gap longer than the contract's. No window reaches over the end of a stretch.

A machine with fewer readings than a window, or whose first stretch has fewer, is padded at the front by
repeating its first reading (17 of the 707 C-MAPSS test engines have fewer than 30 cycles, and the benchmark
scores them all). Later stretches that are too short give no window: what came before them is known, and is
not what stands in them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import Refusal
from interplant.core.schema import Task, Window
from interplant.core.targets import TIME
from interplant.data import labels
from interplant.data.contract import TOLERANCE, Floats, columns, limits, require, usable
from interplant.data.features import features
from interplant.privacy.inputs import Inputs

if TYPE_CHECKING:
    import pandas as pd

BOUND = 1.0 + 2.0 * TOLERANCE
"""Normalised inputs lie in ``[-BOUND, BOUND]``, and so do features of them."""

BLOCK = 4096
"""Windows whose features are computed at a time."""


@dataclass(frozen=True)
class Windows:
    """Windows of several machines; all windows of a machine stand together, in time order.

    Args:
        x: Normalised inputs, float32 (N, channels, length), or with features (N, channels, 1); channels are
            settings, then sensors.
        y: Label at the window's last reading, float32 (N,): the time left, at most the task's cap; the
            value, within three widths of its range; 0 or 1; or the place of the class.
        machine: The machine of each window, int64 (N,).
    """

    x: Inputs
    y: NDArray[np.float32]
    machine: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Rows:
    """A table's readings in the order of machines and times, the first of a short machine repeated.

    Args:
        order: Which row of the table stands in each place (places,).
        first: Place of each stretch's first reading (stretches,).
        last: Of its last.
        opens: Which stretches are a machine's first (stretches,).
    """

    order: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    opens: NDArray[np.bool_]

    @property
    def machines(self) -> NDArray[np.intp]:
        """Place of the first reading of each machine, and at the end the number of places."""
        return np.append(self.first[self.opens], len(self.order))

    def counts(self, window: Window) -> NDArray[np.intp]:
        """Return how many training windows each stretch has (stretches,)."""
        beyond = self.last - self.first + 1 - window.length
        found: NDArray[np.intp] = np.where(beyond < 0, 0, beyond // window.stride + 1)
        return found

    def ends(self, window: Window) -> NDArray[np.intp]:
        """Return the place of the last reading of each training window, stretch after stretch."""
        counts = self.counts(window)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        number = np.arange(counts.sum()) - before  # of each window in its stretch
        after = np.repeat(counts, counts) - 1 - number
        found: NDArray[np.intp] = np.repeat(self.last, counts) - after * window.stride
        return found

    def lasts(self, window: Window) -> NDArray[np.intp]:
        """Return the place of the last reading of each machine's last training window."""
        ends = self.ends(window)
        return ends[np.searchsorted(ends, self.machines[1:]) - 1]


@dataclass(frozen=True)
class Labelled:
    """Windows whose label is known.

    Args:
        ends: Place of each one's last reading (N,).
        y: Labels; see `Windows`.
    """

    ends: NDArray[np.intp]
    y: NDArray[np.float32]


def training_windows(frame: "pd.DataFrame", task: Task, checked: bool = False) -> Windows:
    """Cut every stretch of each machine's history into windows, ``task.window.stride`` readings apart.

    Counted from the end, so that a machine's last reading is always in. A window whose label is not known is
    left out: see `interplant.data.labels`.

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
    frame = _taken(frame, task, checked)
    rows = arranged(frame, task)
    return _cut(frame, rows, rows.ends(task.window), task)


def last_windows(frame: "pd.DataFrame", task: Task, checked: bool = False) -> Windows:
    """Cut one window per machine, its last; the way C-MAPSS is scored. See `training_windows`.

    Without a label column ``y`` is 0, for a machine that ran to failure.
    """
    frame = _taken(frame, task, checked)
    rows = arranged(frame, task)
    return _cut(frame, rows, rows.lasts(task.window), task)


def no_windows(task: Task) -> Windows:
    """Return none."""
    nothing = np.empty(0, np.float32)
    return Windows(np.empty((0, *task.shape), np.float32), nothing, nothing.astype(np.int64))


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
    rows = arranged(frame, task)
    before = np.append(0, np.cumsum(rows.counts(task.window)))
    opens = np.append(np.flatnonzero(rows.opens), len(rows.first))
    found: NDArray[np.int64] = np.diff(before[opens])
    return found


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


def _taken(frame: "pd.DataFrame", task: Task, checked: bool) -> "pd.DataFrame":
    coded = labels.encoded(frame, task)
    if checked:
        return usable(coded, task.contract)
    found = next(labels.violations(frame, task), None) if task.target.kind != TIME else None
    if found is not None and found.blocks:
        raise Refusal("contract", str(found))
    require(coded, task.contract)
    return coded


def arranged(frame: "pd.DataFrame", task: Task) -> Rows:
    """Put a table's readings in the order in which windows are cut from them."""
    contract, length = task.contract, task.window.length
    by_machine, by_time = frame[contract.machine].to_numpy(), _times(frame, contract)
    order = np.lexsort((by_time, by_machine))
    starts = np.flatnonzero(_changes(by_machine[order]))
    stretches = np.flatnonzero(_broken(frame, contract, order, by_time) | _changes(by_machine[order]))
    opens = np.isin(stretches, starts)
    count = np.diff(np.append(stretches, len(order)))
    padded = np.where(opens, np.maximum(count, length), count)
    repeats = np.ones(len(order), dtype=np.intp)
    repeats[stretches] += padded - count
    last = np.cumsum(padded) - 1
    return Rows(np.repeat(order, repeats), last - padded + 1, last, opens)


def _times(frame: "pd.DataFrame", contract: Contract) -> Floats:
    """Times as numbers: a timestamp as seconds."""
    time = frame[contract.time]
    if time.dtype.kind == "M":
        nanoseconds: Floats = time.to_numpy(dtype="datetime64[ns]").astype(np.float64)
        return nanoseconds / 1e9
    plain: Floats = time.to_numpy(dtype=np.float64)
    return plain


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values differ from the one before; the first does."""
    found = np.ones(len(values), np.bool_)
    found[1:] = values[1:] != values[:-1]
    return found


def _broken(
    frame: "pd.DataFrame", contract: Contract, order: NDArray[np.intp], time: Floats
) -> NDArray[np.bool_]:
    """Which readings, in their order, no window may reach back from."""
    found = np.zeros(len(order), np.bool_)
    if contract.cycle:
        found |= _changes(frame[contract.cycle].to_numpy()[order])
    if contract.gap:
        found[1:] |= np.diff(time[order]) > contract.gap
    return found


def labelled_ends(frame: "pd.DataFrame", rows: Rows, ends: NDArray[np.intp], task: Task) -> Labelled:
    """Return which of the windows that end at ``ends`` have a label, and theirs.

    Args:
        frame: Readings, the label `interplant.data.labels.encoded`; the inputs are not looked at.
        rows: Their order.
        ends: Place of each window's last reading.
        task: Its target.
    """
    contract, target = task.contract, task.target
    known = contract.label in frame.columns
    label = frame[contract.label].to_numpy(dtype=np.float64)[rows.order] if known else None
    said = labels.Said.of(frame, rows.order)
    found = labels.values(label, task, _times(frame, contract)[rows.order], rows.machines, said)[ends]
    ends, found = ends[np.isfinite(found)], found[np.isfinite(found)]
    return Labelled(
        ends, (np.minimum(found, target.cap) if target.kind == TIME else found).astype(np.float32)
    )


def _cut(frame: "pd.DataFrame", rows: Rows, ends: NDArray[np.intp], task: Task) -> Windows:
    contract, length = task.contract, task.window.length
    found = labelled_ends(frame, rows, ends, task)
    if not len(found.ends):
        return no_windows(task)
    machine = frame[contract.machine].to_numpy(dtype=np.int64)[rows.order]
    inputs = normalise(frame[columns(contract)].to_numpy(dtype=np.float64), contract)
    every = np.lib.stride_tricks.sliding_window_view(inputs[rows.order], length, axis=0)
    x = _inputs(every, found.ends - (length - 1), task.window)
    return Windows(x, found.y, machine[found.ends])


def _inputs(every: NDArray[np.float32], starts: NDArray[np.intp], window: Window) -> NDArray[np.float32]:
    """The windows that begin at ``starts``, or their features, some at a time."""
    if not window.features:
        return np.ascontiguousarray(every[starts])
    blocks = [every[starts[one : one + BLOCK]] for one in range(0, len(starts), BLOCK)]
    return np.concatenate([features(block, window, BOUND) for block in blocks])
