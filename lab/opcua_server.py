"""An OPC UA server that keeps history, for tests and benchmarks: ``python -m interplant.lab.opcua_server``.

Node ``n`` has a new value at each tick of a clock that goes on while the server is down, as a controller's
does; the history has those, too, as a data logger's would. Basic256Sha256 only, one user, loopback only.
"""

import asyncio
import math
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import ua as types
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history import HistoryStorageInterface
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from cryptography.x509.oid import ExtendedKeyUsageOID

from interplant.core import processes

# Its annotations ask for numbers and times of its own where plain ones do.
ua: Any = types

USER, PASSWORD = "line", "not-a-secret"


def value(node: int, tick: int) -> float:
    """What a node has at a tick."""
    return (node * 31 + tick) % 1000 / 8


class Ticks(HistoryStorageInterface):
    """A history that can be computed.

    Args:
        epoch: Time of tick 0.
        hertz: Ticks a second.
        most: Ticks after which nothing is new.
    """

    def __init__(self, epoch: datetime, hertz: float, most: int) -> None:
        super().__init__()
        self.epoch, self.hertz, self.most = epoch, hertz, most
        self.last = -1

    def when(self, tick: int) -> datetime:
        """Time of a tick."""
        return self.epoch + timedelta(microseconds=round(tick * 1e6 / self.hertz))

    def now(self) -> int:
        """The latest tick; -1 before the first."""
        passed = (datetime.now(UTC) - self.epoch).total_seconds() * self.hertz
        return min(max(-1, math.floor(passed)), self.most - 1)

    def value(self, node: int, tick: int) -> Any:
        """A node's value with its source timestamp; each hundredth one of node 0 is a broken sensor's."""
        status = ua.StatusCodes.BadSensorFailure if node == 0 and tick % 100 == 99 else ua.StatusCodes.Good
        return ua.DataValue(
            ua.Variant(value(node, tick), ua.VariantType.Double),
            StatusCode=ua.StatusCode(status),
            SourceTimestamp=self.when(tick),
            ServerTimestamp=datetime.now(UTC),
        )

    async def init(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def read_node_history(
        self, node_id: Any, start: datetime | None, end: datetime | None, nb_values: int
    ) -> tuple[list[Any], datetime | None]:
        """Return the values from ``start`` to ``end``."""
        assert start is not None
        assert end is not None
        start, end = (one if one.tzinfo else one.replace(tzinfo=UTC) for one in (start, end))
        ticks = range(max(0, round((start - self.epoch).total_seconds() * self.hertz) - 1), self.last + 1)
        node = int(str(node_id.Identifier).removeprefix("node"))
        return [self.value(node, tick) for tick in ticks if start <= self.when(tick) <= end], None


class OneUser(UserManager):
    """Lets one user in."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        """Return the user, or none."""
        return User(role=UserRole.User) if (username, password) == (USER, PASSWORD) else None


async def serve(folder: Path, port: int, nodes: int, hertz: float, epoch: float, most: int) -> None:
    """Serve until a polite end.

    Args:
        folder: Of the server's certificate ``server.der`` and its key; made if missing.
        port: On loopback.
        nodes: How many, ``ns=2;s=node0`` and so on.
        hertz: Ticks a second.
        epoch: Time of tick 0, in seconds since 1970.
        most: Ticks after which nothing is new.
    """
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    ticks = Ticks(datetime.fromtimestamp(epoch, UTC), hertz, most)
    server = Server(user_manager=OneUser())
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    await server.set_application_uri("urn:interplant:counterpart")
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    await setup_self_signed_certificate(
        folder / "server.pem", folder / "server.der", "urn:interplant:counterpart", "127.0.0.1",
        [ExtendedKeyUsageOID.SERVER_AUTH], {"commonName": "Counterpart"},
    )  # fmt: skip
    await server.load_certificate(str(folder / "server.der"))
    await server.load_private_key(str(folder / "server.pem"))
    await server.register_namespace("urn:interplant:counterpart")
    server.iserver.history_manager.set_storage(ticks)
    ids = [ua.NodeId(f"node{number}", 2) for number in range(nodes)]
    ticks.last = ticks.now()
    for number, node in enumerate(ids):
        await server.nodes.objects.add_variable(node, f"node{number}", 0.0)
        if ticks.last >= 0:
            await server.write_attribute_value(node, ticks.value(number, ticks.last))
    async with server:
        while not stopping.is_set():
            await asyncio.sleep(0.2 / hertz)
            for tick in range(ticks.last + 1, ticks.now() + 1):
                for number, node in enumerate(ids):
                    await server.write_attribute_value(node, ticks.value(number, tick))
                ticks.last = tick


if __name__ == "__main__":
    processes.follow_parent()
    folder_, port_, nodes_, hertz_, epoch_, most_ = sys.argv[1:]
    asyncio.run(serve(Path(folder_), int(port_), int(nodes_), float(hertz_), float(epoch_), int(most_)))
