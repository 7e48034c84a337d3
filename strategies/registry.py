"""Strategies by name."""

from typing import Protocol

from interplant.core.errors import UsageError
from interplant.core.schema import Strategy as Settings
from interplant.strategies.fedavg import Arrays, FedAvg, Merge

REGISTERED = {"fedavg": FedAvg}


class Strategy(Protocol):
    """How updates merge: begin, fold each update as it comes, finish."""

    def begin(self, weights: Arrays) -> Merge:
        """Start an empty merge."""

    def fold(self, merge: Merge, update: Arrays, weight: float = 1.0) -> None:
        """Add one update in place."""

    def finish(self, merge: Merge, weights: Arrays) -> Arrays:
        """Return the next global weights."""


def build(settings: Settings) -> Strategy:
    """Make the strategy that a task names.

    Raises:
        UsageError: The name is unknown or the arguments do not fit.
    """
    if settings.name not in REGISTERED:
        known = ", ".join(sorted(REGISTERED))
        raise UsageError(f"strategy.name: expected one of {known}, found {settings.name!r}")
    try:
        return REGISTERED[settings.name](**settings.args)
    except (TypeError, ValueError) as error:
        raise UsageError(f"strategy.args: {error}") from None
