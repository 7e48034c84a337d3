"""The process beside a plant's agent that notices when there is something to look at: read `Monitor.step`.

It keeps clocks and a count. What there is to do, `interplant.client.looking` does in a child.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from interplant.client import proposals
from interplant.client.directory import PlantDirectory
from interplant.core import logs, processes
from interplant.core.automation_config import PlantAutomation
from interplant.core.week import latest
from interplant.data.index import Index

log = logging.getLogger(__name__)

_TICK: Final = 0.5
_AGAIN: Final = 30.0
"""Seconds until a look that failed is tried again."""

SCHEDULE: Final = "schedule"


@dataclass
class Rest:
    """Tells when new readings have come to rest.

    Args:
        count: Readings in the store when they were last looked at, as its index counts them.
        last: The count at the last call.
        changed: When the count changed, in seconds.
        first: When the first of the new readings was seen; None without any.
    """

    count: int = 0
    last: int = 0
    changed: float = 0.0
    first: float | None = None

    def due(self, rules: PlantAutomation, count: int, now: float) -> bool:
        """Return whether to look now.

        Args:
            rules: How many readings, and how long they rest.
            count: Readings that the sources brought since the last snapshot.
            now: In seconds, from any beginning.
        """
        self.count = min(self.count, count)  # a snapshot was made: the index counts anew
        if count != self.last:
            self.last, self.changed = count, now
        if count - self.count < rules.readings:
            self.first = None
            return False
        if self.first is None:
            self.first = now
        return now - self.changed >= rules.rest_seconds or now - self.first >= rules.longest_seconds

    def looked(self, before: int, after: int) -> None:
        """Note that what was counted before a look has been looked at.

        Args:
            before: The count when it began.
            after: The count when it ended; less if a snapshot was made, and then all of it is new.
        """
        self.count, self.first = (before if after >= before else 0), None


class Monitor:
    """Look when there is something to look at.

    Args:
        plant: The plant's directory.
        look: Looks, and returns whether that went well; the argument says whether it is scheduled.
        clock: Seconds, from any beginning.
        today: The time of the week.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        look: Callable[[bool], bool],
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._plant, self._look, self._clock, self._today = plant, look, clock, today
        self._rest = Rest()
        self._again = 0.0
        self._scheduled = _last_scheduled(plant) or today()

    def step(self) -> bool:
        """Look if it is time to; return whether there was a look."""
        rules, now = self._plant.load().automation, self._clock()
        count = readings(self._plant)
        moment = latest(rules.schedule, self._today(), rules.zone)
        scheduled = SCHEDULE in rules.propose and moment is not None and moment > self._scheduled
        if now < self._again or not (self._rest.due(rules, count, now) or scheduled):
            return False
        if not self._look(scheduled):
            self._again = self._clock() + _AGAIN
            return True
        if scheduled and moment:
            self._scheduled = moment
        self._rest.looked(count, readings(self._plant))
        return True


def readings(plant: PlantDirectory) -> int:
    """Return how many readings the sources brought since the last snapshot."""
    path = plant.path / plant.load().data.store / "index.db"
    return sum(one.rows for one in Index(path).intake()) if path.is_file() else 0


def _last_scheduled(plant: PlantDirectory) -> datetime | None:
    times = [one["time"] for one in proposals.noted(plant) if one.get("reason") == SCHEDULE]
    return datetime.fromisoformat(times[-1]) if times else None


def look_in_child(plant: PlantDirectory, stopping: threading.Event, scheduled: bool) -> bool:
    """Look in a process of its own, which gives its memory back; return whether that went well."""
    words = [str(plant.path.resolve()), *([SCHEDULE] if scheduled else [])]
    child = processes.start(
        processes.python_module("interplant.client.looking", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        while child.poll() is None:
            if stopping.wait(0.05):
                return False
    finally:
        processes.stop(child)
    return child.returncode == 0


def work(plant: PlantDirectory, stopping: threading.Event) -> int:
    """Step until ``stopping``."""
    monitor = Monitor(plant, lambda scheduled: look_in_child(plant, stopping, scheduled))
    while not stopping.wait(_TICK):
        monitor.step()
    return 0


def main(words: list[str]) -> int:
    """Run the monitor of the plant in the directory ``words[0]``."""
    processes.follow_parent()
    logs.setup()
    stopping = threading.Event()
    processes.on_stop_signals(stopping)
    return processes.ended(lambda: work(PlantDirectory(Path(words[0])), stopping), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
