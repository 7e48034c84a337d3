"""How often one plant may do what leaves a line in the history."""

import time
from collections.abc import Callable
from typing import Final

_DEEP: Final = 100
_SECONDS: Final = 60.0


class Pace:
    """So many at once, and then one now and again; each plant for itself.

    Args:
        deep: How many at once.
        seconds: Until there is one more.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self, deep: int = _DEEP, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._deep, self._seconds, self._clock = deep, seconds, clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> bool:
        """Return whether ``name`` may do it once more now, and count it if so."""
        now = self._clock()
        left, then = self._left.get(name, (float(self._deep), now))
        left = min(self._deep, left + (now - then) / self._seconds)
        may = left >= 1
        self._left[name] = (left - may, now)
        return may
