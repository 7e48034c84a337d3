"""How commands reach a serving coordinator: its local socket. Nothing here loads Flower."""

from __future__ import annotations  # grpc's classes take type arguments only for the type checker

from collections.abc import Callable
from typing import Any

import grpc

from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.errors import InterplantError
from interplant.server.directory import CoordinatorDirectory
from interplant.server.local_api import socket_path


def connect(directory: CoordinatorDirectory) -> grpc.Channel:
    """Open the local socket of the coordinator in ``directory``."""
    return grpc.insecure_channel(
        f"unix:{socket_path(directory.path)}", [("grpc.max_receive_message_length", -1)]
    )


def ring(directory: CoordinatorDirectory) -> None:
    """Tell a serving coordinator that its runs have changed; one that is not serving finds out later."""
    tell(directory, lambda local: local.Ring(pb.Empty(), timeout=5))


def reload(directory: CoordinatorDirectory) -> bool:
    """Have a serving coordinator read who is enrolled; return whether one is serving."""
    return tell(directory, lambda local: local.Reload(pb.Empty(), timeout=5))


def online(directory: CoordinatorDirectory) -> dict[str, bool]:
    """Enrolled plant's name to whether it is connected; empty if no coordinator is serving."""
    found: dict[str, bool] = {}

    def ask(local: rpc.LocalStub) -> None:
        found.update({node.name: node.online for node in local.Nodes(pb.Empty(), timeout=5).nodes})

    tell(directory, ask)
    return found


def tell(directory: CoordinatorDirectory, call: Callable[[rpc.LocalStub], Any]) -> bool:
    """Call a serving coordinator's local socket; return whether one is serving."""
    with connect(directory) as channel:
        try:
            call(rpc.LocalStub(channel))
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return False
            raise InterplantError(f"the coordinator's local socket: {error.details()}") from None
    return True
