"""From a table's label column to the label of each reading, by the target's kind.

Each reading's label follows from its own machine's readings alone. One that cannot be known (no class of
the task's, no number, an event that would lie after the end of the record) is not finite, and its window is
left out.

What a person said of a reading stands in the place of what a source said. Of a target that looks at later
readings it is about that one window: an event within the horizon is one within the horizon of the target that
was asked. Of a machine without labels, that fails at the end of its record, the time left at a reading tells
when it fails, and so the time left at the readings before (`ends`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.schema import Task
from interplant.core.targets import CLASS, EVENT, TIME, VALUE
from interplant.data.contract import TOLERANCE, Violation
from interplant.data.corrections import HORIZON, NUMBERS
from interplant.data.corrections import VALUE as SAID
from interplant.data.texts import code, of_codes

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


def encoded(frame: "pd.DataFrame", task: Task) -> "pd.DataFrame":
    """Return a table with a label column that is numbers: a class's place, or an event's 0 and 1.

    A label that is none of them becomes infinite, which no label may be; one that is not there stays NaN.

    Args:
        frame: Readings; without the label's column, or with a time or a value in it, it is returned as is.
        task: Names the label and the target's kind.
    """
    target, label, frame = task.target, task.contract.label, corrected(frame, task)
    if target.kind not in (CLASS, EVENT) or label not in frame.columns:
        return frame
    values = _values(task, frame[label].dtype.kind in "iuf")
    places = {value: float(place) for place, value in enumerate(values)}
    found = frame[label].map(places).astype("float64")
    return frame.assign(**{label: found.mask(found.isna() & frame[label].notna(), np.inf)})


def _values(task: Task, numeric: bool) -> list[Any]:
    """What a table's label may be, in the order of the model's classes: of a text, a store has its number."""
    found = _expected(task)
    return [code(one) for one in found] if task.contract.texts and numeric else found


def corrected(frame: "pd.DataFrame", task: Task) -> "pd.DataFrame":
    """Return readings whose label is what a person said, where one did.

    Of machines that fail at the end of their record there is no label to put it in; see `values`.
    """
    label, target = task.contract.label, task.target
    if SAID not in frame.columns or (label not in frame.columns and target.kind == TIME):
        return frame
    said = frame[SAID].where(frame[HORIZON] == 0)
    return frame.assign(**{label: said.fillna(frame[label]) if label in frame.columns else said})


def violations(frame: "pd.DataFrame", task: Task) -> Iterator[Violation]:
    """Yield what keeps a table's label from being that of the task, beside what the contract says.

    Only ``time_to_failure`` needs no label: a machine's record may end with its failure.
    """
    label, rows, frame = task.contract.label, len(frame), corrected(frame, task)
    if label not in frame.columns:
        if task.target.kind != TIME:
            said = f"expected by target.kind {task.target.kind} at each reading, not in the data"
            yield Violation("missing", label, 0, rows, said)
        return
    if task.target.kind in (CLASS, EVENT):
        unknown = np.isinf(encoded(frame, task)[label])
        if unknown.any():
            known = ", ".join(map(str, _expected(task)))
            said = f"expected one of {known}, found {_first(frame[label][unknown], task)}"
            yield Violation("label", label, int(unknown.sum()), rows, said)
    if task.target.kind == VALUE:
        yield from _out_of_range(frame, task)


@dataclass(frozen=True)
class Said:
    """What persons said of readings; NaN where none did. See `interplant.data.corrections`.

    Args:
        value: Of each reading (N,).
        horizon: How far after it the value speaks of (N,).
        told: When it was said (N,).
    """

    value: Floats
    horizon: Floats
    told: Floats

    @classmethod
    def of(cls, frame: "pd.DataFrame", order: NDArray[np.intp]) -> "Said | None":
        """Take the readings of a table in an order; None if nobody said anything."""
        if SAID not in frame.columns:
            return None
        return cls(*(frame[name].to_numpy(dtype=np.float64)[order] for name in NUMBERS))


def values(
    label: Floats | None, task: Task, time: Floats, machines: NDArray[np.intp], said: Said | None = None
) -> Floats:
    """Return the label of each reading, in the unit of `interplant.data.windows.Windows.y`.

    Args:
        label: Of each reading (N,), `encoded`; those of a machine together and in the order of their times.
            None for the time to the machine's last reading.
        task: Its target.
        time: Of each reading (N,).
        machines: Place of the first reading of each machine, and N at the end.
        said: What persons said; where it is about the reading alone, the label has it already.
    """
    target = task.target
    if label is None:
        last = machines[1:] - 1
        found = np.repeat(time[last], np.diff(machines)) - time
        return found if said is None else _to_the_end(found, time, machines, said)
    if target.kind == EVENT:
        within = _within(label, time, machines, target.horizon)
        if said is None or not target.horizon:
            return within
        return np.where(said.horizon == target.horizon, said.value, within)
    if target.kind == VALUE:
        width = TOLERANCE * (target.high - target.low)
        return np.clip(label, target.low - width, target.high + width)
    return label


def ends(at: Floats, value: Floats, told: Floats) -> Floats:
    """Return when a machine fails, by what persons said of the time left at its readings.

    Each says that the machine fails at ``at + value``, and not between. Of two that cannot both be true the
    one that was said last is.

    Args:
        at: Times of the readings (N,).
        value: The time left that was said (N,).
        told: When it was said (N,).
    """
    kept: list[tuple[float, float]] = []
    for place in np.argsort(-told, kind="stable"):
        begin, end = float(at[place]), float(at[place] + value[place])
        if not any(begin <= other < end or first <= end < other for first, other in kept):
            kept.append((begin, end))
    return np.array(sorted({end for _, end in kept}))


def _to_the_end(found: Floats, time: Floats, machines: NDArray[np.intp], said: Said) -> Floats:
    """The time to the next failure that was told; after the last of them, to the machine's last reading."""
    left = found.copy()
    known = np.isfinite(said.value) & (said.horizon == 0)
    for first, end in itertools.pairwise(machines):
        own = first + np.flatnonzero(known[first:end])
        if len(own):
            failures = ends(time[own], said.value[own], said.told[own])
            next_one = np.searchsorted(failures, time[first:end])
            before = np.append(failures, np.nan)[next_one]
            left[first:end] = np.where(np.isnan(before), found[first:end], before - time[first:end])
    return left


