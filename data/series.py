"""What is said of a series that no sensor measures: the champion's predictions, or its errors.

There is nothing to diagnose as of a sensor: it has moved, or it has not. Predictions may move either way;
errors that fall are no alarm. One drift is named at a time, until it has ended.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.data.detectors import Limits
from interplant.data.diagnosis import ERROR, PREDICTION, Finding, shape
from interplant.data.events import ERRORS, PREDICTIONS
from interplant.data.naming import Seen, passed
from interplant.data.reference import Reference

KIND_OF: Final = {PREDICTIONS: PREDICTION, ERRORS: ERROR}
"""The kind of the events, by what is watched."""


class Series:
    """Names the drifts of a series, in place of `interplant.data.naming.Namer`.

    Args:
        reference: What it is held against.
        limits: Its limits.
        watched: A key of `KIND_OF`.
    """

    def __init__(self, reference: Reference, limits: Limits, watched: str) -> None:
        self._reference, self._limits = reference, limits
        self._kind, self._rising = KIND_OF[watched], watched == ERRORS

    def find(self, seen: Seen, known: Collection[str]) -> list[Finding]:
        """Return the drift of a window; none while one is known.

        Args:
            seen: The window.
            known: What drifts already.
        """
        alarms = self._alarms(seen)
        if known or not alarms.any():
            return []
        parts = np.abs(self._limits.interval.parts(seen.history[-1]))
        channel = int(np.argmax(np.where(alarms, parts + 1, 0)))
        names = self._reference.columns
        place = channel % len(names) if channel < len(alarms) - 1 or len(names) == 1 else None
        evidence, since = {}, 0
        if place is not None:
            middle = self._reference.quantiles[-1, place, self._reference.quantiles.shape[-1] // 2]
            values = seen.block.values[:, place]
            evidence = {"median": float(np.nanmedian(values)), "median_of_reference": float(middle)}
            worth = float(self._limits.interval.worth[place]) / len(self._reference.rows)
            since, _ = shape(seen.history[:, place], worth)
        test, statistic, threshold = passed(self._reference, self._limits, seen, channel)
        name = "" if place is None else names[place]
        return [Finding(self._kind, name, "", test, statistic, threshold, since, evidence)]

    def again(self, seen: Seen, sensor: str) -> Finding:
        """Return a drift that was named before, as it looks now."""
        (found,) = self.find(seen, ())
        return found

    def disagrees(self, seen: Seen, sensor: str) -> bool:
        """Whether the series is still not as in the reference."""
        return bool(self._alarms(seen).any())

    def _alarms(self, seen: Seen) -> NDArray[np.bool_]:
        parts = self._limits.interval.parts(seen.history[-1])
        if not self._rising:
            both: NDArray[np.bool_] = (np.abs(parts) > 1) | (seen.trend > 0)
            return both
        moving = [
            age > 0 and seen.history[-age:, channel].mean() > 0
            for channel, age in enumerate(seen.trend.tolist())
        ]
        up: NDArray[np.bool_] = (parts > 1) | np.array(moving)
        # How much errors scatter is not how large they are.
        up[len(self._reference.columns) :] = False
        return up
