"""Krum: the one update that lies nearest to its neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent" (NeurIPS 2017); see `multikrum`, of which it keeps one.
"""

from dataclasses import dataclass, field

from interplant.strategies.multikrum import MultiKrum


@dataclass(frozen=True)
class Krum(MultiKrum):
    """The strategy's settings.

    Args:
        faulty: How many plants may send anything.
        learning_rate: Server step: 1 takes the update as it is.
    """

    keep: int = field(default=1, init=False)
