"""What Uvicorn refuses by itself, said in the protocol's own form, and the bounds that it does not set.

A caller who says nothing, or says it slowly or without end, who asks on and on without listening, or does not
take its answer, loses its connection, and no other caller waits for it.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from interplant.client.protocol import json_bytes

CONNECTIONS: Final = 512
"""Open connections at once; one more is refused."""

HEAD: Final = 1 << 16
"""Bytes of a request's line and headers, and of what may stand between the parts of a body or behind them."""

HEAD_SECONDS: Final = 10.0
"""How long a request's line and headers may take to come; the first ones, since the connection is open."""

PIPELINE: Final = 8
"""Requests that a caller may send ahead, before the one before them is answered."""

TAKE_SECONDS: Final = 30.0
"""How long an answer that the network does not take may wait for its caller to take some of it."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self.url = b""
        self._begun = False
        """Whether a request has begun whose headers are not all there."""
        self._plain = 0
        """Bytes since a request began, or since the last bytes of its body."""
        self._came = 0
        """Bytes that came last."""
        self._asks: asyncio.TimerHandle | None = None
        self._takes: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            said = f"{CONNECTIONS} connections are open already; send the request again"
            self._refuse(b"503 Service Unavailable", said, b"retry-after: 1\r\n")
        else:
            self._asks = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        for timer in (self._asks, self._takes):
            if timer:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    # --- what comes ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what has come; whose request is not under way then has to say it soon."""
        self._came = len(data)
        self._plain += self._came
        super().data_received(data)
        if self._plain > HEAD:
            self._too_long()
        elif self._begun or (self.timeout_keep_alive_task is None and not self._under_way):
            self._asks = self._asks or self.loop.call_later(HEAD_SECONDS, self._too_slow)
        elif self._asks:
            self._asks.cancel()
            self._asks = None

    def on_message_begin(self) -> None:
        """A request begins."""
        self._plain, self._begun = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's line and headers are there."""
        if self.transport.is_closing():
            return
        self._begun = False
        if self._plain + self._came > HEAD:  # counted only where it may be too much
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD:
                self._too_long()
                return
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINE:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Bytes of a request's body are there."""
        self._plain = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        if not self.transport.is_closing():
            super().on_message_complete()

    @property
    def _under_way(self) -> bool:
        """Whether the last request whose headers are there is still to be answered."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- what goes -----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The network takes no more."""
        super().pause_writing()
        self._takes = self._takes or self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The network takes more."""
        if self._takes:
            self._takes.cancel()
            self._takes = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """A request is answered, or is when its caller takes the rest."""
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.pause_writing()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that asks nothing more, even if its caller has not taken the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    # --- what is refused -----------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(b"400 Bad Request", msg)

    def _too_long(self) -> None:
        what, status = ("headers", b"431 Request Header Fields Too Large")
        if len(self.url) > HEAD:
            what, status = "request line", b"414 URI Too Long"
        self._refuse(status, f"expected {what} of at most {HEAD // 1024} kB")

    def _too_slow(self) -> None:
        self._asks = None
        if self._under_way:
            self._asks = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        elif self._begun:
            self._refuse(b"408 Request Timeout", f"the headers did not come within {HEAD_SECONDS:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: bytes, said: str, more: bytes = b"") -> None:
        """Answer and close; without a word where it would be taken for the answer to an earlier request."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if self._under_way and (self.pipeline or not cycle.more_body or cycle.response_started):
            self.transport.abort()
            return
        body = json_bytes({"error": said})
        length = str(len(body)).encode()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: " + length
            + b"\r\n" + more + b"connection: close\r\n\r\n" + body
        )  # fmt: skip
        self.transport.close()
