"""What the round loop and the commands call, over a socket that only their user can open."""

from __future__ import annotations  # grpc's classes take type arguments only for the type checker

import asyncio
import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc import aio

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.federation_pb2_grpc import LocalServicer
from interplant.server.exchange import Exchange

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

_MAX_SOCKET_PATH = 100
"""Linux allows 107 bytes for the path of a socket."""


def socket_path(directory: Path) -> Path:
    """Path of a coordinator's local socket; in a private temporary folder if its own is too long."""
    path = directory.resolve() / "control.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"interplant-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077 or not stat.S_ISDIR(found.st_mode):
        raise InterplantError(
            f"{folder}: expected a folder that only this user can open; remove it, or give the coordinator "
            f"a directory with a shorter path than {path.parent}"
        )
    return folder / f"{short}.sock"


class LocalApi(LocalServicer):
    """Serve the coordinator's own processes.

    Args:
        exchange: Messages in flight.
        reload: Reads the registry again: plants, releases, rollbacks.
    """

    def __init__(self, exchange: Exchange, reload: Callable[[], None]) -> None:
        self._exchange, self._reload = exchange, reload
        self._bells: set[asyncio.Event] = set()

    async def Nodes(self, request: pb.Empty, context: Context) -> pb.NodeList:  # noqa: N802
        """List the enrolled plants."""
        online = self._exchange.online()
        nodes = self._exchange.nodes.items()
        return pb.NodeList(nodes=[pb.Node(id=key, name=name, online=name in online) for key, name in nodes])

    async def Push(self, request: pb.ParcelList, context: Context) -> pb.Empty:  # noqa: N802
        """Open messages to plants; their blobs are in the spool already."""
        self._exchange.push(request.parcels, request.bodies)
        return pb.Empty()

    async def Await(self, request: pb.AwaitRequest, context: Context) -> pb.ParcelList:  # noqa: N802
        """Wait for replies."""
        if not all(map(self._exchange.request, request.message_ids)):
            # This process was restarted between two calls; see `GrpcGrid._patiently`.
            await context.abort(grpc.StatusCode.UNAVAILABLE, "unknown here: push these messages again")
        found = await self._exchange.wait_for(list(request.message_ids), request.limit, request.seconds)
        return pb.ParcelList(parcels=found)

    async def Answered(self, request: pb.MessageIds, context: Context) -> pb.ParcelList:  # noqa: N802
        """Tell which messages have a whole reply, without taking it."""
        found = self._exchange.answered(request.ids)
        return pb.ParcelList(parcels=[pb.Parcel(reply_to=one.reply_to, error=one.error) for one in found])

    async def Close(self, request: pb.MessageIds, context: Context) -> pb.Empty:  # noqa: N802
        """Forget messages."""
        self._exchange.close(request.ids, request.settled if request.HasField("settled") else None)
        return pb.Empty()

    async def Bell(self, request: pb.Empty, context: Context) -> AsyncIterator[pb.Empty]:  # noqa: N802
        """Ring at once, and whenever `Ring` is called."""
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            while True:
                yield pb.Empty()
                await bell.wait()
                bell.clear()
        finally:
            self._bells.discard(bell)

    async def Ring(self, request: pb.Empty, context: Context) -> pb.Empty:  # noqa: N802
        """Something in the registry's runs has changed."""
        self.ring()
        return pb.Empty()

    def ring(self) -> None:
        """Wake who listens at `Bell`."""
        for bell in self._bells:
            bell.set()

    async def Reload(self, request: pb.Empty, context: Context) -> pb.Empty:  # noqa: N802
        """Read the registry again."""
        self._reload()
        return pb.Empty()
