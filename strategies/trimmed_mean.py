"""Trimmed mean: the mean of the updates without the largest and smallest, coordinate by coordinate.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates" (ICML 2018), option II. Up to ``beta`` of the plants, whatever they send, cannot move a coordinate
out of the range of the others.
"""

from dataclasses import dataclass

import numpy as np

from interplant.strategies.arguments import number
from interplant.strategies.arrays import Array, Arrays
from interplant.strategies.network import middle_rows
from interplant.strategies.spill import Spill, Spilling


@dataclass(frozen=True)
class TrimmedMean(Spilling):
    """The strategy's settings.

    Args:
        beta: Part of the updates that is left out at each end, rounded down to whole updates: with
            fewer than 1 / beta updates nothing is.
        learning_rate: Server step: 1 takes the mean as it is.
    """

    beta: float = 0.2
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        number("beta", self.beta, 0, 0.5)
        number("learning_rate", self.learning_rate, 0, open_low=True)

    def finish(self, merge: Spill, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights by the trimmed mean."""
        return merge.moved(weights, self._trimmed), state

    def _trimmed(self, rows: Array) -> Array:
        cut = int(self.beta * len(rows))
        first, *others = middle_rows(rows, cut, len(rows) - cut)
        total = first.copy()
        for row in others:
            np.add(total, row, out=total)
        return np.multiply(total, self.learning_rate / (1 + len(others)), out=total)
