"""FedAvgM: the mean of the updates with momentum at the coordinator.

Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification" (2019): v becomes momentum times v plus the mean, and the weights move by v.
"""

from dataclasses import dataclass

import numpy as np

from interplant.strategies.arguments import number
from interplant.strategies.arrays import Arrays, Piece, is_float, moved, over, pieces, zeros
from interplant.strategies.mean import Averaging, Mean


@dataclass(frozen=True)
class FedAvgM(Averaging):
    """The strategy's settings. Whole numbers take the mean as it is.

    Args:
        learning_rate: Server step.
        momentum: How much of the last step goes on.
    """

    learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        number("learning_rate", self.learning_rate, 0, open_low=True)
        number("momentum", self.momentum, 0, 1)

    def init(self, weights: Arrays) -> Arrays:
        """Return no velocity."""
        return zeros({name: array for name, array in weights.items() if is_float(array)})

    def finish(self, merge: Mean, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights by the velocity; the state is the velocity of each array, by its name."""
        steps = merge.value()
        velocity = {name: np.empty_like(array) for name, array in state.items()}

        def move(part: Piece) -> None:
            new, step = part.of(velocity), part.of(steps)
            np.add(self.momentum * part.of(state), step, out=new)
            np.multiply(new, self.learning_rate, out=step)

        over(pieces(velocity), move)
        return moved(weights, steps), velocity
