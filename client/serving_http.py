"""What Uvicorn refuses by itself, said in the protocol's own form: no HTTP, or too many connections."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from interplant.client.protocol import json_bytes

CONNECTIONS: Final = 512
"""Open connections at once; one more is refused."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            said = f"{CONNECTIONS} connections are open already; send the request again"
            self._refuse(b"503 Service Unavailable", said, b"retry-after: 1\r\n")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(b"400 Bad Request", msg)

    def _refuse(self, status: bytes, said: str, more: bytes = b"") -> None:
        body = json_bytes({"error": said})
        length = str(len(body)).encode()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: " + length
            + b"\r\n" + more + b"connection: close\r\n\r\n" + body
        )  # fmt: skip
        self.transport.close()
