"""FedAvg: the mean of the plants' updates.

McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data" (AISTATS 2017). An update is the difference between a plant's weights after and
before its local steps. Weights are public numbers: equal ones by default, never row counts of a plant.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class FedAvg:
    """The strategy's settings.

    Args:
        learning_rate: Server step: 1 takes the mean as it is.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.learning_rate, int | float) and not isinstance(self.learning_rate, bool)
        if not number or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a number above 0, found {self.learning_rate!r}")

    def begin(self, weights: Arrays) -> "Merge":
        """Start an empty merge; it holds one model in float64, whatever the number of plants."""
        return Merge({name: np.zeros(array.shape, np.float64) for name, array in weights.items()})

    def fold(self, merge: "Merge", update: Arrays, weight: float = 1.0) -> None:
        """Add one plant's update in place. ``weight`` is public."""
        for name, total in merge.totals.items():
            np.add(total, update[name] if weight == 1.0 else weight * update[name], out=total)
        merge.weight += weight

    def finish(self, merge: "Merge", weights: Arrays) -> Arrays:
        """Return the next global weights, in the dtypes of the present ones."""
        step = self.learning_rate / merge.weight
        # With a result to write to, arithmetic needs no array beside it; in float64 all the same.
        return {
            name: np.add(
                array,
                np.multiply(merge.totals[name], step),
                dtype=np.float64,
                casting="unsafe",
                out=np.empty(array.shape, array.dtype),
            )
            for name, array in weights.items()
        }


@dataclass
class Merge:
    """A running weighted sum of updates."""

    totals: Arrays
    weight: float = field(default=0.0)
