"""Predictions go to the plant's log from a thread of their own: no answer waits for the disk.

They are gathered for up to `PAUSE` seconds and written together. A killed process loses those that were not
written yet, and no others.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from interplant.client.predictions import Prediction, Predictions
from interplant.core.errors import InterplantError
from interplant.core.targets import Target, told

log = logging.getLogger(__name__)

PAUSE: Final = 0.2
"""Seconds for which predictions are gathered."""

MOST: Final = 100_000
"""Predictions that may wait to be written; a disk that is slower for longer loses some, and it is noted."""

HOLD: Final = 1.0
"""Seconds for which predictions wait for what a release beside the champion says to them."""

T = TypeVar("T")

_PART: Final = 100
"""Predictions written in one transaction, so that the thread never holds the interpreter for long."""


@dataclass(frozen=True)
class Answered:
    """Predictions of one request, as they were answered.

    Args:
        ids: Of each (N,).
        time: In seconds since 1970.
        release: Which answered.
        predictions: In the label's units (N,) or (N, classes).
        machines: Of each, or None.
        times: Of each window's last reading, or None.
        drifting: Whether inputs were drifting.
        challenger: Release that was asked too, or None.
        beside: What that will have said, in its units, or None.
        target: Of both.
    """

    ids: Sequence[str]
    time: float
    release: str
    predictions: NDArray[np.float32]
    machines: Sequence[str] | None = None
    times: Sequence[float] | None = None
    drifting: bool = False
    challenger: str | None = None
    beside: "Future[NDArray[np.float32]] | None" = None
    target: Target | None = None

    def is_due(self, now: float) -> bool:
        """Whether there is nothing more to wait for, at a time in seconds since 1970."""
        return self.beside is None or self.beside.done() or now - self.time > HOLD

    def rows(self) -> list[Prediction]:
        """Return them one by one."""
        own = _listed(self.predictions)
        others = self._others()
        return [
            Prediction(
                id,
                self.time,
                self.release,
                own[place],
                self.machines[place] if self.machines else None,
                self.times[place] if self.times else None,
                self.challenger,
                others[place] if others else None,
                self.drifting,
            )
            for place, id in enumerate(self.ids)
        ]

    def _others(self) -> list[tuple[float, ...]] | None:
        asked = self.beside
        if asked is None or self.target is None or not asked.done() or asked.cancelled() or asked.exception():
            return None
        return _listed(told(self.target, asked.result()))


class Recorder:
    """Writes to a log behind the answers' back.

    Args:
        open_log: Opens the log; called in the thread that writes, again after a failure.
    """

    def __init__(self, open_log: Callable[[], Predictions]) -> None:
        self._open = open_log
        self._log: Predictions | None = None
        self._answered: deque[Answered] = deque()
        self._asked: deque[Callable[[], None]] = deque()
        self._rows = 0
        self._woken = False
        self._changed = threading.Condition()
        self._closed = False
        self.lost = 0
        """Predictions that could not be written."""
        self._thread = threading.Thread(target=self._work, name="recording", daemon=True)
        self._thread.start()

    def put(self, answered: Answered) -> None:
        """Have predictions written soon; never waits."""
        if self._rows + len(answered.ids) > MOST:
            self._lose(len(answered.ids), "the disk is too slow")
            return
        self._rows += len(answered.ids)
        self._answered.append(answered)
        if not self._woken:
            with self._changed:
                self._woken = True
                self._changed.notify()

    def ask(self, work: Callable[[Predictions], T]) -> "Future[T]":
        """Have something done with the log, behind all predictions that were put before.

        What it raises, the future does; `InterplantError` where the log cannot be used.
        """
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work(self._opened()))
            except (InterplantError, OSError) as error:
                self._forget()
                done.set_exception(InterplantError(str(error)))
            except Exception as error:  # noqa: BLE001 # who asked hears it, and the thread goes on
                done.set_exception(error)

        with self._changed:
            self._asked.append(run)
            self._changed.notify()
        return done

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._woken or self._closed or self._asked)
                self._changed.wait_for(lambda: self._closed or self._asked, PAUSE)
                self._woken, closed, asked = False, self._closed, list(self._asked)
                self._asked.clear()
            self._write(at_once=closed or bool(asked))
            for run in asked:
                run()
            if closed:
                if self._log:
                    self._log.close()
                return

    def _write(self, at_once: bool) -> None:
        """Write what waits, but for what may still get the word of a release beside the champion."""
        part: list[Prediction] = []
        held: list[Answered] = []
        for _ in range(len(self._answered)):
            one = self._answered.popleft()
            if not at_once and not one.is_due(time.time()):
                held.append(one)
                continue
            part += one.rows()
            if len(part) >= _PART:
                self._add(part)
                part = []
        self._add(part)
        if held:
            self._answered.extendleft(reversed(held))
            with self._changed:
                self._woken = True

    def _add(self, rows: list[Prediction]) -> None:
        if not rows:
            return
        self._rows -= len(rows)
        try:
            self._opened().add(rows)
        except (InterplantError, OSError) as error:
            self._forget()
            self._lose(len(rows), str(error))

    def _opened(self) -> Predictions:
        if self._log and self._log.is_gone:
            log.warning("%s was moved away; predictions go to a new one", self._log.path)
            self._forget()
        if self._log is None:
            self._log = self._open()
        return self._log

    def _forget(self) -> None:
        if self._log:
            self._log.close()
            self._log = None

    def _lose(self, count: int, why: str) -> None:
        if not self.lost:
            log.error("predictions are not logged: %s", why)
        self.lost += count


def _listed(predictions: NDArray[np.float32]) -> list[tuple[float, ...]]:
    table: list[list[Any]] = predictions.reshape(len(predictions), -1).tolist()
    return [tuple(row) for row in table]
