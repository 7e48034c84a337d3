"""Adaptive server optimizers: what FedAdagrad, FedAdam and FedYogi share.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, "Adaptive Federated Optimization"
(ICLR 2021), algorithm 2. With the mean d of a round's updates,

    m = beta_1 m + (1 - beta_1) d,      v = the strategy's own,      w = w + learning_rate m / (sqrt(v) + tau)

m and v start at 0, as in Flower.
"""

from dataclasses import dataclass

import numpy as np

from interplant.strategies.arguments import number
from interplant.strategies.arrays import Array, Arrays, Piece, is_float, moved, over, pieces, zeros
from interplant.strategies.mean import Averaging, Mean

ROUNDS = "rounds"
"""How many rounds the state has seen, a whole number."""


@dataclass(frozen=True)
class Adaptive(Averaging):
    """The settings that all three have. Whole numbers take the mean as it is.

    Args:
        learning_rate: Server step, about the size by which one weight moves in a round.
        beta_1: How much of the last direction goes on.
        tau: Keeps the step small where updates have been small; larger is less adaptive.
    """

    learning_rate: float = 0.1
    beta_1: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        number("learning_rate", self.learning_rate, 0, open_low=True)
        number("beta_1", self.beta_1, 0, 1)
        number("tau", self.tau, 0, open_low=True)

    def square(self, before: Array, square: Array) -> Array:
        """Return the next v, in a new array, from the last one and the mean's square."""
        raise NotImplementedError

    def rate(self, rounds: int) -> float:
        """Return the step of a round, counted from 1."""
        return self.learning_rate

    def init(self, weights: Arrays) -> Arrays:
        """Return m and v of every array of floats, ``m/NAME`` and ``v/NAME``, and the rounds so far."""
        blank = zeros({f"{kind}/{name}": a for kind in "mv" for name, a in weights.items() if is_float(a)})
        return {**blank, ROUNDS: np.array(0, np.int64)}

    def finish(self, merge: Mean, weights: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Move the weights; see the head of the file."""
        steps = merge.value()
        rounds = int(state[ROUNDS]) + 1
        rate = self.rate(rounds)
        new = {name: np.empty_like(array) for name, array in state.items()}
        new[ROUNDS] = np.array(rounds, np.int64)

        def move(part: Piece) -> None:
            first = Piece(f"m/{part.name}", part.start, part.stop)
            second = Piece(f"v/{part.name}", part.start, part.stop)
            m, v, step = first.of(new), second.of(new), part.of(steps)
            m[:] = self.beta_1 * first.of(state) + (1 - self.beta_1) * step
            v[:] = self.square(second.of(state), np.square(step))
            np.divide(rate * m, np.sqrt(v) + self.tau, out=step)

        over(pieces({name: array for name, array in weights.items() if is_float(array)}), move)
        return moved(weights, steps), new
