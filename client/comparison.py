"""Whether a challenger is no worse than a rival, by few independent units: a paired bootstrap, one-sided.

Both predict the same windows, so that what is hard for both cancels: of each unit (`Units`) one difference
is left. Units are resampled with replacement, and the studentised mean of the differences is looked at
(bootstrap-t: Efron, "The jackknife, the bootstrap and other resampling plans", 1982; second-order right for
skewed differences: Hall, "Theoretical comparison of bootstrap confidence intervals", 1988). With some ten or
twenty units even that is too sure of itself (on simulated machines, a bound that should fail 3 times in 100
failed 6 to 11 times), so that a bound is never tighter than Student's.

An error that is no mean over windows (macro F1) is taken by its jackknife pseudo-values (Tukey, 1958).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core import measures
from interplant.core.measures import Predicted
from interplant.core.targets import Target

Floats = NDArray[np.float64]

LEAST: Final = 10
"""Fewer units say nothing about others at 95 %."""

BLOCKS: Final = 40
"""Blocks in which the windows of too few machines are cut, at most: as long as the record allows."""

MOST: Final = 256
"""More units are put together by chance in so many groups, which are as independent, and quicker."""

BETTER: Final = -1e-9
"""The margin of a challenger that has to be better."""

RESAMPLES: Final = 10_000
BEYOND: Final = 50
"""Resamples that lie beyond the bound, at least, as long as all do not take more than `MOST_NUMBERS`."""

MOST_NUMBERS: Final = 10_000_000
_PIECE: Final = 1 << 20  # numbers that are resampled at a time

WIDEST: Final = 20.0
"""No bound of a ratio of errors is looked for beyond this."""


@dataclass(frozen=True)
class Units:
    """What is resampled: units that are taken to be independent of each other.

    Args:
        of: The unit of each window, from 0 (N,).
        count: How many there are.
        kind: ``machines``, or ``blocks`` of consecutive windows within machines: then the answer is about
            these machines, at other times, and not about others.
    """

    of: NDArray[np.intp]
    count: int
    kind: str


@dataclass(frozen=True)
class Compared:
    """A challenger beside a rival.

    Args:
        error: The challenger's, of `interplant.core.measures.MEASURES`.
        rival: The rival's.
        limit: The most that the challenger's true error may be: the rival's, and the margin.
        low: Ratio of the errors, less 1: its lower bound at the level.
        high: Its upper bound at the level.
        passed: Whether the upper bound lies within the margin.
    """

    error: float
    rival: float
    limit: float
    low: float
    high: float
    passed: bool


def units_of(machine: NDArray[np.int64], span: int) -> Units:
    """Choose what is resampled: machines where there are `LEAST` of them, else blocks of their windows.

    Args:
        machine: The machine of each window (N,); the windows of one stand together, in time order.
        span: Windows that are apart by so many share no reading: the shortest block.
    """
    names, of = np.unique(machine, return_inverse=True)
    if len(names) >= LEAST:
        return Units(of.astype(np.intp), len(names), "machines")
    length = max(span, -(-len(machine) // BLOCKS), 1)
    found, first = np.empty(len(machine), np.intp), 0
    for name in range(len(names)):
        own = np.flatnonzero(of == name)
        blocks = max(1, len(own) // length)  # what is left over lengthens the last one
        found[own] = first + np.minimum(np.arange(len(own)) // length, blocks - 1)
        first += blocks
    return Units(found, first, "blocks")


def compare(
    challenger: tuple[Target, Predicted],
    rival: tuple[Target, Predicted],
    units: Units,
    margin: float,
    level: float,
    bounds: bool = True,
) -> Compared:
    """Hold a challenger against a rival on the same windows.

    Args:
        challenger: Its target, which gives the error, and its predictions with the labels.
        rival: The rival's, of the same windows; its target is of the same kind.
        units: Of these windows.
        margin: Share by which the challenger's error may exceed the rival's; `BETTER`: it must be lower.
        level: Probability of passing that a challenger may have whose error is just beyond the margin.
        bounds: Whether `Compared.low` and `Compared.high` are wanted: they take most of the time.
    """
    target = challenger[0]
    own, other = (measures.unit_sums(*one, units.of, units.count) for one in (challenger, rival))
    error, rivals = (float(measures.error_of(target, one.sum(axis=0))) for one in (own, other))
    if np.array_equal(own, other):  # the same model: no sample can tell them apart
        return Compared(error, rivals, rivals * (1.0 + margin), 0.0, 0.0, margin >= 0.0)
    own, other = _grouped(own), _grouped(other)
    resampled = _resampled(len(own), level)

    def within(first: Floats, second: Floats, allowed: float) -> bool:
        return resampled.upper(_values(target, first, second, allowed)) <= 0.0

    def beaten(first: Floats, second: Floats) -> float:
        """The smallest margin at which the first is within it of the second."""
        low, high = -1.0, WIDEST
        if not within(first, second, high):
            return WIDEST
        for _ in range(16):
            middle = (low + high) / 2.0
            low, high = (low, middle) if within(first, second, middle) else (middle, high)
        return high

    low, high = math.nan, math.nan
    if bounds:
        low, high = 1.0 / (1.0 + beaten(other, own)) - 1.0, beaten(own, other)
    return Compared(error, rivals, rivals * (1.0 + margin), low, high, within(own, other, margin))


def _grouped(sums: Floats) -> Floats:
    """Units, or groups of them where there are many, by a chance that is always the same."""
    if len(sums) <= MOST:
        return sums
    group = np.random.default_rng(len(sums)).permutation(len(sums)) % MOST
    found = np.zeros((MOST, sums.shape[1]))
    np.add.at(found, group, sums)
    return found


def _values(target: Target, own: Floats, other: Floats, margin: float) -> Floats:
    """Of each unit a number; their mean is the difference of the errors, margin included.

    Root mean squares are compared by their squares, which are means.
    """
    whole_own, whole_other = own.sum(axis=0), other.sum(axis=0)
    power = 2 if measures.is_root(target) else 1

    def difference(a: Floats, b: Floats) -> Any:
        errors = measures.error_of(target, a) ** power
        return errors - (1.0 + margin) ** power * measures.error_of(target, b) ** power

    if measures.is_mean(target):
        size = whole_own[1] / len(own)  # windows of a unit, on average
        return np.asarray((own[:, 0] - (1.0 + margin) ** power * other[:, 0]) / size)
    n = len(own)
    without = difference(whole_own - own, whole_other - other)
    return np.asarray(n * difference(whole_own, whole_other) - (n - 1) * without)


@lru_cache(maxsize=2)
def _resampled(n: int, level: float) -> "_Resampled":
    return _Resampled(n, level)


class _Resampled:
    """Upper bounds of means of ``n`` values at one level, all from the same resamples.

    Args:
        n: How many values.
        level: Probability beyond the bound.
    """

    def __init__(self, n: int, level: float) -> None:
        from scipy.stats import t

        self._n, self._level = n, level
        self._student = float(t.isf(level, n - 1))
        count = max(RESAMPLES, min(int(BEYOND / level), MOST_NUMBERS // n))
        chance = np.random.default_rng(n)
        rows = max(1, _PIECE // n)
        sizes = [min(rows, count - begin) for begin in range(0, count, rows)]
        uniform = np.full(n, 1.0 / n)
        self._times = [chance.multinomial(n, uniform, size).astype(np.uint8) for size in sizes]

    def upper(self, values: Floats) -> float:
        """Return the upper bound of the mean."""
        mean, spread = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(self._n)
        if not spread > abs(mean) * 1e-12:  # all alike, but for rounding
            return mean
        scaled = (values - mean) / (spread * math.sqrt(self._n))  # so that numbers are near 1
        both = np.column_stack([scaled, scaled**2]).astype(np.float32)
        found = [self._studentised(times.astype(np.float32) @ both) for times in self._times]
        low = float(np.quantile(np.concatenate(found), self._level, method="lower"))
        return mean + max(self._student, -low) * spread

    def _studentised(self, sums: NDArray[np.float32]) -> NDArray[np.float64]:
        """The studentised mean of each resample, from its sum and its sum of squares."""
        total, squares = sums[:, 0].astype(np.float64), sums[:, 1].astype(np.float64)
        variance = np.maximum(squares - total**2 / self._n, 0.0) / (self._n - 1)
        # One that drew a single value over and over knows no spread: it counts as far out.
        error = np.sqrt(variance * self._n)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(
                error > 0.0, total / error, np.where(total == 0.0, 0.0, np.copysign(np.inf, total))
            )
        return np.asarray(found)
