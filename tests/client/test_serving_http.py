"""A connection's bounds: who asks too much at once, too slowly, or does not listen, is let go."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from interplant.client.serving_http import HEAD, HEAD_SECONDS, PIPELINE, TAKE_SECONDS, Connection

GET = b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"


class Clock:
    """Stands in for the event loop: what is to be done later is done when a test says so."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.tasks: list[Any] = []

    def call_later(self, seconds: float, work: Callable[[], None]) -> Any:
        entry = (seconds, work)
        self.timers.append(entry)
        return _Timer(lambda: self.timers.remove(entry) if entry in self.timers else None)

    def create_task(self, work: Any, **_: Any) -> Any:
        self.tasks.append(work)
        return _Task()

    def elapse(self, seconds: float) -> None:
        """Do what was to be done after so many seconds."""
        for entry in [one for one in self.timers if one[0] == seconds]:
            self.timers.remove(entry)
            entry[1]()


class _Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class _Task:
    def add_done_callback(self, _: Any) -> None:
        """Nothing is done before the test does it."""


class Line(asyncio.Transport):
    """The caller's end: keeps what was said to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.said = b""
        self.closed = self.aborted = False
        self.waits = 0

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self.waits

    def pause_reading(self) -> None:
        """It comes in pieces from the test."""

    def resume_reading(self) -> None:
        """The same."""

    @property
    def status(self) -> int:
        return int(self.said.split()[1])


class Caller:
    """A connection, its caller's end and its clock; what answers says `{}`."""

    def __init__(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{}"})

        self.clock, self.line = Clock(), Line()
        config = Config(app, lifespan="off", ws="none", log_config=None, timeout_keep_alive=75)
        self.connection = Connection(config, ServerState(), {}, self.clock)  # type: ignore[arg-type]
        self.connection.connection_made(self.line)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            if not self.line.closed:
                self.connection.data_received(part)

    def answer(self) -> None:
        """Answer all that is under way."""
        while self.clock.tasks:
            asyncio.run(self.clock.tasks.pop(0))


@pytest.fixture
def caller() -> Any:
    with_work = Caller()
    yield with_work
    for work in with_work.clock.tasks:
        work.close()


def test_a_usual_request_needs_no_timer_of_its_own(caller: Caller) -> None:
    caller.send(GET)
    assert caller.clock.timers == []
    caller.answer()
    assert [seconds for seconds, _ in caller.clock.timers] == [75]
    caller.send(GET)
    assert caller.clock.timers == []
    caller.answer()
    assert (caller.line.said.count(b"200 OK"), caller.line.closed) == (2, False)


def test_requests_sent_ahead_are_bounded(caller: Caller) -> None:
    caller.send(GET * (PIPELINE + 1))
    assert not caller.line.closed
    caller.answer()
    assert caller.line.said.count(b"200 OK") == PIPELINE + 1
    caller.send(GET * 5000)
    assert caller.line.aborted
    assert len(caller.connection.pipeline) == PIPELINE + 1


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: ", b"x" * 1000, 431),
        (b"GET /v2 HTTP/1.1\r\n", b"h: v\r\n" * 200, 431),
        (b"GET /", b"x" * 1000, 414),
        (b"", b"\r\n" * 500, 431),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nh: ", b"x" * 1000, 431),
    ],
)
def test_what_has_no_end_is_refused(caller: Caller, begin: bytes, more: bytes, status: int) -> None:
    caller.send(begin)
    for _ in range(200):
        caller.send(more)
    assert caller.line.closed
    assert caller.line.status == status
    assert "at most 64 kB" in json.loads(caller.line.said.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"GET /%s HTTP/1.1\r\n\r\n", 414), (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n", 431)],
)
def test_what_comes_at_once_is_held_to_the_same(caller: Caller, head: bytes, status: int) -> None:
    caller.send(head % (b"x" * (HEAD + 1)))
    assert (caller.line.status, caller.clock.tasks) == (status, [])


def test_a_long_body_in_many_parts_is_no_head(caller: Caller) -> None:
    caller.send(b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        caller.send(b"8\r\n12345678\r\n")
    caller.send(b"0\r\n\r\n")
    caller.answer()
    assert caller.line.status == 200


@pytest.mark.parametrize("before", [b"", b"\r\n", GET])
def test_who_says_nothing_is_let_go(caller: Caller, before: bytes) -> None:
    caller.send(before)
    caller.answer()
    caller.send(b"\r\n")
    caller.clock.elapse(HEAD_SECONDS)
    assert caller.line.closed
    assert b"408" not in caller.line.said


def test_who_says_it_slowly_is_let_go(caller: Caller) -> None:
    caller.send(GET)
    caller.answer()
    caller.line.said = b""
    for byte in GET[:-1]:
        caller.send(bytes([byte]))
    assert [seconds for seconds, _ in caller.clock.timers] == [HEAD_SECONDS]
    caller.clock.elapse(HEAD_SECONDS)
    assert (caller.line.closed, caller.line.status) == (True, 408)


def test_a_refusal_is_not_taken_for_the_answer_to_an_earlier_request(caller: Caller) -> None:
    caller.send(GET, b"nonsense\r\n\r\n")
    assert (caller.line.closed, caller.line.said) == (True, b"")


def test_an_answer_is_not_cut_off_by_what_is_sent_ahead(caller: Caller) -> None:
    caller.send(GET, GET[:10])
    caller.clock.elapse(HEAD_SECONDS)
    assert not caller.line.closed
    caller.answer()
    assert caller.line.status == 200
    caller.clock.elapse(HEAD_SECONDS)
    assert caller.line.closed


def test_who_does_not_take_an_answer_is_let_go(caller: Caller) -> None:
    caller.connection.pause_writing()
    caller.connection.resume_writing()
    caller.clock.elapse(TAKE_SECONDS)
    assert not caller.line.closed
    caller.connection.pause_writing()
    caller.clock.elapse(TAKE_SECONDS)
    assert caller.line.aborted


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_the_end_of_a_connection_waits_for_nobody(caller: Caller, last: bytes) -> None:
    caller.line.waits = 1000
    caller.send(b"GET /v2 HTTP/1.1\r\n" + last + b"\r\n")
    caller.answer()
    assert not caller.line.aborted
    caller.clock.elapse(TAKE_SECONDS if last else 75)
    assert caller.line.aborted


def test_nothing_is_left_behind(caller: Caller) -> None:
    caller.connection.pause_writing()
    caller.connection.connection_lost(None)
    assert caller.clock.timers == []
