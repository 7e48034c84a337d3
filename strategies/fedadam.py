"""FedAdam: v is a running mean of the squares.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021); see `adaptive`. The paper leaves out the
correction for the start at 0 of Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015);
Flower has it, and counts the first round as the second, so that early steps are a little smaller.
The default is Flower's.
"""

import math
from dataclasses import dataclass

from interplant.strategies.adaptive import Adaptive
from interplant.strategies.arguments import number
from interplant.strategies.arrays import Array


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """The strategy's settings; see `Adaptive`.

    Args:
        beta_2: How much of v stays.
        corrected: Whether early steps are corrected as in Flower; false is the paper's algorithm.
    """

    learning_rate: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    corrected: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta_2", self.beta_2, 0, 1)
        if not isinstance(self.corrected, bool):
            raise ValueError(f"corrected: expected true or false, found {self.corrected!r}")

    def square(self, before: Array, square: Array) -> Array:
        """Move a part of the way to the square."""
        mixed: Array = self.beta_2 * before + (1 - self.beta_2) * square
        return mixed

    def rate(self, rounds: int) -> float:
        """Return the step of a round, corrected if it shall be."""
        if not self.corrected:
            return self.learning_rate
        age = rounds + 1
        return self.learning_rate * math.sqrt(1 - self.beta_2**age) / (1 - self.beta_1**age)
