"""The floor under a round's transport: the same bytes over a plain gRPC stream with TLS, and nothing else.

One server process and one process a plant, as in a federation. Every plant takes ``size`` bytes in
pieces of 1 MiB and then sends as many back, all at the same time. Nothing is hashed, checked or kept.
`seconds` starts this module once a process.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc

from interplant.core import certificates
from interplant.core.files import PIECE

HOST = "127.0.0.1"
_TIMES = 5


def seconds(plants: int, size: int, folder: Path) -> float:
    """Median time for all plants to take ``size`` bytes and send them back; TLS files go to ``folder``."""
    _make_certificate(folder)
    with _started("serve", folder, str(size)) as server:
        port = _word(server)
        clients = [_started("plant", folder, str(size), port) for _ in range(plants)]
        for client in clients:
            _word(client)  # connected
        took = [_once(clients) for _ in range(1 + _TIMES)][1:]  # the first one warms up
        for process in [*clients, server]:
            process.communicate()
    return statistics.median(took)


def serve(folder: Path, size: int) -> None:
    """Serve until standard input ends."""
    piece = bytes(PIECE)

    def down(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        return (piece[: size - start] for start in range(0, size, PIECE))

    def up(pieces: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(sum(map(len, pieces))).encode()

    calls = {
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
    }
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", calls),))
    files = [(folder / name).read_bytes() for name in ("key", "certificate")]
    port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([(files[0], files[1])]))
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


def plant(folder: Path, size: int, port: int) -> None:
    """Take and send the bytes once for each line of standard input."""
    credentials = grpc.ssl_channel_credentials((folder / "authority").read_bytes())
    piece = bytes(PIECE)
    with grpc.secure_channel(f"{HOST}:{port}", credentials) as channel:
        grpc.channel_ready_future(channel).result(10)
        print("connected", flush=True)
        for _ in sys.stdin:
            taken = sum(map(len, channel.unary_stream("/Bare/Down")(b"")))
            sent = channel.stream_unary("/Bare/Up")(piece[: size - at] for at in range(0, size, PIECE))
            if (taken, int(sent)) != (size, size):
                raise SystemExit(f"expected {size} bytes both ways, found {taken} and {sent!r}")
            print("done", flush=True)


def _make_certificate(folder: Path) -> None:
    authority, key = certificates.make_authority("bench"), certificates.make_key()
    day = timedelta(days=1)
    issued = certificates.issue(authority, key.public_key(), "server", "bare", lifetime=day, hosts=[HOST])
    for name, pem in (
        ("key", certificates.key_pem(key)),
        ("certificate", issued),
        ("authority", authority.pem),
    ):
        (folder / name).write_bytes(pem)


def _started(role: str, folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, __file__, role, str(folder), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _once(clients: "list[subprocess.Popen[bytes]]") -> float:
    begun = time.monotonic()
    for client in clients:
        assert client.stdin
        client.stdin.write(b"go\n")
        client.stdin.flush()
    for client in clients:
        _word(client)
    return time.monotonic() - begun


def _word(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout
    word = process.stdout.readline().decode().strip()
    if not word:
        raise SystemExit(f"a process of the bare stream has ended: exit code {process.wait()}")
    return word


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    {"serve": serve, "plant": plant}[role](Path(folder), *map(int, numbers))
