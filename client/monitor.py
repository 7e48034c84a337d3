"""The process beside a plant's agent that notices when there is something to look at: read `Monitor.step`.

It keeps clocks and a count. What there is to do, `interplant.client.looking` does in a child.
"""

import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.client.moments import SCHEDULE, Moments, Pause, in_child, keep_on
from interplant.core import processes
from interplant.core.automation_config import PlantAutomation
from interplant.core.plant_config import LABEL
from interplant.data.index import Index

log = logging.getLogger(__name__)

_LOOKING: Final = "interplant.client.looking"
_TELLING: Final = "interplant.client.telling"


@dataclass
class Rest:
    """Tells when what is new has come to rest: readings, or predictions and labels.

    Args:
        count: Readings in the store when they were last looked at, as its index counts them; or what
            `answers` counts.
        last: The count at the last call.
        changed: When the count changed, in seconds.
        first: When the first of the new ones was seen; None without any.
    """

    count: int = 0
    last: int = 0
    changed: float = 0.0
    first: float | None = None

    def due(self, rules: PlantAutomation, count: int, now: float, least: int = 0) -> bool:
        """Return whether to look now.

        Args:
            rules: How many readings, and how long they rest.
            count: Readings that the sources brought since the last snapshot; or what `answers` counts.
            now: In seconds, from any beginning.
            least: In place of the rules' readings, if it is more than 0.
        """
        self.count = min(self.count, count)  # a snapshot was made: the index counts anew
        if count != self.last:
            self.last, self.changed = count, now
        if count - self.count < (least or rules.readings):
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
        look: Looks, and returns whether that went well.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        look: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plant, self._look, self._clock = plant, look, clock
        self._rest, self._answers, self._pause = Rest(), Rest(), Pause()

    def step(self) -> bool:
        """Look if it is time to; return whether there was a look."""
        settings, now = self._plant.load(), self._clock()
        rules, count = settings.automation, readings(self._plant)
        told = answers(self._plant) if rules.watch else 0
        due = [
            self._rest.due(rules, count, now),
            self._answers.due(rules, told, now, settings.data.drift.window),
            self._plant.look_begun.exists(),
        ]
        if not any(due) or not self._pause.over(now):
            return False
        good = self._look()
        self._pause.note(good, self._clock())
        if not good:
            return True
        self._rest.looked(count, readings(self._plant))
        self._answers.looked(told, told)
        return True


def readings(plant: PlantDirectory) -> int:
    """Return how many readings the sources brought since the last snapshot."""
    path = plant.path / plant.load().data.store / "index.db"
    return sum(one.rows for one in Index(path).intake()) if path.is_file() else 0


def answers(plant: PlantDirectory) -> int:
    """Return how many predictions were logged; each of the labels that are there counts as `LABEL` more.

    A window has so many times fewer of them. A log that cannot be read counts nothing: the look says so.
    """
    if not plant.predictions.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{plant.predictions.resolve().as_uri()}?mode=ro", uri=True)) as log:
            (rows,), (labels,) = (
                log.execute(f"SELECT {what}").fetchone()
                for what in ("max(row) FROM predictions", "count(*) FROM predictions WHERE label IS NOT NULL")
            )
    except sqlite3.Error:
        return 0
    return int(rows or 0) + LABEL * int(labels)


def work(plant: PlantDirectory, stopping: threading.Event) -> int:
    """Step until ``stopping``; what goes by the clock waits for no look."""
    plant.load()  # a start may end on a wrong file
    moments = Moments(
        plant, lambda scheduled: in_child(_TELLING, plant, stopping, *([SCHEDULE] if scheduled else []))
    )
    monitor = Monitor(plant, lambda: in_child(_LOOKING, plant, stopping))
    told = threading.Thread(target=keep_on, args=(moments.step, stopping))
    told.start()
    keep_on(monitor.step, stopping)
    told.join()
    return 0


def main(words: list[str]) -> int:
    """Run the monitor of the plant in the directory ``words[0]``."""
    return processes.work_until_told(lambda stopping: work(PlantDirectory(Path(words[0])), stopping), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
