"""The gRPC process of a coordinator: one TLS port for plants, one local socket for its own processes."""

import asyncio
import logging
import signal
import sys
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core import logs, processes
from interplant.core.certificates import Identity, utc_now
from interplant.core.errors import InterplantError, UsageError
from interplant.server import release_keys
from interplant.server.artifacts import Artifacts
from interplant.server.authority import Authority
from interplant.server.directory import CoordinatorDirectory
from interplant.server.exchange import Exchange
from interplant.server.guard import Guard
from interplant.server.local_api import LocalApi, socket_path
from interplant.server.plant_api import PlantApi
from interplant.server.registry import Registry
from interplant.server.releases import offer_of
from interplant.server.rules import Rules
from interplant.server.spool import Spool

log = logging.getLogger(__name__)

_WINDOW = 512 << 10
"""Bytes that a plant may send ahead of what is read: its speed is at most as many in a round trip."""

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second coordinator on this port is an error, not a lottery
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30000),
    ("grpc.keepalive_timeout_ms", 15000),
    # What a plant can send before it is its turn lies in this process. Left to itself, gRPC opens the
    # window to some 20 MB a plant on a fast network.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _WINDOW),
]


class Service:
    """The servers and the state that they share.

    Args:
        directory: The coordinator's directory.
    """

    def __init__(self, directory: CoordinatorDirectory) -> None:
        self.directory = directory
        self.federation = directory.load()
        self.registry = Registry.open(directory.path)
        self.authority = Authority.open(directory.path)
        self.exchange = Exchange(Spool(directory.spool), {})
        release_keys.settle(directory)
        self.local = LocalApi(self.exchange, self.reload)
        self._allowed: dict[tuple[str, str], bool] = {}
        self.reload()

    def reload(self) -> None:
        """Read who is enrolled and what plants shall be told of; end the connections of who no longer is."""
        plants = self.registry.plants()
        self._allowed.clear()
        self.exchange.nodes = {plant.node_id: plant.name for plant in plants if plant.is_enrolled}
        for name in self.exchange.online() - set(self.exchange.nodes.values()):
            self.exchange.hang_up(name)
        self.exchange.tell_keys(release_keys.statements(self.directory))  # before what they sign
        self.exchange.offer_releases(self._offers(), dict(self.registry.rollbacks()))

    def _offers(self) -> dict[str, pb.Release]:
        """What plants are told of, by task: from now on an approved release rolls out."""
        offers = {}
        for release in self.registry.offered_releases():
            offer = self.exchange.releases.get(release.task)
            if offer is None or offer.id != release.id:
                try:
                    folder = Artifacts(self.directory, self.federation.artifacts).folder(release.id)
                    offer = offer_of(folder, release.task)
                except (InterplantError, OSError, ValueError, KeyError) as error:
                    log.warning("release %s is not offered: %s", release.id, error)
                    continue
            if release.state == "approved":
                self.registry.roll_out_release(release.id)
            offers[release.task] = offer
        return offers

    def is_allowed(self, caller: Identity) -> bool:
        """Tell whether a verified caller is enrolled and not revoked; asked of the registry once."""
        if caller.role != "plant":
            return True  # a bootstrap's single use and the server's own calls are checked elsewhere
        if caller.not_after < utc_now():
            return False
        key = (caller.name, caller.serial)
        if key not in self._allowed:
            self._allowed[key] = self.registry.is_allowed(caller.name, caller.serial)
        return self._allowed[key]

    async def run(self) -> None:
        """Serve until a polite end."""
        public, local = self._public(), self._local()
        await public.start()
        await local.start()
        log.info("federation %s listens on %s", self.federation.name, self.federation.listen)
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await stopping.wait()
        await asyncio.gather(public.stop(0.2), local.stop(0.2))

    def _public(self) -> aio.Server:
        server = aio.server(interceptors=[Guard(self.is_allowed)], options=_OPTIONS)
        api = PlantApi(
            self.exchange,
            self.registry,
            self.authority,
            self.federation.name,
            self.directory.releases,
            self.federation.upload_turns,
            Rules(self.directory),
            self.local.ring,
        )
        rpc.add_CoordinatorServicer_to_server(api, server)
        name = pb.DESCRIPTOR.services_by_name["Coordinator"].full_name
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)  # type: ignore[attr-defined]
        reflection.enable_server_reflection(
            (name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            server,
        )
        try:
            bound = server.add_secure_port(self.federation.listen, self._credentials())
        except RuntimeError:
            bound = 0
        if not bound:
            raise InterplantError(
                f"{self.federation.listen}: cannot listen there; the port is in use or the address is not "
                "this machine's: stop the other process or change `listen` in federation.yaml"
            )
        return server

    def _local(self) -> aio.Server:
        server = aio.server(options=[("grpc.max_receive_message_length", -1)])
        rpc.add_LocalServicer_to_server(self.local, server)
        path = socket_path(self.directory.path)
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o600) if path.exists() else None
        return server

    def _credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS; a renewed server certificate is taken up at the next handshake."""
        return grpc.dynamic_ssl_server_credentials(self._tls(), self._tls, require_client_authentication=True)

    def _tls(self) -> grpc.ServerCertificateConfiguration:
        keys = self.directory
        return grpc.ssl_server_certificate_configuration(
            [(keys.server_key.read_bytes(), keys.server_certificate.read_bytes())],
            keys.ca_certificate.read_bytes(),
        )


def main(words: list[str]) -> int:
    """Run the gRPC process of the coordinator in the directory ``words[0]``."""
    processes.follow_parent()
    logs.setup()
    try:
        asyncio.run(Service(CoordinatorDirectory(Path(words[0]))).run())
    except InterplantError as error:
        processes.last_words(str(error))
        # Its supervisor waits for somebody to mend a file that was right before.
        return error.exit_code if isinstance(error, UsageError) else processes.HOPELESS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
