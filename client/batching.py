"""Dynamic batching: windows of several requests go through a model in one run.

A run takes what waits when the one before is over, so that a single caller never waits and many callers share
runs. What may wait is bounded; more is refused, and the caller sends it again. A run that fails is made again
in halves, so that nobody is refused for what another has asked.
"""

import asyncio
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interplant.client.protocol import ProtocolError
from interplant.client.watchdog import Watchdog

Floats = NDArray[np.float32]


class Runs(Protocol):
    """Whatever predicts."""

    @property
    def quick(self) -> bool:
        """Whether a run is over sooner than a thread could be asked for it."""

    def run(self, x: Floats, /) -> Floats:
        """Predict windows (N, channels, length)."""


@dataclass(frozen=True)
class _Job:
    model: Runs
    x: Floats
    answer: "asyncio.Future[Floats]"


class Batcher:
    """Runs models for the requests of one event loop, a quick one in the loop, others in a thread.

    Args:
        most: Windows in one run; a request with more has runs of its own.
        wait: Seconds that a run waits for more windows, at most.
        queue: Windows that may wait.
        watchdog: Told of each run, if any.
    """

    def __init__(self, most: int, wait: float, queue: int, watchdog: Watchdog | None = None) -> None:
        self._most, self._wait, self._queue, self._watchdog = most, wait, queue, watchdog
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._next: asyncio.Handle | None = None
        self._running: asyncio.Future[list[Floats | Exception]] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "batches")

    def predict(self, model: Runs, x: Floats) -> "asyncio.Future[Floats]":
        """Return what a model will predict of windows (N, channels, length).

        Raises:
            ProtocolError: 413: there are more windows than may ever wait; 503: too many wait now.
        """
        if len(x) > self._queue:
            raise ProtocolError(413, f"expected at most {self._queue} windows in a request, found {len(x)}")
        if self._waiting + len(x) > self._queue:
            raise ProtocolError(
                503, f"{self._waiting} windows wait already; send the request again", retry_after=1
            )
        job = _Job(model, x, self._loop.create_future())
        self._jobs.append(job)
        self._waiting += len(x)
        self._plan()
        return job.answer

    def close(self) -> None:
        """End the thread when its run is over."""
        self._thread.shutdown()

    def _plan(self) -> None:
        """Have the next run begin, unless one is under way: its end does."""
        if self._running or not self._jobs:
            return
        if self._wait and self._waiting < self._most:
            self._next = self._next or self._loop.call_later(self._wait, self._run)
        elif self._next is None or self._wait:
            if self._next:
                self._next.cancel()
            # What else has come in this turn of the loop shares the run.
            self._next = self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._next = None
        jobs = self._taken()
        if jobs[0].model.quick:
            self._deliver(jobs, self._predicted(jobs))
            return
        self._running = self._loop.run_in_executor(self._thread, self._predicted, jobs)
        self._running.add_done_callback(lambda done: self._deliver(jobs, done.result()))

    def _taken(self) -> list[_Job]:
        """The next run's jobs, all for one model."""
        jobs = [self._jobs.popleft()]
        size = len(jobs[0].x)
        while self._jobs and self._jobs[0].model is jobs[0].model:
            size += len(self._jobs[0].x)
            if size > self._most:
                break
            jobs.append(self._jobs.popleft())
        self._waiting -= sum(len(job.x) for job in jobs)
        return jobs

    def _deliver(self, jobs: list[_Job], found: list[Floats | Exception]) -> None:
        self._running = None
        for job, answer in zip(jobs, found, strict=True):
            if job.answer.done():  # the caller has gone
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
        self._plan()

    def _predicted(self, jobs: list[_Job]) -> list[Floats | Exception]:
        """What each gets: of a run that fails, those whose windows are not why get their predictions."""
        try:
            if len(jobs) == 1:
                return [self._through(jobs[0].model, jobs[0].x)]
            found = self._through(jobs[0].model, np.concatenate([job.x for job in jobs]))
            ends = list(itertools.accumulate(len(job.x) for job in jobs))
            return [found[end - len(job.x) : end] for job, end in zip(jobs, ends, strict=True)]
        except Exception as error:  # noqa: BLE001 those who asked hear it, and the next run begins
            if len(jobs) == 1:
                return [error]
        half = len(jobs) // 2
        return self._predicted(jobs[:half]) + self._predicted(jobs[half:])

    def _through(self, model: Runs, x: Floats) -> Floats:
        """Run a model, in parts if need be."""
        most, watchdog = self._most, self._watchdog
        found = []
        for start in range(0, len(x), most):
            if watchdog:
                watchdog.begin(model)
            try:
                found.append(model.run(x[start : start + most] if len(x) > most else x))
            finally:
                if watchdog:
                    watchdog.end()
        return found[0] if len(found) == 1 else np.concatenate(found)
