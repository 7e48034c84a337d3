"""Requests' bodies: what takes room that others need has to come quickly, what is small needs none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from interplant.client import serving_app
from interplant.client.protocol import ProtocolError
from interplant.client.serving_app import BODIES, SMALL, Bodies

MOST = 1_000_000


def comes(*parts: bytes, whole: bool = True) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A caller who sends these parts; one whose body is not whole sends nothing more, and stays."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or not whole}

    return receive


async def taken(bodies: Bodies, receive: Callable[[], Awaitable[Any]]) -> bytes:
    async with bodies.of(receive) as body:
        return bytes(body)


def test_a_body_is_what_was_sent() -> None:
    async def work() -> None:
        bodies = Bodies(MOST)
        assert await taken(bodies, comes(b"")) == b""
        assert await taken(bodies, comes(b"ab", b"", b"c")) == b"abc"
        for _ in range(20):
            assert await taken(bodies, comes(*[bytes(1000)] * 1000)) == bytes(MOST)
            with pytest.raises(ProtocolError, match="at most 1 MB"):
                await taken(bodies, comes(*[bytes(1000)] * 1001))

    asyncio.run(work())


def test_who_holds_all_the_room_keeps_no_small_request_out() -> None:
    async def work() -> None:
        bodies = Bodies(MOST)
        slow = [comes(bytes(MOST - 1), whole=False) for _ in range(BODIES)]
        tasks = [asyncio.create_task(taken(bodies, one)) for one in slow]
        await asyncio.sleep(0)
        assert await taken(bodies, comes(bytes(SMALL))) == bytes(SMALL)
        with pytest.raises(ProtocolError, match="other requests' bodies") as caught:
            await taken(bodies, comes(bytes(SMALL + 1)))
        assert caught.value.status == 503
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(await taken(bodies, comes(bytes(MOST)))) == MOST

    asyncio.run(work())


def test_what_takes_room_has_to_come_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_app, "STEP_SECONDS", 0.05)

    async def work() -> None:
        bodies = Bodies(MOST)
        for parts in ([bytes(MOST - 1)], [bytes(SMALL)], [bytes(SMALL - 1), b"12", b"3"]):
            with pytest.raises(ProtocolError, match="64 kB every") as caught:
                await asyncio.wait_for(taken(bodies, comes(*parts, whole=False)), 10)
            assert caught.value.status == 408
        small = asyncio.create_task(taken(bodies, comes(bytes(SMALL - 1), whole=False)))
        await asyncio.sleep(0.3)
        assert not small.done()
        small.cancel()

    asyncio.run(work())
