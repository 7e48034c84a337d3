"""What kind of drift a sensor has, with the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from interplant.data.contract import Floats

PREDICTION: Final = "prediction"
ERROR: Final = "error"

KINDS: Final = {
    "stuck": "has not changed for longer than in the reference",
    "missing": "is missing in most readings",
    "swapped": "gives the values of",
    "drifting": "moves away slowly",
    "offset": "is off by a constant",
    "scaled": "is off by a factor",
    "noise": "scatters differently about what the other sensors say",
    "process": "has moved, and what is read with it too: what it measures, not the sensor",
    "joint": "no single sensor is unusual, all together are",
    PREDICTION: "the champion predicts otherwise than on its hold-out",
    ERROR: "the champion errs more than on its hold-out",
}
"""What the kind of an event says of its sensor; the last two are of no sensor."""

CONSTANT: Final = ("offset", "scaled", "process")
"""Kinds that a slow drift may be taken for while it has just begun."""

_BETTER: Final = 5.0
"""Log-likelihood by which a ramp must describe windows better than a step, and a factor than an offset: what
is simpler is said unless the readings speak against it."""

_SHORTEST: Final = 5
"""Windows of a ramp."""

_REMEMBERED: Final = 128
"""Windows that are looked at for the beginning."""

_FREEDOM: Final = 4.0
"""Degrees of freedom of the errors' distribution: single wild readings do not decide."""


@dataclass(frozen=True)
class Finding:
    """A drift that a window shows.

    Args:
        kind: A key of `KINDS`.
        sensor: Its column; empty for ``joint``.
        other: The sensor whose values it gives, where it is ``swapped``; else empty.
        test: What alarmed: a channel of `interplant.data.reference` or its trend; ``run`` or ``missing``.
        statistic: In sizes from the reference's centre; of a trend, their sum; of the rest, readings.
        threshold: What it passed, in the same unit.
        since: How many windows ago it seems to have begun.
        evidence: Further numbers, of a sensor in its own unit.
    """

    kind: str
    sensor: str
    other: str
    test: str
    statistic: float
    threshold: float
    since: int = 0
    evidence: Mapping[str, float] = field(default_factory=dict)


def diagnose(
    values: Floats,
    expected: Floats,
    error: float,
    history: Floats,
    ratios: Floats,
    alarms: NDArray[np.bool_],
    worth: Floats,
) -> tuple[str, int, dict[str, float]]:
    """Return the kind of drift, how many windows ago it began, and the evidence.

    Args:
        values: A window's values of the sensor (N,).
        expected: What the other sensors let expect, in the same unit (N,).
        error: Standard deviation of their difference in the reference.
        history: The sensor's level, residual and spread in the windows up to now, in sizes (n, 3).
        ratios: How far the three are from the centre; beyond 1 is an alarm (3,).
        alarms: Whether they alarm, by a limit or by a trend (3,).
        worth: Independent windows that one of the autocorrelated ones is worth, of each of the three (3,).
    """
    evidence = likely(values, expected, error)
    if not alarms[:2].any():
        return _likelier(("noise", "offset", "scaled"), evidence), 0, evidence
    moved = int(np.argmax(ratios[:2]))
    since, ramp = shape(history[:, moved], float(worth[moved]))
    if ramp:
        return "drifting", since, evidence
    kind = _likelier(("offset", "scaled", "noise"), evidence) if alarms[1:].any() else "process"
    return kind, since, evidence


def shape(windows: Floats, worth: float = 1.0) -> tuple[int, bool]:
    """Return how many windows ago a sensor left its centre, and whether on a ramp rather than by a step.

    Both are fitted by least squares, with every window as the possible beginning.

    Args:
        windows: In sizes from the centre (n,).
        worth: Independent windows that one of them is worth.
    """
    steps, ramps, windows = [], [], windows[-_REMEMBERED:]
    for begin in range(len(windows)):
        after = windows[begin:]
        rise = np.arange(1, len(after) + 1, dtype=np.float64)
        before = float((windows[:begin] ** 2).sum())
        steps.append(before + float(((after - after.mean()) ** 2).sum()))
        ramps.append(before + float(((after - rise * (rise @ after) / (rise @ rise)) ** 2).sum()))
    step, ramp = int(np.argmin(steps)), int(np.argmin(ramps))
    gain = worth * len(windows) / 2 * np.log(max(steps[step], 1e-9) / max(ramps[ramp], 1e-9))
    is_ramp = bool(len(windows) - ramp >= _SHORTEST and gain > _BETTER)
    return len(windows) - 1 - (ramp if is_ramp else step), is_ramp


def likely(values: Floats, expected: Floats, error: float) -> dict[str, float]:
    """Return the offset, the factor and the scatter that describe a window best, with log-likelihoods.

    Each is one number of its own; errors follow Student's t. A window without a value says nothing.

    Args:
        values: (N,); what is not finite is left out.
        expected: (N,).
        error: Standard deviation of their difference in the reference; 0 is taken as a tiny part of it.
    """
    there = np.isfinite(values)
    if not there.any():
        return {}
    values, expected = values[there], expected[there]
    difference = values - expected
    size = max(error, 1e-9 * float(np.abs(expected).max(initial=1.0))) * np.sqrt((_FREEDOM - 2) / _FREEDOM)
    offset, power = float(np.median(difference)), float(expected @ expected)
    factor = float(values @ expected) / power if power > 0 else 1.0
    spread = float(np.median(np.abs(difference))) * np.sqrt((_FREEDOM - 2) / _FREEDOM) / size
    scatter, gain = max(spread / float(norm.isf(0.25)), 1e-9), max(abs(factor), 1e-9)
    return {
        "offset": offset,
        "factor": factor,
        "scatter": scatter,
        "likelihood_offset": _likelihood(difference - offset, size),
        "likelihood_scaled": _likelihood(values - factor * expected, size * gain),
        "likelihood_noise": _likelihood(difference, size * scatter),
    }


def _likelier(kinds: Sequence[str], evidence: Mapping[str, float]) -> str:
    """The first of the kinds that describes the window as well as the best one does, or nearly."""
    said = {kind: evidence.get(f"likelihood_{kind}", 0.0) for kind in kinds}
    return next(kind for kind in kinds if said[kind] >= max(said.values()) - _BETTER)


def _likelihood(errors: Floats, size: float) -> float:
    return float(t.logpdf(errors, _FREEDOM, scale=size).sum())
