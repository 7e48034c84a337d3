"""How good predictions are, by the kind of target: one error that lower is better of, and more to look at.

Exact figures of data: where they are computed they stay, unless the data is public.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.targets import CLASS, EVENT, TIME, VALUE, Target, restored

Floats = NDArray[Any]

MEASURES: Final = {TIME: "rmse", VALUE: "rmse", EVENT: "brier", CLASS: "macro_f1_missing"}
"""The error by which models are compared, of each kind; lower is better.

``brier`` is the mean squared error of the event's probability (Brier, 1950). Unlike the area under the curve
it is there for a hold-out without an event and judges the probability itself; unlike the logarithm of the
likelihood it is bounded, so that no single reading decides. ``macro_f1_missing`` is 1 less the mean F1.
"""


@dataclass(frozen=True)
class Predicted:
    """A model's outputs beside the labels.

    Args:
        outputs: In the model's units, (N,) or (N, classes).
        y: Labels as in `interplant.data.windows.Windows.y` (N,).
    """

    outputs: Floats
    y: Floats


def error(target: Target, found: Predicted) -> float:
    """Return the kind's error of `MEASURES`; NaN for no windows."""
    return scores(target, found)[MEASURES[target.kind]] if len(found.y) else float("nan")


def is_mean(target: Target) -> bool:
    """Whether the kind's error, or its square, is a mean over windows."""
    return target.kind != CLASS


def is_root(target: Target) -> bool:
    """Whether the kind's error is the root of a mean of squares."""
    return target.kind in (TIME, VALUE)


def unit_sums(target: Target, found: Predicted, of: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Return of each unit the sums that `error_of` needs; those of several units are added up.

    Args:
        target: Kind, scale and classes.
        found: Predictions and labels.
        of: The unit of each window, from 0 (N,).
        count: Units.

    Returns:
        Squared errors and windows (count, 2); for classes, of each the hits, and how often it is there or
        predicted (count, 2 x classes).
    """
    outputs, y = found.outputs.astype(np.float64), found.y.astype(np.float64)
    if target.kind == CLASS:
        classes, chosen, true = len(target.classes), outputs.argmax(axis=1), y.astype(np.int64)
        sums = np.zeros((count, 2, classes))
        np.add.at(sums[:, 0], (of[chosen == true], true[chosen == true]), 1.0)
        for there in (chosen, true):
            np.add.at(sums[:, 1], (of, there), 1.0)
        return sums.reshape(count, -1)
    return np.column_stack(
        [
            np.bincount(of, weights=one, minlength=count)
            for one in (_squares(target, outputs, y), 1.0 + 0.0 * y)
        ]
    )


def error_of(target: Target, sums: NDArray[np.float64]) -> Any:
    """Return the error of `MEASURES` from sums of `unit_sums` (..., sums); one number, or (...,)."""
    if target.kind == CLASS:
        hits, both = np.split(sums, 2, axis=-1)
        there = both > 0
        return 1.0 - (2.0 * hits / np.where(there, both, 1.0)).sum(axis=-1) / there.sum(axis=-1)
    mean = sums[..., 0] / sums[..., 1]
    return np.sqrt(mean) if is_root(target) else mean


def scores(target: Target, found: Predicted) -> dict[str, float]:
    """Return all figures of a kind by name, the error of `MEASURES` first.

    Args:
        target: Kind, scale and classes.
        found: At least one prediction.

    Returns:
        For a time or a value ``rmse`` (in the label's unit) and ``r2``; for an event ``brier``, ``auc`` (NaN
        if all readings are of one kind), ``f1`` and ``mcc`` at a probability of a half; for classes
        ``macro_f1_missing``, ``macro_f1`` and ``accuracy``. What is not defined is NaN.
    """
    outputs, y = found.outputs.astype(np.float64), found.y.astype(np.float64)
    if target.kind == EVENT:
        return _event(outputs, y == 1.0)
    if target.kind == CLASS:
        return _classes(outputs.argmax(axis=1), y.astype(np.int64), len(target.classes))
    missed = float(np.mean((restored(target, outputs) - y) ** 2))
    spread = float(np.var(y))
    return {"rmse": math.sqrt(missed), "r2": 1.0 - missed / spread if spread else float("nan")}


def _squares(target: Target, outputs: Floats, y: Floats) -> Floats:
    """Squared error of each window."""
    if target.kind == EVENT:
        from scipy.special import expit

        return np.asarray((expit(outputs) - (y == 1.0)) ** 2)
    return np.asarray((restored(target, outputs) - y) ** 2)


def constant(target: Target, y: Floats, count: int) -> Floats:
    """Return what predicts the same for each of ``count`` windows: the mean, or the shares, of labels ``y``.

    Args:
        target: Kind, scale and classes.
        y: Labels to learn from, at least one.
        count: Windows to predict.

    Returns:
        Outputs in the model's units, (count,) or (count, classes).
    """
    if target.kind == CLASS:
        shares = np.bincount(y.astype(np.int64), minlength=len(target.classes)) / len(y)
        return np.tile(shares, (count, 1))
    mean = float(y.mean(dtype=np.float64))
    if target.kind == EVENT:
        return np.full(count, _log_odds(mean))
    if target.kind == TIME:
        return np.full(count, mean / target.cap)
    return np.full(count, (mean - target.low) / (target.high - target.low))


def _log_odds(share: float) -> float:
    inside = min(max(share, 1e-9), 1.0 - 1e-9)
    return float(np.log(inside / (1.0 - inside)))


def _event(outputs: Floats, happened: NDArray[np.bool_]) -> dict[str, float]:
    from scipy.special import expit

    alarm = outputs > 0.0
    hits, false, missed = (int(one.sum()) for one in (alarm & happened, alarm & ~happened, ~alarm & happened))
    return {
        "brier": float(np.mean((expit(outputs) - happened) ** 2)),
        "auc": _auc(outputs, happened),
        "f1": _f1(hits, false, missed),
        "mcc": _mcc(hits, false, missed, int((~alarm & ~happened).sum())),
    }


def _auc(outputs: Floats, happened: NDArray[np.bool_]) -> float:
    """Share of the pairs of an event and none in which the event has the higher output; ties count half."""
    from scipy.stats import rankdata

    events, others = int(happened.sum()), int((~happened).sum())
    if not events or not others:
        return float("nan")
    ranks = float(rankdata(outputs)[happened].sum())
    return (ranks - events * (events + 1) / 2.0) / (events * others)


def _f1(hits: int, false: int, missed: int) -> float:
    """Twice the hits over alarms and events together; 0 where there is neither."""
    return 2.0 * hits / max(1, 2 * hits + false + missed)


def _mcc(hits: int, false: int, missed: int, rest: int) -> float:
    """Matthews' correlation of alarm and event (1975); 0 where one of them never changes."""
    product = float(hits + false) * (hits + missed) * (rest + false) * (rest + missed)
    return (hits * rest - false * missed) / product**0.5 if product else 0.0


def _classes(chosen: NDArray[np.int64], y: NDArray[np.int64], count: int) -> dict[str, float]:
    """F1 of each class that is there or predicted, on average."""
    hits = np.bincount(y[chosen == y], minlength=count)
    both = np.bincount(y, minlength=count) + np.bincount(chosen, minlength=count)
    mean = float(np.mean(2.0 * hits[both > 0] / both[both > 0]))
    return {"macro_f1_missing": 1.0 - mean, "macro_f1": mean, "accuracy": float(np.mean(chosen == y))}
