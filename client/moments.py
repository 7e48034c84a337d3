"""When a plant speaks by the clock and the ledger alone: read `Moments.step`.

A word's time is seen by whoever hears it. What depends on no reading is therefore told from here, which
neither counts readings nor waits for a look at them.
"""

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from interplant.client import proposals
from interplant.client.directory import PlantDirectory
from interplant.core import processes
from interplant.core.errors import InterplantError
from interplant.core.week import latest

log = logging.getLogger(__name__)

SCHEDULE: Final = "schedule"

_TICK: Final = 0.5
_HOUR: Final = 3600.0
_AGAIN: Final = 30.0


class Pause:
    """How long something that failed waits: twice as long each time, to an hour.

    Args:
        first: Seconds after the first failure.
    """

    def __init__(self, first: float = _AGAIN) -> None:
        self._first = self._next = first
        self._until = 0.0

    def over(self, now: float) -> bool:
        """Return whether it may be tried."""
        return now >= self._until

    def note(self, good: bool, now: float) -> None:
        """Note how a try went."""
        self._until = 0.0 if good else now + self._next
        self._next = self._first if good else min(_HOUR, 2 * self._next)


class Moments:
    """Tell what is due by the plant's schedule, each hour, and when the ledger has changed.

    Args:
        plant: The plant's directory.
        tell: Tells, and returns whether that went well; the argument says whether a moment has come.
        clock: Seconds, from any beginning.
        today: The time of the week.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        tell: Callable[[bool], bool],
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._plant, self._tell, self._clock, self._today = plant, tell, clock, today
        self._scheduled = _last_scheduled(plant) or today()
        self._pause = Pause()
        self._charged: object = None
        self._told = float("-inf")

    def step(self) -> bool:
        """Tell if it is time to; return whether that was tried."""
        rules, now = self._plant.load().automation, self._clock()
        moment = latest(rules.schedule, self._today(), rules.zone)
        scheduled = SCHEDULE in rules.propose and moment is not None and moment > self._scheduled
        charged = _state(self._plant.ledger)
        budget = rules.budget == "declared" and (charged != self._charged or now >= self._told + _HOUR)
        if not self._pause.over(now) or not (scheduled or budget):
            return False
        good = self._tell(scheduled)
        self._pause.note(good, self._clock())
        if good:
            self._charged, self._told = charged, now
            if scheduled and moment:
                self._scheduled = moment
        return True


def _last_scheduled(plant: PlantDirectory) -> datetime | None:
    times = [one["time"] for one in proposals.noted(plant) if one.get("reason") == SCHEDULE]
    return datetime.fromisoformat(times[-1]) if times else None


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_mtime_ns, found.st_size


def in_child(module: str, plant: PlantDirectory, stopping: threading.Event, *words: str) -> bool:
    """Run a module over the plant in a process of its own, which gives its memory back.

    Returns:
        Whether that went well; False also when ``stopping`` has ended it.
    """
    child = processes.start(
        processes.python_module(module, str(plant.path.resolve()), *words),
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


def keep_on(step: Callable[[], object], stopping: threading.Event) -> None:
    """Step until ``stopping``; what a step fails of is said once. A typo in a file ends no plant."""
    said = ""
    while not stopping.wait(_TICK):
        try:
            step()
        except InterplantError as error:
            if str(error) != said:
                log.error("%s: nothing happens by itself until that is mended", error)
            said = str(error)
        except Exception as error:
            if repr(error) != said:
                log.exception("a step failed; it is tried again")
            said = repr(error)
        else:
            said = ""
