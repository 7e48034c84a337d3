"""What the prediction log says of two releases that answer beside each other: how far apart, who is right.

Exact figures of the plant's data; they stay in the plant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from interplant.client.predictions import Label, Prediction, Predictions
from interplant.core.targets import CLASS, EVENT, TIME, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from interplant.core.schema import Task

FIRST_LOOK: Final = 40
"""Labelled pairs at which errors are looked at first; then when there are twice as many, and at the end."""

_PAGE: Final = 10_000


@dataclass(frozen=True)
class Pair:
    """One window, predicted by both.

    Args:
        own: What the release on trial said, in what a person is told.
        other: What the one beside it said.
        machine: Whose window, or empty.
        at: Time of its last reading, or of the answer.
        label: What turned out to be true; None until it is known.
    """

    own: tuple[float, ...]
    other: tuple[float, ...]
    machine: str
    at: float
    label: Label | None


@dataclass(frozen=True)
class Errors:
    """The errors of two releases on the same labelled windows.

    Args:
        own: Of the release on trial, as `interplant.core.measures.MEASURES` has it.
        other: Of the one beside it.
        worse: Whether the first is sure to exceed the second by more than the margin.
    """

    own: float
    other: float
    worse: bool


class Apart:
    """How far two releases are apart on average, over all of a stage's predictions; read on as they come.

    Args:
        target: What both predict.
        own: The release on trial.
        other: The one beside it.
        since: When the stage began, ISO 8601.
    """

    def __init__(self, target: Target, own: str, other: str, since: str) -> None:
        self._target, self._own, self._other = target, own, other
        self._since = seconds_of(since)
        self._row: int | None = None
        self.count = 0
        """Windows that both have predicted."""
        self._sum = 0.0

    @property
    def mean(self) -> float:
        """The mean distance, 0 to 1; 0 without a pair."""
        return self._sum / self.count if self.count else 0.0

    def read_on(self, log: Predictions) -> None:
        """Take in what has come since."""
        if self._row is None:
            self._row = log.row_before(self._since)
        while rows := log.since(self._row, _PAGE):
            self._row = rows[-1].row
            for pair in pairs(rows, self._own, self._other):
                self._sum += distance(self._target, pair.own, pair.other)
                self.count += 1


def pairs(rows: Sequence[Prediction], own: str, other: str) -> list[Pair]:
    """Return the predictions that both releases have made, whichever of them was heard."""
    found = []
    for row in rows:
        if row.challenger_prediction is None:
            continue
        if (row.release, row.challenger) == (own, other):
            said = (row.prediction, row.challenger_prediction)
        elif (row.release, row.challenger) == (other, own):
            said = (row.challenger_prediction, row.prediction)
        else:
            continue
        at = row.time if row.at is None else row.at
        found.append(Pair(*said, row.machine or "", at, row.label))
    return found


def labelled(log: Predictions, own: str, other: str, since: str) -> list[Pair]:
    """Return the stage's pairs whose label is known, in the order in which labels came."""
    begun = seconds_of(since)
    rows = [row for row in log.labelled(since=begun) if row.time >= begun]
    return pairs(rows, own, other)


def distance(target: Target, one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Return how far two predictions are apart, 0 to 1; see `interplant.core.trial_config.Trial`."""
    if target.kind == CLASS:
        return float(_largest(one) != _largest(two))
    width = 1.0 if target.kind == EVENT else target.cap if target.kind == TIME else target.high - target.low
    return min(1.0, abs(one[0] - two[0]) / width)


def looked_at(count: int) -> int:
    """Return at how many labelled pairs errors were to be looked at last, or 0: not yet."""
    if count < FIRST_LOOK:
        return 0
    look = FIRST_LOOK
    while 2 * look <= count:
        look *= 2
    return look


def compared(task: "Task", found: Sequence[Pair], margin: float, level: float) -> Errors | None:
    """Hold the errors of two releases against each other, as the gate does.

    Args:
        task: What both predict.
        found: Labelled pairs.
        margin: Share by which the error of the release on trial may exceed the other's.
        level: Probability of being found worse that a release may have whose error is just at the margin.

    Returns:
        The errors; None if there are too few independent units, or labels of other kinds.
    """
    import numpy as np

    from interplant.client import comparison
    from interplant.core.measures import Predicted

    found = sorted(found, key=lambda pair: (pair.machine, pair.at))
    labels = [trained_label(task.target, pair.label) for pair in found]
    known = [pair for pair, label in zip(found, labels, strict=True) if label is not None]
    if not known:
        return None
    y = np.array([label for label in labels if label is not None], np.float32)
    names = {name: place for place, name in enumerate(sorted({pair.machine for pair in known}))}
    machines = np.array([names[pair.machine] for pair in known], np.int64)
    units = comparison.units_of(machines, task.window.length)
    if units.count < comparison.LEAST:
        return None
    own = task.target, Predicted(outputs_of(task.target, [pair.own for pair in known]), y)
    other = task.target, Predicted(outputs_of(task.target, [pair.other for pair in known]), y)
    # Worse by more than the margin is who is beaten by it: the other's error is lower by that share.
    lower = min(1.0 / (1.0 + margin) - 1.0, comparison.BETTER)
    beaten = comparison.compare(other, own, units, lower, level)
    return Errors(beaten.rival, beaten.error, beaten.passed)


def outputs_of(target: Target, told: "Sequence[tuple[float, ...]]") -> "NDArray[np.float32]":
    """Bring what a person was told back into a model's units; see `interplant.core.targets.told`."""
    import numpy as np

    numbers = np.array(told, np.float64)
    if target.kind == CLASS:
        outputs: NDArray[np.float64] = np.log(np.maximum(numbers, 1e-300))
    elif target.kind == EVENT:
        inside = np.clip(numbers[:, 0], 1e-12, 1.0 - 1e-12)
        outputs = np.log(inside / (1.0 - inside))
    elif target.kind == TIME:
        outputs = numbers[:, 0] / target.cap
    else:
        outputs = (numbers[:, 0] - target.low) / (target.high - target.low)
    return outputs.astype(np.float32)


def seconds_of(text: str) -> float:
    """Return an ISO 8601 time in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def trained_label(target: Target, label: Label | None) -> float | None:
    """Return a label as the windows of training have it; None for one of another kind."""
    if target.kind == CLASS:
        places = [place for place, name in enumerate(target.classes) if name == label]
        return float(places[0]) if places else None
    if not isinstance(label, int | float):
        return None
    return min(float(label), target.cap) if target.kind == TIME else float(label)


def _largest(scores: tuple[float, ...]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
