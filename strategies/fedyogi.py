"""FedYogi: v moves towards the square of the mean by no more than a part of that square.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), after Zaheer, Reddi, Sachan, Kale and
Kumar, "Adaptive Methods for Nonconvex Optimization" (NeurIPS 2018); see `adaptive`.
"""

from dataclasses import dataclass

import numpy as np

from interplant.strategies.adaptive import Adaptive
from interplant.strategies.arguments import number
from interplant.strategies.arrays import Array


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """The strategy's settings; see `Adaptive`.

    Args:
        beta_2: How much of v stays.
    """

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta_2", self.beta_2, 0, 1)

    def square(self, before: Array, square: Array) -> Array:
        """Move towards the square; not by how far it is away, but by its size."""
        moved: Array = before - (1 - self.beta_2) * square * np.sign(before - square)
        return moved
