"""Clients that ask one server over HTTP, each the next time when it has its answer: one thread, no library.

What a request costs here is counted too (`Load.own`): the clients' limit is not taken for the server's.
"""

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Load:
    """What clients saw.

    Args:
        latencies: Seconds of each answered request (N,).
        seconds: How long they asked.
        own: Processor seconds that the clients took themselves.
        failed: Requests that were not answered with 200.
        last: Body of the last answer.
    """

    latencies: NDArray[np.float64]
    seconds: float
    own: float
    failed: int
    last: bytes

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Latency in milliseconds that this share of the requests did not pass."""
        return float(np.quantile(self.latencies, share)) * 1000.0

    @property
    def busy(self) -> float:
        """Share of one core that the clients took."""
        return self.own / self.seconds


Seen = Callable[[float, float, bool, bytes], None]


@dataclass
class _Client:
    connection: socket.socket
    sent: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)


def post(address: str, path: str, body: bytes, headers: tuple[str, ...] = ()) -> bytes:
    """Return one request, ready to be sent again and again."""
    split = urlsplit(address)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {split.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(
    address: str,
    requests: list[bytes],
    clients: int,
    seconds: float,
    rate: float = 0.0,
    seen: Seen | None = None,
) -> Load:
    """Have clients ask for some seconds.

    Args:
        address: ``http://host:port``.
        requests: Sent in turns.
        clients: Connections, each with at most one request under way.
        seconds: How long.
        rate: Requests a second of all clients together; 0: as many as are answered.
        seen: Told of each answer: when it was asked for and came (seconds since 1970), whether it is 200, and
            its body.
    """
    split = urlsplit(address)
    chosen = selectors.DefaultSelector()
    # In turns: a connection that is never used is closed.
    idle: deque[_Client] = deque()
    for _ in range(clients):
        connection = socket.create_connection((split.hostname, split.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(connection)
        chosen.register(connection, selectors.EVENT_READ, client)
        idle.append(client)
    latencies: list[float] = []
    failed, number, last = 0, 0, b""
    begun, cpu = time.perf_counter(), time.process_time()
    end = begun + seconds
    while (now := time.perf_counter()) < end or len(idle) < clients:
        while idle and now < end and (not rate or number < (now - begun) * rate):
            client = idle.popleft()
            client.sent = time.perf_counter()
            client.connection.sendall(requests[number % len(requests)])
            number += 1
        for key, _ in chosen.select(0.0005 if rate else 1.0):
            client = key.data
            answer = _received(client)
            if answer is not None:
                latency = time.perf_counter() - client.sent
                latencies.append(latency)
                good, last = answer
                if seen:
                    came = time.time()
                    seen(came - latency, came, good, last)
                failed += not good
                idle.append(client)
    spent = time.perf_counter() - begun, time.process_time() - cpu
    for key in list(chosen.get_map().values()):
        key.data.connection.close()
    chosen.close()
    return Load(np.array(latencies), *spent, failed, last)


def _received(client: _Client) -> tuple[bool, bytes] | None:
    """Whether an answer is 200, and its body, once it is whole."""
    part = client.connection.recv(1 << 18)
    if not part:
        raise ConnectionError("the server has closed a connection")
    client.buffer += part
    head = client.buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    start = client.buffer.lower().find(b"content-length:", 0, head)
    size = int(client.buffer[start + 15 : client.buffer.find(b"\r\n", start)])
    if len(client.buffer) < head + 4 + size:
        return None
    good, body = client.buffer.startswith(b"HTTP/1.1 200"), bytes(client.buffer[head + 4 :])
    client.buffer.clear()
    return good, body
