"""Which sensor a drift is of.

A fault of one sensor also shows in the residuals of those that are read together with it. So the sensor is
named without which the others agree best; whoever still disagrees then is named next. A sensor that was
named counts for no other until it agrees again.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.data import diagnosis
from interplant.data.blocks import Block
from interplant.data.contract import Floats
from interplant.data.detectors import Limits, excursions, prediction
from interplant.data.diagnosis import Finding
from interplant.data.reference import KINDS, Reference
from interplant.data.runs import Counts

_RECENT: Final = 16
"""Windows that tell which sensor a trend is of, where no single window does."""


@dataclass(frozen=True)
class Seen:
    """One window, and what the tests said.

    Args:
        block: Its readings.
        row: Its channels (channels,).
        history: Channels of the windows up to it, in sizes from the centre, the oldest first (n, channels).
        trend: Of channels whose trend alarms, how many windows it was watched for; else 0 (channels,).
        runs: Readings without a change of the longest run that ends in the window (columns,).
        absent: Missing values (columns,).
    """

    block: Block
    row: Floats
    history: Floats
    trend: Counts
    runs: Counts
    absent: Counts


class Namer:
    """Names the drifts of windows.

    Args:
        reference: What they are held against.
        limits: Its limits.
    """

    def __init__(self, reference: Reference, limits: Limits) -> None:
        self._reference = reference
        self._limits = limits
        self._names = list(reference.columns)
        self._levels = reference.rows[:, : len(self._names)]
        self._covariance = np.linalg.inv(reference.precision)

    def find(self, seen: Seen, known: Collection[str]) -> list[Finding]:
        """Return the drifts of a window that are not known yet, one a sensor.

        Args:
            seen: The window.
            known: Sensors that drift already; empty text for all of them jointly.
        """
        found = [one for one in self._plain(seen) if one.sensor not in known]
        named = {*known, *(one.sensor for one in found)} - {""}
        alarms = self._alarms(seen)
        if not named and alarms[:-1].any():
            found.append(self._swapped(seen, alarms) or self._first(seen, alarms))
            named = {found[-1].sensor, found[-1].other} - {""}
        elif not named and alarms[-1] and not known:
            return [self._finding("joint", seen, len(alarms) - 1)]
        while named and (place := self._next(seen, named)) is not None:
            found.append(self._diagnosed(seen, place))
            named.add(self._names[place])
        return found

    def again(self, seen: Seen, sensor: str) -> Finding:
        """Return what is wrong with a sensor that was named before, as it looks now."""
        return self._diagnosed(seen, self._names.index(sensor))

    def disagrees(self, seen: Seen, sensor: str) -> bool:
        """Whether a sensor that was named, or all of them jointly, is still not as in the reference."""
        own = self._own(self._names.index(sensor)) if sensor else [-1]
        return bool(self._alarms(seen)[own].any()) or any(one.sensor == sensor for one in self._plain(seen))

    def _own(self, place: int) -> list[int]:
        return [place + kind * len(self._names) for kind in range(len(KINDS))]

    def _alarms(self, seen: Seen) -> NDArray[np.bool_]:
        alarms: NDArray[np.bool_] = (self._limits.interval.ratios(seen.row) > 1) | (seen.trend > 0)
        return alarms

    def _plain(self, seen: Seen) -> list[Finding]:
        """What needs no model: runs, and values that are missing."""
        found = []
        for place, name in enumerate(self._names):
            run, gone = float(seen.runs[place]), float(seen.absent[place])
            longest, absent = float(self._limits.longest[place]), float(self._limits.absent[place])
            if run >= longest:
                known = {"longest_of_reference": float(self._reference.longest[place])}
                found.append(Finding("stuck", name, "", "run", run, longest, 0, known))
            elif gone > absent:
                found.append(Finding("missing", name, "", "missing", gone, absent))
        return found

    def _first(self, seen: Seen, alarms: NDArray[np.bool_]) -> Finding:
        """The sensor without which the others agree best; of several, one that alarms, the furthest off."""
        row = self._telling(seen)
        ratios = self._limits.interval.ratios(row)

        def rank(place: int) -> tuple[float, bool, float]:
            others, own = self._without(row, {self._names[place]}).max(), self._own(place)
            return max(float(others), 1.0), not alarms[own].any(), -float(ratios[own].max())

        best = min(range(len(self._names)), key=rank)
        # Where residuals alarm, whose ever they are, it is a sensor and not what it measures.
        width = len(self._names)
        return self._diagnosed(seen, best, bool(alarms[width : 2 * width].any()))

    def _next(self, seen: Seen, named: Collection[str]) -> int | None:
        """The sensor that disagrees most where the named ones are left out; None if none does."""
        ratios = self._without(seen.row, named)
        free = np.array([name not in named for name in self._names])
        trends = seen.trend[:-1].reshape(len(KINDS), -1) > 0
        # A trend of a residual may be the named ones' doing; a level is its sensor's own.
        moving = free & (trends[0] | trends.any(axis=0) & (self._without(self._recent(seen), named) > 1))
        place = int(np.argmax(np.maximum(ratios, 1.01 * moving)))
        return place if ratios[place] > 1 or moving[place] else None

    def _telling(self, seen: Seen) -> Floats:
        """The window's channels; where only trends alarm, the recent windows' as if they were one."""
        interval = self._limits.interval
        if (interval.ratios(seen.row) > 1).any():
            return seen.row
        return self._recent(seen)

    def _recent(self, seen: Seen) -> Floats:
        interval, recent = self._limits.interval, seen.history[-_RECENT:]
        pooled: Floats = recent.mean(axis=0) * np.sqrt(len(recent))
        return interval.centre + interval.size * pooled

    def _without(self, row: Floats, left_out: Collection[str]) -> Floats:
        """Ratios of levels and residuals where some sensors are left out (columns,); 0 of those."""
        keep = np.array([name not in left_out for name in self._names])
        ratios = np.zeros(len(keep))
        if keep.any():
            precision = np.linalg.inv(self._covariance[np.ix_(keep, keep)])
            turn = precision / np.sqrt(np.diag(precision))
            interval = prediction(self._levels[:, keep] @ turn, self._limits.each)
            levels = self._limits.interval.ratios(row)[: len(keep)]
            ratios[keep] = np.maximum(interval.ratios(row[: len(keep)][keep] @ turn), levels[keep])
        return ratios

    def _swapped(self, seen: Seen, alarms: NDArray[np.bool_]) -> Finding | None:
        """Two alarming sensors that agree with the reference once their values change places."""
        places = np.flatnonzero(alarms[:-1].reshape(len(KINDS), -1).any(axis=0))
        best: tuple[float, int, int] = (1.0, -1, -1)
        for first, second in combinations((int(place) for place in places), 2):
            values = seen.block.values.copy()
            values[:, [first, second]] = values[:, [second, first]]
            block = Block(seen.block.machine, seen.block.time, values, seen.block.condition)
            ratios = self._limits.interval.ratios(self._reference.windows(block)[0])
            best = min(best, (float(ratios[self._own(first) + self._own(second)].max()), first, second))
        after, first, second = best
        if first < 0:
            return None
        before = float(self._limits.interval.ratios(seen.row)[self._own(first) + self._own(second)].max())
        channel = max(self._own(first) + self._own(second), key=lambda one: abs(seen.history[-1, one]))
        evidence = {"of_threshold": before, "of_threshold_changed_back": after}
        return self._finding("swapped", seen, channel, self._names[first], self._names[second], 0, evidence)

    def _diagnosed(self, seen: Seen, place: int, faulty: bool = False) -> Finding:
        """What is wrong with a sensor; ``faulty`` if it is known to disagree with the others."""
        own = self._own(place)
        ratios = self._limits.interval.ratios(self._telling(seen))[own]
        alarms = self._alarms(seen)[own]
        kind, since, evidence = diagnosis.diagnose(
            seen.block.values[:, place],
            self._reference.expected(seen.block)[:, place],
            float(self._reference.error[place]),
            seen.history[:, own],
            ratios,
            alarms | np.array([False, faulty, False]),
            self._limits.interval.worth[own] / len(self._levels),
        )
        channel = own[int(np.argmax(np.where(alarms, ratios + 1, ratios)))]
        return self._finding(kind, seen, channel, self._names[place], "", since, evidence)

    def _finding(
        self,
        kind: str,
        seen: Seen,
        channel: int,
        sensor: str = "",
        other: str = "",
        since: int = 0,
        evidence: dict[str, float] | None = None,
    ) -> Finding:
        test, statistic, threshold = passed(self._reference, self._limits, seen, channel)
        return Finding(kind, sensor, other, test, statistic, threshold, since, evidence or {})


def passed(reference: Reference, limits: Limits, seen: Seen, channel: int) -> tuple[str, float, float]:
    """Return which test a channel has failed, what was found, and the threshold that it passed.

    Args:
        reference: What the window is held against.
        limits: Its limits.
        seen: The window.
        channel: One that alarms.
    """
    test, statistic = reference.channels[channel][1], float(seen.history[-1, channel])
    interval = limits.interval
    threshold = float((interval.above if statistic > 0 else interval.below)[channel])
    if abs(statistic) <= threshold and (age := int(seen.trend[channel])):
        one = slice(channel, channel + 1)
        sums = excursions(seen.history[-age:, one], interval.worth[one], limits.allowance[one])
        return f"{test} trend", float(sums[-1, 0]), float(limits.height[channel])
    return test, statistic, threshold
