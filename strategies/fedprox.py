"""FedProx: FedAvg at the coordinator, and plants that are held near the global weights.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous Networks"
(MLSys 2020). A plant minimises its loss plus mu / 2 times the squared distance to the weights it was
sent. `interplant.privacy.optimizers` adds that term's gradient, mu (w - w_sent), to the gradient of a
step after noise: it depends on weights alone and costs no privacy.
"""

from dataclasses import dataclass

from interplant.strategies.arguments import number
from interplant.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """The strategy's settings.

    Args:
        learning_rate: Server step: 1 takes the mean as it is.
        mu: How strongly plants are held; 0 is FedAvg. With plain SGD at the plants,
            ``training.learning_rate`` times mu must stay well below 2, or their steps overshoot.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        number("mu", self.mu, 0)
