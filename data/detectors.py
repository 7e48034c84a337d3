"""Limits at a stated rate of false alarms, and the detectors that hold live windows against them.

The rate counts windows with any false alarm, over all sensors and tests together: a third of it each goes to
the three tests below, and each third is divided among the channels (Bonferroni), so dependence between
sensors can only make false alarms rarer. Live data are as autocorrelated as the reference's, so the limits
come from the reference's windows in their own order, never from an assumption that readings are independent.

- *Limit*: one window is out of the prediction interval that the reference's windows give for one more of
  their kind, by Student's t (G. J. Hahn, "Factors for calculating two-sided prediction intervals", JASA 64,
  1969), with as many windows as the autocorrelated ones are worth (M. S. Bartlett, JRSS Supplement 8, 1946).
- *Trend*: `river.drift.PageHinkley` over windows finds what is too small for one window (E. S. Page,
  Biometrika 41, 1954). Its threshold comes from a moving-block bootstrap of the reference's windows
  (H. R. Künsch, Annals of Statistics 17, 1989) and the Gumbel law that maxima follow.
- *Stuck*: a run of equal values, longer than geometric runs of the reference's would get.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from river.drift import PageHinkley
from scipy.stats import gumbel_r, t

from interplant.data.contract import Floats
from interplant.data.reference import Reference
from interplant.data.runs import Counts
from interplant.data.survey import STRETCH

PARTS: Final = 3
"""Tests that share the rate."""

ALLOWANCE: Final = 0.5
"""Shift, in sizes of a window, that a trend must pass; what is unknown of the centre is added."""

WILDEST: Final = 3.0
"""Sizes that a window counts for in a trend at most: a single wild one is the limit's business."""

HORIZON: Final = 256
"""Windows after which trends are sought anew."""

_PATHS: Final = 200
"""Bootstrapped sequences of `HORIZON` windows that a trend's threshold comes from."""


@dataclass(frozen=True)
class Interval:
    """Where a window of the reference's kind lies.

    Args:
        centre: Mean over the reference's windows (channels,).
        size: Their standard deviation, at least that of independent readings (channels,).
        below: Sizes under the centre at which one window alarms (channels,).
        above: Sizes over the centre at which one window alarms (channels,).
        worth: Independent windows that the reference's are worth (channels,).
    """

    centre: Floats
    size: Floats
    below: Floats
    above: Floats
    worth: Floats

    def standard(self, rows: Floats) -> Floats:
        """Return channels of windows in sizes from the centre, of the same shape."""
        return (rows - self.centre) / self.size

    def parts(self, sizes: Floats) -> Floats:
        """Return sizes as parts of the bound on their side; beyond 1 or -1 is an alarm."""
        return sizes / np.where(sizes > 0, self.above, self.below)

    def ratios(self, rows: Floats) -> Floats:
        """Return how far channels are from the centre, as parts of the bound; beyond 1 is an alarm."""
        return np.abs(self.parts(self.standard(rows)))


@dataclass(frozen=True)
class Limits:
    """What no window of the reference's kind passes, up to the stated rate.

    Args:
        each: False alarms a window that each channel of each test may make.
        interval: Of single windows.
        allowance: Sizes that a trend's drift must pass (channels,).
        height: Threshold of the trend's sum (channels,).
        longest: Readings in a row without a change that make a sensor stuck (columns,).
        absent: Missing values of a window that a sensor must pass to be gone (columns,).
    """

    each: float
    interval: Interval
    allowance: Floats
    height: Floats
    longest: Floats
    absent: Floats


def limits(reference: Reference, rate: float) -> Limits:
    """Compute the limits of a reference.

    Args:
        reference: With at least ten windows.
        rate: Probability that a window of the reference's kind alarms at all, over all sensors and tests.
    """
    each = rate / PARTS / reference.rows.shape[1]
    interval = prediction(reference.rows, each)
    allowance = ALLOWANCE + 3 / np.sqrt(interval.worth)
    height = _heights(interval.standard(reference.rows), interval.worth, allowance, each)
    longest = _longest(reference, rate / PARTS / len(reference.columns))
    absent = np.maximum(reference.absent, reference.window / 2)
    return Limits(each, interval, allowance, height, longest, absent)


def prediction(rows: Floats, rate: float) -> Interval:
    """Return the interval in which one more window lies, but for this rate.

    Args:
        rows: Channels of the reference's windows, in order (windows, channels).
        rate: Probability of a window outside, on either side, for each channel.
    """
    centre, size = rows.mean(axis=0), np.maximum(rows.std(axis=0, ddof=1), 1.0)
    # The variance is known as well as from so many independent windows, the mean as from so many.
    freedom = np.maximum(len(rows) / _inflation(rows, 2) - 1, 2.0)
    worth = np.maximum(len(rows) / _inflation(rows, 1), 2.0)
    below, above = (
        _bound(sign * (rows - centre) / size, freedom, rate / 2) * np.sqrt(1 + 1 / worth) for sign in (-1, 1)
    )
    return Interval(centre, size, below, above, worth)


