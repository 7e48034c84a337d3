"""Strategies by name: those of this room, and a user's own by entry point.

An installed distribution offers its own with, in its ``pyproject.toml``,

    [project.entry-points."interplant.strategies"]
    mine = "my_package.strategies:Mine"

where ``Mine`` is a class as `strategy.Strategy` describes. Only the coordinator loads it.
"""

import inspect
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from interplant.core.errors import UsageError
from interplant.core.schema import Strategy as Settings
from interplant.strategies.fedadagrad import FedAdagrad
from interplant.strategies.fedadam import FedAdam
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.fedavgm import FedAvgM
from interplant.strategies.fedprox import FedProx
from interplant.strategies.fedyogi import FedYogi
from interplant.strategies.krum import Krum
from interplant.strategies.median import Median
from interplant.strategies.multikrum import MultiKrum
from interplant.strategies.strategy import Strategy
from interplant.strategies.trimmed_mean import TrimmedMean

GROUP = "interplant.strategies"

REGISTERED: dict[str, type[Strategy[Any]]] = {
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedyogi": FedYogi,
    "krum": Krum,
    "median": Median,
    "multikrum": MultiKrum,
    "trimmed_mean": TrimmedMean,
}
"""Our own: nobody else's distribution can take one of these names."""

_PARTS = ("init", "begin", "fold", "finish")


def build(settings: Settings) -> Strategy[Any]:
    """Make the strategy that a task names.

    Raises:
        UsageError: The name is unknown, what stands behind it cannot be used, or the arguments do not
            fit.
    """
    found = REGISTERED.get(settings.name) or _installed(settings.name)
    _check_names(found, settings.args)
    try:
        return found(**settings.args)
    except (TypeError, ValueError) as error:
        raise UsageError(f"strategy.args: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's class: making it may fail too
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"strategy.name: {settings.name!r} cannot be made ({what}); mend it") from None


def proximal(settings: Settings) -> float:
    """Return how strongly a plant is to be held to the weights it was sent; 0 unless it is FedProx.

    A plant asks this of a task. It loads nobody's own strategy for it.

    Raises:
        UsageError: FedProx's arguments do not fit.
    """
    strategy = build(settings) if settings.name == "fedprox" else None
    return strategy.mu if isinstance(strategy, FedProx) else 0.0


def _installed(name: str) -> type[Strategy[Any]]:
    """Load a user's own strategy."""
    offered = entry_points(group=GROUP)
    (point, *others) = [*offered.select(name=name)] or [None]
    if point is None:
        known = ", ".join(sorted({*REGISTERED, *offered.names}))
        raise UsageError(f"strategy.name: expected one of {known}, found {name!r}")
    if others:
        raise UsageError(
            f"strategy.name: {name!r} is offered by {_packages([point, *others])}; uninstall all but one"
        )
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's: importing it may fail in any way
        raise UsageError(
            f"strategy.name: {name!r} of {_packages([point])} cannot be imported "
            f"({type(error).__name__}: {error}); mend or uninstall it"
        ) from None
    missing = [part for part in _PARTS if not callable(getattr(found, part, None))]
    if not inspect.isclass(found) or missing:
        raise UsageError(
            f"strategy.name: expected {point.value} of {_packages([point])} to be a class with "
            f"{', '.join(_PARTS)}, found {'no ' + missing[0] if missing else 'no class'}"
        )
    return cast(type[Strategy[Any]], found)


def _check_names(strategy: type[Strategy[Any]], arguments: Iterable[str]) -> None:
    """Refuse arguments that the strategy does not have, and say which it has."""
    known = inspect.signature(strategy).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return
    for name in arguments:
        if name not in known:
            raise UsageError(
                f"strategy.args: expected any of {', '.join(known) or 'nothing'}, found {name!r}; remove it"
            )


def _packages(points: Iterable[EntryPoint]) -> str:
    return ", ".join(sorted({point.dist.name if point.dist else "an unknown package" for point in points}))
