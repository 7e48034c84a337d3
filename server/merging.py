"""One round's merge, and a last look at what a strategy has made of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from interplant.core import blobs
from interplant.core.errors import InterplantError
from interplant.core.tensors import Tensors
from interplant.strategies.strategy import Strategy


class StrategyError(InterplantError):
    """A strategy has failed, or given what cannot be used. The round is not consumed."""


class Merging:
    """Fold checked updates, then make the next weights.

    Args:
        strategy: How updates merge.
        weights: The global model.
        state: The strategy's, of the round before.
        scratch: The run's folder.

    Raises:
        StrategyError: The strategy fails; so do all methods.
    """

    def __init__(self, strategy: Strategy[Any], weights: Tensors, state: Tensors, scratch: Path) -> None:
        self.weights = weights
        self._strategy, self._state = strategy, state
        with _calling(strategy, "begin"):
            self._merge = strategy.begin(weights, scratch)

    def fold(self, update: Tensors) -> None:
        """Add a checked update. All plants weigh the same: no plant's word about itself counts."""
        with _calling(self._strategy, "fold"):
            self._strategy.fold(self._merge, update)

    def finish(self) -> tuple[Tensors, Tensors]:
        """Return the next weights and state.

        Raises:
            InterplantError: They cannot be used; the last checkpoint is as it was.
        """
        with (
            np.errstate(over="ignore", invalid="ignore", divide="ignore"),
            _calling(self._strategy, "finish"),
        ):
            made: Any = self._strategy.finish(self._merge, self.weights, self._state)
        if not isinstance(made, tuple) or len(made) != 2:
            raise _wrong(self._strategy, f"finish to return weights and state, found {type(made).__name__}")
        weights, state = (_arrays(self._strategy, "finish", one) for one in made)
        if _kinds(weights) != _kinds(self.weights):
            raise _wrong(self._strategy, "weights with the model's names, shapes and dtypes, found others")
        for name, array in [*weights.items(), *state.items()]:
            if not np.isfinite(array).all():
                kind = type(self._strategy).__name__
                raise InterplantError(
                    f"strategy {kind}: expected finite values, found others in {name}; the last checkpoint "
                    "is unharmed: start a run from a release with a smaller strategy.args.learning_rate"
                )
        return weights, state


def first_state(strategy: Strategy[Any], weights: Tensors) -> Tensors:
    """Return a strategy's state before the first round.

    Raises:
        StrategyError: It fails, or the state cannot stand in a checkpoint.
    """
    with _calling(strategy, "init"):
        made = strategy.init(weights)
    return _arrays(strategy, "init", made)


@contextmanager
def _calling(strategy: Strategy[Any], part: str) -> Iterator[None]:
    """Whatever a strategy raises becomes one sentence that names it; a full disk has its own."""
    try:
        yield
    except InterplantError:
        raise
    except (Exception, SystemExit) as error:
        kind, what = type(strategy).__name__, f"{type(error).__name__}: {error}"
        raise StrategyError(f"strategy {kind}: {part} failed with {what}; mend the strategy") from error


def _wrong(strategy: Strategy[Any], what: str) -> StrategyError:
    return StrategyError(f"strategy {type(strategy).__name__}: expected {what}; mend the strategy")


def _arrays(strategy: Strategy[Any], part: str, values: Any) -> Tensors:
    """What a strategy has returned, as arrays: one of no dimensions turns to a bare number in arithmetic."""
    if not isinstance(values, Mapping):
        raise _wrong(strategy, f"{part} to return arrays by name, found {type(values).__name__}")
    if not all(isinstance(name, str) for name in values):
        raise _wrong(strategy, f"{part} to return arrays by name, found other names than text")
    with _calling(strategy, part):
        found = {name: np.asarray(value) for name, value in values.items()}
    for name, array in found.items():
        if array.dtype not in blobs.STORED:
            raise _wrong(strategy, f"numbers in {name}, found dtype {array.dtype}")
    return found


def _kinds(arrays: Tensors) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
