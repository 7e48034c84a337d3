"""FedAvg: the mean of the plants' updates.

McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data" (AISTATS 2017). An update is the difference between a plant's weights after and
before its local steps.
"""

from dataclasses import dataclass

from interplant.strategies.arguments import number
from interplant.strategies.arrays import Arrays, moved
from interplant.strategies.mean import Averaging, Mean


@dataclass(frozen=True)
class FedAvg(Averaging):
    """The strategy's settings.

    Args:
        learning_rate: Server step: 1 takes the mean as it is.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        number("learning_rate", self.learning_rate, 0, open_low=True)

    def finish(self, merge: Mean, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights by the mean."""
        return moved(weights, merge.value(self.learning_rate)), state
