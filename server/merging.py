"""One round's merge, and a last look at what a strategy has made of it."""

from pathlib import Path
from typing import Any

import numpy as np

from interplant.core.errors import InterplantError
from interplant.core.tensors import Tensors
from interplant.strategies.strategy import Strategy


class Merging:
    """Fold checked updates, then make the next weights.

    Args:
        strategy: How updates merge.
        weights: The global model.
        state: The strategy's, of the round before.
        scratch: The run's folder.
    """

    def __init__(self, strategy: Strategy[Any], weights: Tensors, state: Tensors, scratch: Path) -> None:
        self.weights = weights
        self._strategy, self._state = strategy, state
        self._merge = strategy.begin(weights, scratch)

    def fold(self, update: Tensors) -> None:
        """Add a checked update. All plants weigh the same: no plant's word about itself counts."""
        self._strategy.fold(self._merge, update)

    def finish(self) -> tuple[Tensors, Tensors]:
        """Return the next weights and state.

        Raises:
            InterplantError: They cannot be used; the last checkpoint is as it was.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            weights, state = self._strategy.finish(self._merge, self.weights, self._state)
        # An array of no dimensions turns into a bare number in arithmetic.
        weights, state = _arrays(weights), _arrays(state)
        kind = type(self._strategy).__name__
        if _kinds(weights) != _kinds(self.weights):
            raise InterplantError(
                f"strategy {kind}: expected weights with the model's names, shapes and dtypes, found others; "
                "mend the strategy, then `interplant run resume`"
            )
        for name, array in [*weights.items(), *state.items()]:
            if not np.isfinite(array).all():
                raise InterplantError(
                    f"strategy {kind}: expected finite values, found others in {name}; the last checkpoint "
                    "is unharmed: start a run from a release with a smaller strategy.args.learning_rate"
                )
        return weights, state


def _arrays(values: Tensors) -> Tensors:
    return {name: np.asarray(value) for name, value in values.items()}


def _kinds(arrays: Tensors) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