def _bound(sizes: Floats, freedom: Floats, rate: float) -> Floats:
    """Where one side's tail has this probability, by Student's t (channels,).

    A side that reaches far out in the reference (machines that fail, regimes that are rare) has the degrees
    of freedom that fit its kurtosis, but for one standard error of it: a t of n degrees has 3 + 6 / (n - 4).
    """
    side = np.maximum(sizes, 0.0)
    count = np.maximum((side > 0).sum(axis=0), 1)
    square, fourth = (side**2).sum(axis=0) / count, (side**4).sum(axis=0) / count
    excess = fourth / np.maximum(square, 1e-12) ** 2 - 3 - np.sqrt(24 / count)
    shape = 4 + 6 / np.maximum(excess, 1e-6)
    found: Floats = t.isf(rate, 1 / (1 / freedom + 1 / shape)) * np.maximum(np.sqrt(square), 1.0)
    return found


class Trends:
    """One Page-Hinkley detector a channel, which has seen the reference.

    Args:
        limits: What they alarm at.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = [self._fresh(place) for place in range(len(limits.height))]
        self._age = np.zeros(len(self._all), np.int64)

    def update(self, row: Floats) -> Counts:
        """Take one window's channels, in sizes from the centre.

        Returns:
            Of each channel that alarms, how many windows its detector had taken; 0 of the others (channels,).
        """
        self._age += 1
        for detector, value in zip(self._all, row, strict=True):
            detector.update(float(np.clip(value, -WILDEST, WILDEST)))
        found = np.where([detector.drift_detected for detector in self._all], self._age, 0)
        for place in np.flatnonzero(found):
            self._all[place], self._age[place] = self._fresh(int(place)), 0
        return found

    def _fresh(self, place: int) -> Any:
        detector: Any = PageHinkley(
            min_instances=1,
            delta=float(self._limits.allowance[place]),
            threshold=float(self._limits.height[place]),
            alpha=1.0,
        )
        # As if the reference's windows had come first, all of them at their mean.
        for _ in range(int(self._limits.interval.worth[place])):
            detector.update(0.0)
        return detector


def excursions(rows: Floats, worth: Floats, allowance: Floats) -> Floats:
    """Return the sum that a fresh detector of `Trends` compares with its threshold, after each window.

    Args:
        rows: In sizes from the centre (windows, channels).
        worth: See `Interval` (channels,).
        allowance: See `Limits` (channels,).
    """
    rows = np.clip(rows, -WILDEST, WILDEST)
    seen = worth.astype(np.int64) + np.arange(1, len(rows) + 1)[:, None]
    moved = rows - np.cumsum(rows, axis=0) / seen
    sides = []
    for sign in (1.0, -1.0):
        total = np.cumsum(sign * moved - allowance, axis=0)
        # The lowest sum may be the one before the first window.
        sides.append(total - np.minimum(np.minimum.accumulate(total, axis=0), 0.0))
    found: Floats = np.maximum(*sides)
    return found


def _heights(rows: Floats, worth: Floats, allowance: Floats, rate: float) -> Floats:
    """Thresholds of trends: the Gumbel tail of bootstrapped maxima, not below that of independent windows."""
    random = np.random.default_rng(0)
    length = min(STRETCH, int(np.ceil(np.sqrt(len(rows)))))
    starts = random.integers(0, len(rows) - length + 1, (_PATHS, -(-HORIZON // length)))
    paths = (starts[..., None] + np.arange(length)).reshape(_PATHS, -1)[:, :HORIZON]
    most = np.stack([excursions(rows[path], worth, allowance).max(axis=0) for path in paths])
    scale = most.std(axis=0, ddof=1) * np.sqrt(6) / np.pi
    place = most.mean(axis=0) - np.euler_gamma * scale
    found = gumbel_r.isf(min(rate * HORIZON, 0.5), place, np.maximum(scale, 1e-9))
    # D. Siegmund, "Sequential Analysis", 1985, section 2.6: runs of a two-sided CUSUM with allowance 1/2.
    independent = max(np.log(1 / rate) - 1.166, 1.0)
    higher: Floats = np.maximum(found, independent)
    return higher


def _inflation(rows: Floats, power: int) -> Floats:
    """One and twice the sum of autocorrelations to this power, to the root of the number of windows."""
    moved = rows - rows.mean(axis=0)
    power_of = np.maximum((moved**2).sum(axis=0), 1e-12)
    lags = int(np.sqrt(len(rows)))
    total = np.ones(rows.shape[1])
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * ((moved[lag:] * moved[:-lag]).sum(axis=0) / power_of) ** power
    found: Floats = np.maximum(total, 1.0)
    return found


def _longest(reference: Reference, rate: float) -> Floats:
    """Runs of equal values that come at this rate a window, if runs get rarer geometrically.

    The reference's longest of N readings has a probability of about 1/N; to come once in ``window / rate``
    readings a run must be longer by the ratio of the logarithms. A sensor that never changed is never stuck.
    """
    further = np.log(reference.window / rate) / np.log(reference.readings)
    runs = 1 + np.ceil(reference.longest * np.maximum(further, 1.0))
    return np.where(reference.constant, np.inf, runs)
