"""A coordinator that a test scripts: a real gRPC server with real TLS, and nothing behind it."""

import hashlib
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from interplant.core import certificates
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.flower import Envelope, message
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes, tensors_of, to_bytes, to_parcel

HOUR = timedelta(hours=1)


@dataclass
class Refusing:
    """A connection is refused with this."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    text: str = "not now"


class Scripted(rpc.CoordinatorServicer):
    """Does what the test says, and remembers what the plant did."""

    def __init__(self, authority: certificates.Issuer) -> None:
        self._authority, self._server = authority, None
        self.blobs: dict[str, bytes] = {}
        self.connections: list[queue.Queue[Any]] = []
        self.dialled: list[float] = []
        self.refusing: Refusing | None = None
        self.welcomes = True
        self.hellos: list[pb.Hello] = []
        self.offers: list[pb.Parcel] = []
        self.bodies: dict[str, bytes] = {}
        self.answer: Callable[[pb.Parcel], pb.Answer] = lambda _: pb.Answer(want=pb.Answer.SEND)
        self.fetches: list[tuple[str, int]] = []
        self.sends: Callable[[bytes], Iterator[bytes]] = lambda data: iter([data])
        self.deployed: list[tuple[str, str, str]] = []
        self.proposed: list[tuple[str, str, int | None]] = []
        self.heeds = True
        self.renewals = 0
        self.serials: list[int] = []
        self.start()

    # --- the test's side ---------------------------------------------------------------------------

    def start(self, port: int = 0, issuer: certificates.Issuer | None = None) -> None:
        """Listen, on the same port as before if there was one."""
        issuer = issuer or self._authority
        key = certificates.make_key()
        pem = certificates.issue(
            issuer, key.public_key(), "server", "server", lifetime=HOUR, hosts=["127.0.0.1"]
        )
        credentials = grpc.ssl_server_credentials(
            [(certificates.key_pem(key), pem)], self._authority.pem, require_client_auth=True
        )
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        rpc.add_CoordinatorServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self._server.start()

    def stop(self) -> None:
        """Be gone."""
        for one in self.connections:
            one.put(None)
        self._server.stop(0).wait(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, **notice: Any) -> None:
        """Send a notice over the newest connection."""
        self.connections[-1].put(pb.Notice(**notice))

    def hang_up(self) -> None:
        """End the newest connection."""
        self.connections[-1].put(Refusing())

    def blob(self, data: bytes) -> pb.Blob:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return pb.Blob(sha256=digest, size=len(data))

    def work(self, content: Any, message_id: str) -> pb.Parcel:
        """An instruction whose tensors can be fetched."""
        _, number, node = message_id.split(".")
        sent = message(Envelope(message_id, 5, 0, int(node), "train", number), content)
        return to_parcel(sent, self.blob(to_bytes(tensors_of(content))))

    def reply(self, message_id: str) -> Tensors:
        """The update that has arrived in answer to a message."""
        (*_, parcel) = [offer for offer in self.offers if offer.reply_to == message_id]
        body = self.bodies[message_id]
        assert hashlib.sha256(body).hexdigest() == parcel.body.sha256
        return {name.removeprefix("update/"): array for name, array in from_bytes(body).items()}

    # --- the plant's side --------------------------------------------------------------------------

    def Watch(self, request: pb.Hello, context: Any) -> Iterator[pb.Notice]:
        self.dialled.append(time.monotonic())
        self.hellos.append(request)
        self.serials.append(certificates.identity(context.auth_context()["x509_pem_cert"][0]).serial)
        if self.refusing:
            context.abort(self.refusing.code, self.refusing.text)
        mine: queue.Queue[Any] = queue.Queue()
        context.add_callback(lambda: mine.put(None))
        if self.welcomes:
            yield pb.Notice(welcome=pb.Welcome(federation="test", node_id=7))
        self.connections.append(mine)
        while (notice := mine.get()) is not None:
            if isinstance(notice, Refusing):
                context.abort(notice.code, notice.text)
            yield notice

    def Fetch(self, request: pb.FetchRequest, context: Any) -> Iterator[pb.Piece]:
        self.fetches.append((request.sha256, request.offset))
        if request.sha256 not in self.blobs:
            context.abort(grpc.StatusCode.NOT_FOUND, "this blob is no longer here")
        for data in self.sends(self.blobs[request.sha256][request.offset :]):
            yield pb.Piece(data=data)

    def Offer(self, request: pb.Parcel, context: Any) -> pb.Answer:
        self.offers.append(request)
        if request.inline:
            self.bodies[request.reply_to] = request.inline
        return self.answer(request)

    def Upload(self, arriving: Iterator[pb.Piece], context: Any) -> pb.Answer:
        first = next(arriving)
        kept = self.bodies.get(first.message_id, b"")[: first.offset]
        self.bodies[first.message_id] = kept + first.data + b"".join(piece.data for piece in arriving)
        return pb.Answer(want=pb.Answer.KEEP)

    def Deployed(self, request: pb.Deployment, context: Any) -> pb.Empty:
        self.deployed.append((request.release, request.state, request.code))
        return pb.Empty()

    def Propose(self, request: pb.Proposal, context: Any) -> pb.Heard:
        runs = request.runs if request.HasField("runs") else None
        self.proposed.append((request.task, request.reason, runs))
        return pb.Heard(heeded=self.heeds)

    def Renew(self, request: pb.CertificateRequest, context: Any) -> pb.CertificateReply:
        self.renewals += 1
        key = certificates.requested_key(request.signing_request)
        return pb.CertificateReply(
            certificate=certificates.issue(self._authority, key, "plant", "north", lifetime=HOUR)
        )
