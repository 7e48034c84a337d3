"""A second release answers beside the champion, in a process of its own, off the way of its answers.

It is asked what the champion is asked. Who asks gets a future and never waits here; where too many wait, or
the process is not ready, there is none. A model that does not answer in time is ended with its process, which
starts again. What comes of it is counted (`interplant.client.tally`); who decides is the trial.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.client import champion as pointers
from interplant.client import tally
from interplant.client.beside_process import Failed, Process
from interplant.client.champion import CANARY, Challenger
from interplant.client.directory import PlantDirectory
from interplant.client.tally import Tally
from interplant.core.errors import InterplantError
from interplant.core.files import file_state

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05
"""How often the pointer is looked at."""

NOTE_SECONDS: Final = 0.5
"""How often counts are written down."""

QUEUE: Final = 64
"""Requests that may wait; more are not asked."""

START_SECONDS: Final = 60.0
"""How long the process may take to load the release."""

HANG: Final = 10.0
"""A request that takes so many times its budget, and at least a second, is ended with its process."""

_NICE: Final = 10

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Job:
    x: Floats
    answer: "Future[Floats]"


class Beside:
    """What answers beside the champion, as ``challenger.json`` says; a thread follows it.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._plant = plant
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seen: object = None
        self._wanted: Challenger | None = None
        self._child: Process | None = None
        self._resume_at = 0.0
        self._pause = 0.5
        self._tally: Tally | None = None
        self._noted: Tally | None = None
        self._noted_at = 0.0
        self.second: Challenger | None = None
        """Which release answers, while its process is ready; replaced in one step."""
        self.budget = 0.1
        """Seconds that one request may take it."""
        self._thread = threading.Thread(target=self._work, name="beside", daemon=True)

    @property
    def patience(self) -> float:
        """Seconds after which a request is ended with its process."""
        return max(1.0, HANG * self.budget)

    def start(self) -> None:
        """Follow the pointer from now on."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, x: Floats) -> "Future[Floats] | None":
        """Have windows (N, channels, length) predicted beside the champion.

        Returns:
            What will be predicted, or fail with `Failed`; None if they are not asked for.
        """
        if self.second is None:
            return None
        if len(self._jobs) >= QUEUE:
            self._count(missed=1)
            return None
        job = _Job(x, Future())
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    def note_heard(self, windows: int) -> None:
        """Count windows of a request that the second release answered."""
        self._count(heard=windows)

    def note_champion_failure(self) -> None:
        """Count a request that the champion failed to answer, and the second release did not."""
        self._count(champion_failures=1)

    # --- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._jobs and not self._stopping:
                        self._changed.wait(LOOK_SECONDS)
                    if self._stopping:
                        return
                    job = self._jobs.popleft() if self._jobs else None
                self._look()
                if job:
                    self._do(job)
                self._note()
        except Exception:  # serving goes on alone, and somebody looks into it
            log.exception("nothing answers beside the champion any more")
        finally:
            self.second = None
            self._end_child()
            self._note(at_once=True)

    def _look(self) -> None:
        """Follow the pointers, and keep the process running."""
        if self._moved():
            self._seen = self._pointers()
            self._follow()
        wanted = self._wanted
        if wanted and self._child is None and time.monotonic() >= self._resume_at:
            try:
                self._begin(wanted)
            except (InterplantError, OSError) as error:
                # A mistake in plant.yaml, say, or too many processes; it is no fault of the release.
                log.warning("%s", error)
                self._end_child()
                self._resume_at = time.monotonic() + self._pause

    def _pointers(self) -> object:
        return file_state(self._plant.challenger), file_state(self._plant.champion)

    def _moved(self) -> bool:
        return self._pointers() != self._seen

    def _follow(self) -> None:
        try:
            wanted = pointers.challenger(self._plant)
        except InterplantError as error:
            log.warning("%s", error)
            wanted = None
        if wanted == self._wanted:
            return
        self._note(at_once=True)
        self.second, self._wanted = None, wanted
        self._end_child()
        self._resume_at, self._pause = 0.0, 0.5
        self._tally = tally.of(self._plant, wanted) if wanted else None

    def _begin(self, wanted: Challenger) -> None:
        # In a canary somebody waits for the answer; a shadow has time.
        settings = self._plant.load()
        self.budget = settings.policy.release.trial.milliseconds / 1000.0
        nice = settings.serving.nice if wanted.stage == CANARY else max(_NICE, settings.serving.nice)
        self._child = Process(self._plant, wanted.release, nice)
        try:
            self._child.wait_until_ready(
                START_SECONDS, self.patience, lambda: self._stopping or self._moved()
            )
        except Failed as error:
            if self._stopping or self._moved():
                self._end_child()
            else:
                self._failed(error)
        else:
            self._pause = 0.5
            self.second = wanted
            log.info("release %s answers beside the champion (%s)", wanted.release, wanted.stage)

    def _do(self, job: _Job) -> None:
        if self._child is None or self.second is None:
            job.answer.set_exception(Failed("the release does not answer now"))
            return
        begun = time.monotonic()
        try:
            found = self._child.predict(job.x, self.patience)
        except Failed as error:
            late = time.monotonic() - begun > self.budget
            self._count(requests=1, failures=1, late=int(late), trouble=str(error))
            job.answer.set_exception(error)
            if not self._child.alive:
                self._failed(error, count=False)
            return
        late = time.monotonic() - begun > self.budget
        self._count(requests=1, predictions=len(job.x), late=int(late))
        job.answer.set_result(found)

    def _failed(self, error: Failed, count: bool = True) -> None:
        """The process is of no use; another is tried after a pause."""
        log.warning("the release beside the champion: %s", error)
        if count:
            self._count(requests=1, failures=1, trouble=str(error))
        self.second = None
        self._end_child()
        self._resume_at = time.monotonic() + self._pause
        self._pause = min(60.0, self._pause * 2.0)

    def _end_child(self) -> None:
        if self._child:
            self._child.end()
            self._child = None
        while self._jobs:
            self._jobs.popleft().answer.set_exception(Failed("the release does not answer any more"))

    def _count(self, trouble: str = "", **more: int) -> None:
        with self._changed:
            now = self._tally
            if now is not None:
                counts = {name: getattr(now, name) + value for name, value in more.items()}
                self._tally = replace(now, trouble=trouble or now.trouble, **counts)

    def _note(self, at_once: bool = False) -> None:
        now = self._tally
        due = at_once or time.monotonic() - self._noted_at > NOTE_SECONDS
        if now is None or now == self._noted or not due:
            return
        self._noted, self._noted_at = now, time.monotonic()
        try:
            tally.note(self._plant, now)
        except InterplantError as error:
            log.warning("%s", error)


def answers_itself(second: Challenger, names: Sequence[str]) -> bool:
    """Whether a canary answers a request: if all of its machines are in the challenger's share.

    A machine stays with one model: where it falls follows from its name and the release alone.

    Args:
        second: The challenger.
        names: The machines of the request, or another name for it.
    """
    return second.stage == CANARY and all(place(second.release, name) < second.share for name in set(names))


def place(release: str, name: str) -> float:
    """Where a name falls for a release, evenly from 0 to below 1."""
    digest = hashlib.sha256(f"{release}\n{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
