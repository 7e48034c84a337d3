"""The mean of a round's updates, which FedAvg and the server optimizers share.

A running sum: one model in memory whatever the number of plants. float16 and float32 are summed in
float32, the rest in float64. A sum of n terms in floating point is off by at most (n - 1) u of the
sum of their sizes, in whatever order they come (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 4.2): two orders of the same n updates differ by no more than `tolerance`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from interplant.strategies.arrays import Arrays, Piece, ordered, over, pieces, zeros

_LONG = 1 << 20
"""Elements of a piece that is only added: nothing of it needs to stay in a cache."""


@dataclass
class Mean:
    """A running weighted sum.

    Args:
        totals: Sum of the updates times their weights.
        weight: Sum of the weights.
    """

    totals: Arrays
    weight: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._long, self._short = list(pieces(self.totals, _LONG)), list(pieces(self.totals))

    def add(self, update: Arrays, weight: float) -> None:
        """Add an update in place."""
        given = ordered(update)

        def fold(part: Piece) -> None:
            total, new = part.of(self.totals), part.of(given)
            # An equal weight, the rule, costs no multiplication.
            np.add(total, new if weight == 1.0 else np.multiply(new, weight, dtype=total.dtype), out=total)

        over(self._long if weight == 1.0 else self._short, fold)
        self.weight += weight

    def value(self, factor: float = 1.0) -> Arrays:
        """Turn the sum into ``factor`` times the mean, in place, and return it."""
        scale = factor / self.weight
        over(
            self._short,
            lambda part: np.multiply(part.of(self.totals), scale, out=part.of(self.totals)),
        )
        return self.totals


class Averaging:
    """The part of a strategy that takes the mean and keeps no state."""

    def init(self, weights: Arrays) -> Arrays:
        """Return the empty state."""
        return {}

    def begin(self, weights: Arrays, scratch: Path) -> Mean:
        """Start an empty sum."""
        return Mean(zeros(weights))

    def fold(self, merge: Mean, update: Arrays, weight: float = 1.0) -> None:
        """Add one update."""
        merge.add(update, weight)


def tolerance(count: int, sizes: float, precision: type[np.floating] = np.float32) -> float:
    """How far the means of the same updates in two orders may lie apart.

    Args:
        count: Updates.
        sizes: Mean of the updates' absolute values at one element.
        precision: What was summed in.
    """
    unit = float(np.finfo(precision).eps) / 2
    # Both orders round each of n - 1 sums, and once more when the sum is divided.
    return 2 * count * unit * sizes / (1 - count * unit)
