"""Multi-Krum: the mean of the updates that lie nearest to their neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent" (NeurIPS 2017). With n updates of which f may be wrong, an update's score is the sum of
its squared distances to the n - f - 2 others that are nearest; the updates with the lowest scores are
kept. What the paper proves needs n above 2 f + 2.
"""

import logging
from dataclasses import dataclass

import numpy as np

from interplant.strategies.arguments import number, whole
from interplant.strategies.arrays import Array, Arrays, moved
from interplant.strategies.spill import Spill, Spilling

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MultiKrum(Spilling):
    """The strategy's settings.

    Args:
        faulty: How many plants may send anything, f.
        keep: How many updates are kept; all of them if fewer came.
        learning_rate: Server step: 1 takes the mean as it is.
    """

    faulty: int = 1
    keep: int = 3
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        whole("faulty", self.faulty, 0)
        whole("keep", self.keep, 1)
        number("learning_rate", self.learning_rate, 0, open_low=True)

    def finish(self, merge: Spill, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights by the mean of the updates that are kept."""
        if merge.count < 2 * self.faulty + 3:
            log.warning(
                "krum: %d updates, of which %d may be wrong: expected at least %d; raise rounds.quorum",
                merge.count, self.faulty, 2 * self.faulty + 3,
            )  # fmt: skip
        chosen = nearest(distances(merge), self.faulty, self.keep)
        step = self.learning_rate / len(chosen)
        return moved(weights, merge.reduce(lambda rows: step * rows.sum(axis=0), chosen)), state


def distances(merge: Spill) -> Array:
    """Return the squared L2 distance of every two updates (count, count), in float64."""
    total = np.zeros((merge.count, merge.count))
    for part in merge.each(_distances):
        total += part
    return total + total.T


def nearest(squares: Array, faulty: int, keep: int) -> list[int]:
    """Return the updates with the lowest scores, in the order they came; of equals the first.

    Args:
        squares: Squared distances (count, count).
        faulty: f.
        keep: How many.
    """
    neighbours = max(1, len(squares) - faulty - 2)
    # The nearest of all is the update itself.
    scores = np.sort(squares, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[:keep].tolist())


def _distances(rows: Array) -> Array:
    """Squared distances over one piece, above the diagonal.

    Differences first: the norms' difference would drown the distance of two updates that are alike.
    """
    found, spare = np.zeros((len(rows), len(rows))), np.empty_like(rows)
    for index, row in enumerate(rows[:-1]):
        apart = np.subtract(rows[index + 1 :], row, out=spare[index + 1 :])
        found[index, index + 1 :] = np.vecdot(apart, apart)
    return found
