"""The drift monitor: live readings, window by window, against the reference of a snapshot.

Three kinds of readings can be watched, each by a monitor of its own: the inputs, the predictions that a
model makes of them, and, where labels come late, its errors. They share the rate of false alarms.

What it remembers and finds are numbers about data, which stay in the plant.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from interplant.data import diagnosis, events
from interplant.data.blocks import Block, cut
from interplant.data.contract import Floats
from interplant.data.detectors import HORIZON, Limits, Trends, limits
from interplant.data.diagnosis import Finding
from interplant.data.events import Event
from interplant.data.naming import Namer, Seen
from interplant.data.reference import Reference
from interplant.data.runs import Counts, Runs
from interplant.data.series import KIND_OF, Series

KEPT: Final = 2 * HORIZON
"""Windows whose channels are remembered, to tell a slow drift and to draw."""

QUIET: Final = 64
"""Windows in a row without an alarm after which a drift has ended; the next alarm is a new one."""


@dataclass(frozen=True)
class Watched:
    """What is watched, and under which names its events are written.

    Args:
        snapshot: Digest of the reference's snapshot.
        release: The champion, or None.
        name: ``inputs``, ``predictions`` or ``errors``.
        false_alarms: In 10 000 windows, over all sensors and tests of this monitor.
    """

    snapshot: str
    release: str | None = None
    name: str = "inputs"
    false_alarms: float = 1.0


@dataclass
class State:
    """What a monitor remembers; `interplant.data.memory` keeps it in a file.

    Args:
        windows: Windows seen.
        marks: By machine, the time of its last reading that was seen.
        active: Windows since the last alarm, by sensor that drifts; by empty text for all jointly.
        kinds: The kind that each of them was named as last.
        history: Channels of the last windows, in sizes from the centre (at most KEPT, channels).
        runs: Runs of equal values.
    """

    windows: int = 0
    marks: dict[int, float] = field(default_factory=dict)
    active: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    history: Floats = field(default_factory=lambda: np.empty((0, 0)))
    runs: Runs = field(default_factory=Runs)


class Monitor:
    """Holds windows against a reference.

    Args:
        reference: Of the snapshot.
        watched: What the readings are.
        state: From where an earlier monitor of the same reference has stopped; it is changed.
    """

    def __init__(self, reference: Reference, watched: Watched, state: State | None = None) -> None:
        self.reference = reference
        self.watched = watched
        self.state = state or State()
        self.limits: Limits = limits(reference, watched.false_alarms / 10_000)
        self._namer: Namer | Series = (
            Series(reference, self.limits, watched.name)
            if watched.name in KIND_OF
            else Namer(reference, self.limits)
        )
        self._trends = Trends(self.limits)
        if not len(self.state.history):
            self.state.history = np.empty((0, len(reference.channels)))
        # The detectors are those that saw these windows: their state is the windows.
        for row in self.state.history[len(self.state.history) - self.state.windows % HORIZON :]:
            self._trends.update(row)

    def watch(self, blocks: Iterable[Block]) -> list[Event]:
        """Compare readings, and return the drifts that began.

        A machine's readings up to the last one seen of it are passed over: the same readings are compared
        once. So are those that do not fill a window; they are compared when more have come.

        Args:
            blocks: Readings in order; see `interplant.data.blocks.of_frame`.
        """
        found = []
        for part in cut((self._new(block) for block in blocks), self.reference.window):
            rows = self.reference.windows(part)
            counts = self.state.runs.count(part)
            for number, row in enumerate(rows):
                begin = number * self.reference.window
                here = slice(begin, begin + self.reference.window)
                found += self._window(part[here], row, counts[here])
        return found

    def _new(self, block: Block) -> Block:
        last = np.full(len(block), -np.inf)
        for machine in np.unique(block.machine):
            last[block.machine == machine] = self.state.marks.get(int(machine), -np.inf)
        return block[block.time > last]

    def _window(self, block: Block, row: Floats, runs: Counts) -> list[Event]:
        state = self.state
        if state.windows % HORIZON == 0:
            self._trends = Trends(self.limits)
        standard = self.limits.interval.standard(row)
        state.history = np.vstack([state.history, standard])[-KEPT:]
        absent = (~np.isfinite(block.values)).sum(axis=0)
        seen = Seen(block, row, state.history, self._trends.update(standard), runs.max(axis=0), absent)
        found = [*self._namer.find(seen, state.active), *self._grown(seen)]
        self._remember(seen, found)
        began = [self._event(one, block) for one in found]
        for machine in np.unique(block.machine):
            state.marks[int(machine)] = float(block.time[block.machine == machine].max())
        state.windows += 1
        return began

    def _grown(self, seen: Seen) -> Iterator[Finding]:
        """What looked like an offset when it was found, and has turned out to go on growing."""
        for sensor in self.state.active:
            if self.state.kinds[sensor] in diagnosis.CONSTANT and self._namer.disagrees(seen, sensor):
                again = self._namer.again(seen, sensor)
                if again.kind == "drifting":
                    yield again

    def _remember(self, seen: Seen, found: list[Finding]) -> None:
        active, kinds = self.state.active, self.state.kinds
        for sensor in list(active):
            active[sensor] = 0 if self._namer.disagrees(seen, sensor) else active[sensor] + 1
            if active[sensor] >= QUIET:
                del active[sensor], kinds[sensor]
        for one in found:
            for sensor in (one.sensor, one.other) if one.other else (one.sensor,):
                active[sensor], kinds[sensor] = 0, one.kind

    def _event(self, finding: Finding, block: Block) -> Event:
        watched, times = self.watched, (float(block.time[0]), float(block.time[-1]))
        return Event(
            id=events.identity(watched.snapshot, watched.name, finding.sensor, finding.kind, times),
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            snapshot=watched.snapshot,
            release=watched.release,
            watched=watched.name,
            sensor=finding.sensor,
            other=finding.other,
            kind=finding.kind,
            test=finding.test,
            statistic=finding.statistic,
            threshold=finding.threshold,
            false_alarms=watched.false_alarms,
            windows=(max(self.state.windows - finding.since, 0), self.state.windows),
            times=times,
            readings=self.reference.window,
            evidence=dict(finding.evidence),
        )
