"""Median: the median of the updates, coordinate by coordinate.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates" (ICML 2018), option I. Fewer than half of the plants, whatever they send, cannot move a coordinate
out of the range of the others.
"""

from dataclasses import dataclass

from interplant.strategies.arguments import number
from interplant.strategies.arrays import Array, Arrays
from interplant.strategies.network import middle_rows
from interplant.strategies.spill import Spill, Spilling


@dataclass(frozen=True)
class Median(Spilling):
    """The strategy's settings.

    Args:
        learning_rate: Server step: 1 takes the median as it is.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        number("learning_rate", self.learning_rate, 0, open_low=True)

    def finish(self, merge: Spill, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights by the median."""
        return merge.moved(weights, self._median), state

    def _median(self, rows: Array) -> Array:
        """Median of each column; of an even number, the mean of the middle two."""
        count = len(rows)
        middle = middle_rows(rows, (count - 1) // 2, count // 2 + 1)
        median: Array = self.learning_rate * (middle[0] if count % 2 else (middle[0] + middle[1]) / 2)
        return median
