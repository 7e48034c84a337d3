"""FedAdagrad: v is the sum of the squares of all rounds' means.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021); see `adaptive`.
"""

from dataclasses import dataclass

from interplant.strategies.adaptive import Adaptive
from interplant.strategies.arrays import Array


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """The strategy's settings; see `Adaptive`."""

    def square(self, before: Array, square: Array) -> Array:
        """Add the square."""
        return before + square
