"""Whether a challenger is no worse than a rival, by few independent units: a paired bootstrap, one-sided.

Both predict the same windows, so that what is hard for both cancels. Units (`Units`) are resampled with
replacement, and the logarithm of the ratio of the two errors is looked at, studentised (bootstrap-t: Efron,
"The jackknife, the bootstrap and other resampling plans", 1982; second-order right where values are skewed:
Hall, "Theoretical comparison of bootstrap confidence intervals", 1988). With some ten or twenty units even
that is too sure of itself, so that a bound is never tighter than Student's either.

An error that is no mean over windows (macro F1) is taken by its jackknife pseudo-values (Tukey, 1958).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

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
BEYOND: Final = 20
"""Resamples that lie beyond the bound, at least, as long as all do not take more than `MOST_NUMBERS`."""

MOST_NUMBERS: Final = 3_000_000
_PIECE: Final = 1 << 19  # numbers that are resampled at a time

ALIKE: Final = 1e-6
"""A spread of the logarithm that is rounding: one error is so many times the other in every unit."""

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
        high: Its upper bound at the level; `WIDEST` where nothing can be told.
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
) -> Compared:
    """Hold a challenger against a rival on the same windows.

    Args:
        challenger: Its target, which gives the error, and its predictions with the labels.
        rival: The rival's, of the same windows; its target is of the same kind.
        units: Of these windows.
        margin: Share by which the challenger's error may exceed the rival's; `BETTER`: it must be lower.
        level: Probability of passing that a challenger may have whose error is just beyond the margin.
    """
    target = challenger[0]
    own, other = (measures.unit_sums(*one, units.of, units.count) for one in (challenger, rival))
    error, rivals = (float(measures.error_of(target, one.sum(axis=0))) for one in (own, other))
    limit = rivals * (1.0 + margin)
    if np.array_equal(own, other):  # the same model: no sample can tell them apart
        return Compared(error, rivals, limit, 0.0, 0.0, margin >= 0.0)
    if error <= 0.0 or rivals <= 0.0:  # one that never errs
        end = -1.0 if error < rivals else WIDEST
        return Compared(error, rivals, limit, end, end, error < rivals)
    pair = np.stack([_values(target, _grouped(one)) for one in (own, other)])
    low, high = _resampled(pair.shape[1], level).bounds(pair)
    if measures.is_root(target):
        low, high = low / 2.0, high / 2.0
    most = min(math.expm1(min(high, 10.0)), WIDEST)
    return Compared(error, rivals, limit, math.expm1(max(low, -700.0)), most, high <= math.log1p(margin))


def _grouped(sums: Floats) -> Floats:
    """Units, or groups of them where there are many, by a chance that is always the same."""
    if len(sums) <= MOST:
        return sums
    group = np.random.default_rng(len(sums)).permutation(len(sums)) % MOST
    found = np.zeros((MOST, sums.shape[1]))
    np.add.at(found, group, sums)
    return found


def _values(target: Target, sums: Floats) -> Floats:
    """Of each unit a number; their mean is the error, or of a root mean square its square, but for a factor.

    The factor is the number of windows, which is the same for both models.
    """
    if measures.is_mean(target):
        return np.asarray(sums[:, 0])
    whole, n = sums.sum(axis=0), len(sums)
    error = measures.error_of(target, whole)
    return np.asarray(n * error - (n - 1) * measures.error_of(target, whole - sums))


@lru_cache(maxsize=2)
def _resampled(n: int, level: float) -> "_Resampled":
    return _Resampled(n, level)


class _Resampled:
    """Bounds of the ratio of two means of ``n`` values at one level, all from the same resamples.

    Args:
        n: How many values.
        level: Probability beyond a bound.
    """

    def __init__(self, n: int, level: float) -> None:
        from scipy.special import stdtrit  # as `scipy.stats.t.isf` is computed, which takes long to load

        self._level, self._student = level, -float(stdtrit(n - 1, level))
        count = max(RESAMPLES, min(int(BEYOND / level), MOST_NUMBERS // n))
        chance = np.random.default_rng(n)
        rows = max(1, _PIECE // n)
        sizes = [min(rows, count - begin) for begin in range(0, count, rows)]
        uniform = np.full(n, 1.0 / n)
        self._times = [chance.multinomial(n, uniform, size).astype(np.uint8) for size in sizes]

    def bounds(self, pair: Floats) -> tuple[float, float]:
        """Return the lower and the upper bound of the logarithm of the ratio of the means.

        Args:
            pair: Values of both (2, n), each of a mean more than 0.
        """
        own, other = pair / pair.mean(axis=1, keepdims=True)
        middle = math.log(pair[0].mean() / pair[1].mean())
        spread = float(np.std(own - other, ddof=1)) / math.sqrt(len(own))
        if not spread > ALIKE:
            return middle, middle
        columns = np.column_stack([own, other, own**2, own * other, other**2])
        found = np.concatenate([_studentised(times @ columns, len(own)) for times in self._resamples()])
        low, high = (
            float(np.quantile(found, part, method=method))  # type: ignore[call-overload]
            for part, method in ((self._level, "lower"), (1.0 - self._level, "higher"))
        )
        if not (math.isfinite(low) and math.isfinite(high)):
            return _fieller(pair, self._student)
        return (
            middle - max(self._student, high) * spread,
            middle + max(self._student, -low) * spread,
        )

    def _resamples(self) -> Iterator[Floats]:
        """How often each value is drawn: few bytes are kept of it."""
        return (times.astype(np.float64) for times in self._times)


def _fieller(pair: Floats, student: float) -> tuple[float, float]:
    """Bounds where a model errs in so few units that resamples have none: Fieller's (1954), by Student."""
    n = pair.shape[1]
    (own, other), cross = pair.mean(axis=1), np.cov(pair) * student**2 / n
    a, b, c = other**2 - cross[1, 1], own * other - cross[0, 1], own**2 - cross[0, 0]
    root = b**2 - a * c
    if a <= 0.0 or root < 0.0:
        return -math.inf, math.inf
    low, high = (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a
    return (math.log(low) if low > 0.0 else -math.inf), (math.log(high) if high > 0.0 else -math.inf)


def _studentised(sums: Floats, n: int) -> Floats:
    """The studentised logarithm of the ratio of each resample, from sums of values, squares and products."""
    own, other, own_squares, products, other_squares = sums.T / n
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(own / other)
        variance = own_squares / own**2 - 2.0 * products / (own * other) + other_squares / other**2
        found = ratio / np.sqrt(np.maximum(variance, 0.0) / (n - 1))
    # A resample that knows no spread, or no error, counts as far out.
    return np.asarray(
        np.where(np.isfinite(found), found, np.where(ratio == 0.0, 0.0, _signs(ratio) * np.inf))
    )


def _signs(ratio: Floats) -> Floats:
    return np.where(np.isnan(ratio) | (ratio < 0.0), -1.0, 1.0)
