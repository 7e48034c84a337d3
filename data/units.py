"""Unit conversion as the plant declares it; nothing about a unit is guessed from values."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import UsageError

if TYPE_CHECKING:
    import pint

EPOCHS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}
"""Microseconds in each unit in which a source may give a timestamp as a number since 1970 (UTC)."""


def convert(values: NDArray[np.float64], source: str, target: str) -> NDArray[np.float64]:
    """Return ``values`` of unit ``source`` in unit ``target``; a unit as `pint` reads it (``degF``, ``bar``).

    Raises:
        UsageError: One is no unit, or they do not measure the same.
    """
    if source == target:
        return values
    import pint

    units = _registry()
    try:
        found: Any = units.Quantity(values, units.Unit(source)).to(units.Unit(target)).magnitude
    except (pint.errors.PintError, ValueError, TypeError, AttributeError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"unit {source!r}: cannot be converted to {target!r}: {said}") from None
    return np.asarray(found, dtype=np.float64)


@lru_cache(maxsize=1)
def _registry() -> "pint.UnitRegistry[Any]":
    import pint

    return pint.UnitRegistry()
