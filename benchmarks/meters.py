"""What processes use, as the kernel counts it: processor time, memory, bytes over a port."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_INET_DIAG, _BY_FAMILY, _DUMP, _INFO = 4, 20, 0x301, 2
"""Numbers of linux/sock_diag.h and linux/inet_diag.h: the family, the question, all sockets, tcp_info."""

_DONE = (2, 3)
_MESSAGE, _SOCKET, _COUNTED = 72, 16, 120
"""Bytes: of struct inet_diag_msg, of struct nlmsghdr, and before tcpi_bytes_acked in struct tcp_info."""


@dataclass(frozen=True)
class Memory:
    """Of some processes together, in MB: each shared page counts in parts (PSS), and what is no file's."""

    pss: float
    anonymous: float


@dataclass
class Peak:
    """The most memory that was seen."""

    of: Callable[[], Memory]
    pss: float = 0.0
    anonymous: float = 0.0

    def look(self) -> None:
        """Look once more."""
        found = self.of()
        self.pss, self.anonymous = max(self.pss, found.pss), max(self.anonymous, found.anonymous)


@dataclass
class Meter:
    """What has been used since it was made: processor seconds of processes, bytes in and out of a port.

    Args:
        pids: Of the processes; their descendants count.
        port: That plants dial; 0 for none.
    """

    pids: list[int]
    port: int = 0
    begun: tuple[float, int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self._spent()

    def read(self) -> tuple[float, int, int]:
        """Processor seconds, bytes that came in at the port, bytes that went out."""
        cpu, came, went = (now - then for now, then in zip(self._spent(), self.begun, strict=True))
        return cpu, int(came), int(went)

    def _spent(self) -> tuple[float, int, int]:
        return cpu_seconds(self.pids), *(crossed(self.port) if self.port else (0, 0))


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes and their descendants; none that is gone."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            found += [parent, *parent.children(recursive=True)]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that the processes and their descendants have taken so far."""
    spent = 0.0
    for process in tree(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def memory(pids: Iterable[int]) -> Memory:
    """Memory of the processes and their descendants."""
    pss = anonymous = 0
    for process in tree(pids):
        with contextlib.suppress(OSError):  # it has just ended
            rows = dict(
                line.split()[:2]
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
            )
            pss += int(rows["Pss:"])
            anonymous += int(rows["Pss_Anon:"])
    return Memory(pss / 1024, anonymous / 1024)


def crossed(port: int) -> tuple[int, int]:
    """Bytes that the open connections of a listening port have received and sent (acknowledged).

    TLS and HTTP/2 are in them, heads of TCP and IP are not.
    """
    came = went = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        for found in _sockets(family):
            acked, received = _of_socket(found, port)
            came, went = came + received, went + acked
    return came, went


def _sockets(family: int) -> Iterator[bytes]:
    """What the kernel tells of each TCP socket: struct inet_diag_msg, and tcp_info behind it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _INET_DIAG) as kernel:
        kernel.bind((0, 0))
        # Any address, in the state ESTABLISHED.
        question = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << _INFO - 1, 0, 1 << 1) + bytes(48)
        size = _SOCKET + len(question)
        kernel.send(struct.pack("=IHHII", size, _BY_FAMILY, _DUMP, 1, 0) + question)
        while True:
            answer, at = kernel.recv(1 << 20), 0
            while at < len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind in _DONE:
                    return
                yield answer[at + _SOCKET : at + length]
                at += (length + 3) & ~3


def _of_socket(found: bytes, port: int) -> tuple[int, int]:
    """Bytes acknowledged and received of one socket; nothing if its own port is another."""
    if struct.unpack_from("!H", found, 4)[0] != port:
        return 0, 0
    at = _MESSAGE
    while at < len(found):
        length, kind = struct.unpack_from("=HH", found, at)
        if kind == _INFO:
            acked, received = struct.unpack_from("=QQ", found, at + 4 + _COUNTED)
            return acked, received
        at += (length + 3) & ~3
    return 0, 0
