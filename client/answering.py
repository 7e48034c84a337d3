"""Who answers a request: the champion, or a release beside it in a canary or where the champion fails.

Nobody waits for a release beside the champion, but who is in its canary: and there only as long as the trial
allows, then the champion's answer is taken, which was asked for at the same time.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interplant.client.batching import Batcher
from interplant.client.beside import Beside, answers_itself
from interplant.client.champion import PROBATION
from interplant.client.serving_models import Model
from interplant.core.errors import InterplantError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """What a request is answered with.

    Args:
        release: Whose prediction it is.
        predicted: In the model's units, (N,) or (N, classes).
        other: The release that was asked too, and not heard, or None.
        beside: What that says, once it does.
    """

    release: str
    predicted: Floats
    other: str | None = None
    beside: "Future[Floats] | None" = None


async def predict(
    batcher: Batcher, beside: Beside, model: Model, x: Floats, machines: Sequence[str], canary: bool
) -> Heard:
    """Have windows predicted.

    Args:
        batcher: Runs the champion.
        beside: The release beside it, if any.
        model: The champion.
        x: Windows (N, channels, length).
        machines: Whose windows they are, or another name for the request.
        canary: Whether the release beside it may be heard; not where the caller has named the champion's.

    Raises:
        ProtocolError: Too many windows wait.
        InterplantError: The champion fails, and nobody can stand in for it.
    """
    own = batcher.predict(model, x)
    second = beside.second
    other = beside.ask(x) if second and second.against == model.release else None
    if second is None or other is None:
        return Heard(model.release, await own)
    if canary and answers_itself(second, machines):
        found = await _in_time(other, beside.budget)
        if found is not None:
            beside.note_heard(len(x))
            return Heard(second.release, found, model.release, _shared(own))
    try:
        return Heard(model.release, await own, second.release, other)
    except InterplantError:
        # On probation the champion of before stands beside: it has served here, and serves this one too.
        found = await _in_time(other, beside.patience) if second.stage == PROBATION else None
        if found is None:
            raise
        beside.note_champion_failure()
        return Heard(second.release, found)


async def _in_time(asked: "Future[Floats]", seconds: float) -> Floats | None:
    """What comes within so many seconds, if it is an answer."""
    waiting = asyncio.wrap_future(asked)
    done, _ = await asyncio.wait([waiting], timeout=seconds)
    if not done:
        waiting.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody asks for it
        return None
    return None if waiting.exception() else waiting.result()


def _shared(answer: "asyncio.Future[Floats]") -> "Future[Floats]":
    """The same answer for another thread."""
    found: Future[Floats] = Future()

    def pass_on(done: "asyncio.Future[Floats]") -> None:
        if done.cancelled():
            found.cancel()
        elif error := done.exception():
            found.set_exception(error)
        else:
            found.set_result(done.result())

    answer.add_done_callback(pass_on)
    return found