def _within(label: Floats, time: Floats, machines: NDArray[np.intp], horizon: float) -> Floats:
    """Whether the label is 1 at a reading or no more than ``horizon`` later; NaN where nobody can tell."""
    last = np.empty(len(label), np.intp)
    for first, end in itertools.pairwise(machines):
        own = time[first:end]
        last[first:end] = first + np.searchsorted(own, own + horizon, side="right") - 1
    events = _sums(label == 1.0)
    seen = events[last + 1] > events[:-1]
    hidden = _sums(~np.isfinite(label))
    unknown = hidden[last + 1] > hidden[:-1]
    ends = np.repeat(time[machines[1:] - 1], np.diff(machines))
    return np.where(seen, 1.0, np.where(unknown | (time + horizon > ends), np.nan, 0.0))


def _sums(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(found)])


def _out_of_range(frame: "pd.DataFrame", task: Task) -> Iterator[Violation]:
    target, label = task.target, task.contract.label
    if frame[label].dtype.kind not in "iuf":
        return  # the contract says so
    width = TOLERANCE * (target.high - target.low)
    outside = (frame[label] < target.low - width) | (frame[label] > target.high + width)
    if outside.any():
        said = f"far outside its declared range, {target.low:g} to {target.high:g} (target.low, target.high)"
        yield Violation("range", label, int(outside.sum()), len(frame), said, task.contract.strays)


def _expected(task: Task) -> list[Any]:
    return task.target.classes if task.target.kind == CLASS else task.contract.texts or [0, 1]


def _first(found: Any, task: Task) -> str:
    first = found.iloc[0].item() if hasattr(found.iloc[0], "item") else found.iloc[0]
    return repr(of_codes(task.contract.texts).get(first, first))
