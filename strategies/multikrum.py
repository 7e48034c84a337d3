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
from interplant.strategies.arrays import Array, Arrays
from interplant.strategies.spill import Spill, Spilling

log = logging.getLogger(__name__)

_DEPTH = 1 << 12
"""Elements whose products are summed in single precision, and whose rows BLAS takes at a time, at most."""

_SHORT, _FEWEST = 10**6, 1 << 9
"""Multiplications up to which BLAS does not copy what it is given first, which takes as long as they do; and
elements below which calls take longer than that."""

_ALIKE = 1e-2
"""Part of |a|² + |b|² below which a distance from products has lost too many digits."""


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
        return merge.moved(weights, lambda rows: step * rows.sum(axis=0), chosen), state


def distances(merge: Spill) -> Array:
    """Return the squared L2 distance of every two updates (count, count), in float64.

    From products, as |a|² + |b|² - 2 ab, which is fast; where two updates are so much alike that
    rounding would be seen in that, from their differences.
    """
    products = np.zeros((merge.count, merge.count))
    for part in merge.each(_products):
        products += part
    squares = np.diag(products)
    sizes = squares[:, None] + squares
    found: Array = np.triu(sizes - 2 * products, 1)
    if (found < _ALIKE * sizes)[np.triu_indices(merge.count, 1)].any():
        found = np.zeros_like(products)
        for part in merge.each(_differences):
            found += part
    return found + found.T


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


def _products(rows: Array) -> Array:
    """Products of every two updates over one piece, on and above the diagonal."""
    found, squares = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
    short = _SHORT // max(1, len(rows) - 1) ** 2
    depth = min(_DEPTH, short) if short >= _FEWEST else _DEPTH
    for start in range(0, rows.shape[1], depth):
        part = rows[:, start : start + depth]
        # Not all times all: for that BLAS has a routine of its own, which is slower on so few rows.
        found[:-1, 1:] += part[:-1] @ part[1:].T
        squares += np.vecdot(part, part)
    np.fill_diagonal(found, squares)
    return found


def _differences(rows: Array) -> Array:
    """Squared distances over one piece, above the diagonal."""
    found, spare = np.zeros((len(rows), len(rows))), np.empty_like(rows)
    for index, row in enumerate(rows[:-1]):
        apart = np.subtract(rows[index + 1 :], row, out=spare[index + 1 :])
        found[index, index + 1 :] = np.vecdot(apart, apart)
    return found
