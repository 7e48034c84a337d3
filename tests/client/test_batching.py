"""Several requests share a run, none waits without need, and too many are refused."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from interplant.client.batching import Batcher, Floats
from interplant.client.protocol import ProtocolError
from interplant.core.errors import InterplantError


@dataclass(eq=False)
class Doubles:
    """Gives twice the first number of each window, and remembers its runs."""

    quick: bool = True
    runs: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    threads: set[str] = field(default_factory=set)

    def run(self, x: Floats, /) -> Floats:
        self.runs.append(len(x))
        self.threads.add(threading.current_thread().name)
        if not self.quick:
            assert self.gate.wait(30)
        if (x < 0).any():
            raise InterplantError("negative")
        return 2.0 * x[:, 0, 0]


def windows(*firsts: float) -> Floats:
    return np.array(firsts, np.float32).reshape(-1, 1, 1)


def batched(
    work: Callable[[Batcher], Awaitable[None]], most: int = 8, wait: float = 0.0, queue: int = 100
) -> None:
    async def all_of_it() -> None:
        batcher = Batcher(most, wait, queue)
        try:
            await asyncio.wait_for(work(batcher), 30)
        finally:
            batcher.close()

    asyncio.run(all_of_it())


@pytest.fixture(params=[True, False], ids=["in the loop", "in a thread"])
def model(request: pytest.FixtureRequest) -> Doubles:
    model = Doubles(quick=request.param)
    model.gate.set()
    return model


def test_each_gets_its_own(model: Doubles) -> None:
    async def work(batcher: Batcher) -> None:
        asked = [batcher.predict(model, windows(*range(n, 2 * n))) for n in range(1, 13)]
        for n, answer in zip(range(1, 13), asked, strict=True):
            np.testing.assert_array_equal(await answer, 2.0 * np.arange(n, 2 * n))

    batched(work)
    assert max(model.runs) <= 8
    assert sum(model.runs) == sum(range(1, 13))
    assert ("MainThread" in model.threads) is model.quick


def test_requests_that_come_together_share_a_run(model: Doubles) -> None:
    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.predict(model, windows(n)) for n in range(8)))

    batched(work)
    assert model.runs == [8]


def test_what_waits_behind_a_slow_run_shares_the_next() -> None:
    model = Doubles(quick=False)

    async def work(batcher: Batcher) -> None:
        first = batcher.predict(model, windows(1))
        await until(lambda: model.runs == [1])
        rest = [batcher.predict(model, windows(n)) for n in range(5)]
        await asyncio.sleep(0)
        model.gate.set()
        assert (await first).tolist() == [2]
        assert [(await one).tolist() for one in rest] == [[0], [2], [4], [6], [8]]

    batched(work)
    assert model.runs == [1, 5]


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_two_models_never_share_a_run(model: Doubles) -> None:
    """Around a swap, requests for the old model and the new one wait together."""
    other = Doubles()

    async def work(batcher: Batcher) -> None:
        answers = [batcher.predict(model if n % 2 else other, windows(n)) for n in range(6)]
        assert [(await one).tolist() for one in answers] == [[2 * n] for n in range(6)]

    batched(work)
    assert model.runs == other.runs == [1, 1, 1]


def test_a_run_may_wait_for_more_but_not_for_ever() -> None:
    model = Doubles()

    async def work(batcher: Batcher) -> None:
        first = batcher.predict(model, windows(1))
        await asyncio.sleep(0.01)
        assert model.runs == []
        second = batcher.predict(model, windows(2))
        assert ((await first).tolist(), (await second).tolist()) == ([2], [4])

    batched(work, wait=0.2)
    assert model.runs == [2]


def test_a_full_run_does_not_wait() -> None:
    model = Doubles()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.predict(model, windows(n)) for n in range(8)))
        await asyncio.gather(*(batcher.predict(model, windows(n)) for n in range(9)))

    batched(work, wait=2.0, most=4)
    # The ninth waited for fellows until its time was over; nobody else did.
    assert model.runs == [4, 4, 4, 4, 1]


def test_more_than_may_wait_is_refused_and_what_waits_is_answered() -> None:
    model = Doubles(quick=False)

    async def work(batcher: Batcher) -> None:
        running = batcher.predict(model, windows(1))
        await until(lambda: model.runs == [1])
        waiting = [batcher.predict(model, windows(n)) for n in range(10)]
        with pytest.raises(ProtocolError, match="10 windows wait already; send the request again") as caught:
            batcher.predict(model, windows(1))
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        model.gate.set()
        assert [(await one).tolist() for one in [running, *waiting]] == [[2], *([2 * n] for n in range(10))]
        assert (await batcher.predict(model, windows(3))).tolist() == [6]

    batched(work, queue=10)


def test_a_request_that_could_never_wait_is_refused() -> None:
    async def work(batcher: Batcher) -> None:
        with pytest.raises(
            ProtocolError, match="expected at most 10 windows in a request, found 11"
        ) as caught:
            batcher.predict(Doubles(), windows(*range(11)))
        assert caught.value.status == 413

    batched(work, queue=10)


def test_a_model_that_fails_tells_those_it_ran_for_and_works_on(model: Doubles) -> None:
    async def work(batcher: Batcher) -> None:
        for _ in range(2):
            with pytest.raises(InterplantError, match="negative"):
                await batcher.predict(model, windows(-1))
            assert (await batcher.predict(model, windows(1))).tolist() == [2]

    batched(work)


def test_a_run_that_fails_for_one_is_answered_to_the_others(model: Doubles) -> None:
    """And with fewer runs than there are requests."""
    asked = [1.0] * 16
    asked[5] = -1.0

    async def work(batcher: Batcher) -> None:
        answers = [batcher.predict(model, windows(first, 7)) for first in asked]
        said = await asyncio.gather(*answers, return_exceptions=True)
        for first, answer in zip(asked, said, strict=True):
            if first < 0:
                assert isinstance(answer, InterplantError)
            else:
                assert isinstance(answer, np.ndarray)
                assert answer.tolist() == [2, 14]

    batched(work, most=64)
    assert model.runs[0] == 32
    assert len(model.runs) == 9


def test_a_caller_who_has_gone_is_not_missed() -> None:
    model = Doubles(quick=False)

    async def work(batcher: Batcher) -> None:
        gone, stays = batcher.predict(model, windows(1)), batcher.predict(model, windows(2))
        gone.cancel()
        model.gate.set()
        assert (await stays).tolist() == [4]

    batched(work)


@pytest.mark.parametrize("quick", [True, False], ids=["in the loop", "in a thread"])
def test_whatever_goes_wrong_is_told_and_the_next_run_begins(quick: bool) -> None:
    @dataclass(eq=False)
    class Fails(Doubles):
        def run(self, x: Floats, /) -> Floats:
            if (x < 0).any():
                raise MemoryError
            return super().run(x)

    model = Fails(quick=quick)
    model.gate.set()

    async def work(batcher: Batcher) -> None:
        with pytest.raises(MemoryError):
            await batcher.predict(model, windows(-1))
        assert (await batcher.predict(model, windows(1))).tolist() == [2]

    batched(work)
