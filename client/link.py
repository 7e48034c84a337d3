"""The plant's one connection: outbound, mutual TLS, everything else rides on it."""

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from interplant.client.directory import PlantDirectory
from interplant.client.joining import JoinFile
from interplant.core import certificates
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sha256_file
from interplant.core.wire import PROTOCOL, pieces

log = logging.getLogger(__name__)

_OPTIONS = [
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
]

_FINAL = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
)
"""Answers that trying again cannot change."""


_DIGEST = re.compile(r"[0-9a-f]{64}")

LARGEST = 4 << 30
"""Bytes of the largest blob that a plant takes: a coordinator cannot fill its disk with one."""


class TurnedAwayError(InterplantError):
    """The coordinator will not have this plant: revoked, another version, a clock that is off."""


class AwayError(InterplantError):
    """The coordinator cannot be reached now."""


class Link:
    """An open connection to the coordinator.

    Args:
        plant: The plant's directory: address and TLS files.
    """

    def __init__(self, plant: PlantDirectory) -> None:
        self._address = plant.load().connection.coordinator
        files = plant.tls_files
        certificates.check_clock(
            files.certificate.read_bytes(), "ask the coordinator's operator for a new join file"
        )
        credentials = grpc.ssl_channel_credentials(
            files.authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
        )
        self._channel = grpc.secure_channel(self._address, credentials, _OPTIONS)
        self._stub = rpc.CoordinatorStub(self._channel)

    def close(self) -> None:
        """Close the connection; calls that are under way end."""
        self._channel.close()

    @contextmanager
    def watch(self) -> Iterator[Iterator[pb.Notice]]:
        """Open the standing stream of notices."""
        with _plainly(self._address):
            call = self._stub.Watch(pb.Hello(protocol=PROTOCOL, clock=time.time()))
            try:
                yield iter(call)
            finally:
                call.cancel()  # type: ignore[no-untyped-call]

    def fetch(self, blob: pb.Blob, path: Path) -> Path:
        """Bring a blob to ``path``, going on where an earlier try stopped.

        Raises:
            InterplantError: The blob has no digest or is too large, or what came is not the blob.
        """
        # A digest names a file here: one that is none could name any.
        if not _DIGEST.fullmatch(blob.sha256) or blob.size > LARGEST:
            raise InterplantError(f"expected a SHA-256 and at most {LARGEST} bytes, found another blob")
        part = path.with_name(path.name + ".part")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and sha256_file(path) == blob.sha256:
                return path
            if self._fetch_rest(blob, part) != blob.sha256:
                part.unlink()
                raise InterplantError(f"blob {blob.sha256[:12]}: what came has another digest")
            part.rename(path)
        return path

    def _fetch_rest(self, blob: pb.Blob, part: Path) -> str:
        """Append what is missing of a blob; return the digest of all that is there then."""
        with part.open("a+b") as file, _plainly(self._address):
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            for piece in self._stub.Fetch(pb.FetchRequest(sha256=blob.sha256, offset=file.tell())):
                data = piece.data  # each look is a copy
                file.write(data)
                digest.update(data)
                if file.tell() > blob.size:
                    break
        return digest.hexdigest()

    def deliver(self, parcel: pb.Parcel, body: Path | None) -> bool:
        """Offer a reply and send the bytes that are wanted.

        Returns:
            Whether the reply shall be kept: it is until the round it answers is settled.
        """
        with _plainly(self._address):
            answer = self._stub.Offer(parcel)
            if answer.want == pb.Answer.SEND and body is not None:
                answer = self._stub.Upload(pieces(body, answer.offset, parcel.reply_to))
        return answer.want != pb.Answer.DROP

    def report(self, release: str, state: str, code: str, score: float | None = None) -> None:
        """Tell what became of a release."""
        with _plainly(self._address):
            self._stub.Deployed(pb.Deployment(release=release, state=state, code=code, score=score))

    def propose(self, task: str, reason: str, runs: int | None) -> bool:
        """Propose a retraining, or tell how many more runs the budget pays; return whether it is heeded."""
        with _plainly(self._address):
            return self._stub.Propose(pb.Proposal(task=task, reason=reason, runs=runs)).heeded

    def renew(self, signing_request: bytes) -> bytes:
        """Return a fresh certificate for the plant's key."""
        with _plainly(self._address):
            reply = self._stub.Renew(
                pb.CertificateRequest(protocol=PROTOCOL, signing_request=signing_request)
            )
        return reply.certificate


def enrol(join: JoinFile, signing_request: bytes, seconds: float = 20.0) -> bytes:
    """Exchange a join file for the plant's own certificate.

    Raises:
        InterplantError: The coordinator cannot be reached or refuses.
    """
    credentials = grpc.ssl_channel_credentials(join.authority, join.key, join.certificate)
    with grpc.secure_channel(join.coordinator, credentials, _OPTIONS) as channel, _plainly(join.coordinator):
        reply = rpc.CoordinatorStub(channel).Enrol(
            pb.CertificateRequest(protocol=PROTOCOL, signing_request=signing_request), timeout=seconds
        )
    return bytes(reply.certificate)


@contextmanager
def _plainly(address: str) -> Iterator[None]:
    """Turn gRPC's errors into one sentence each."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code in _FINAL:
            raise TurnedAwayError(f"{address}: {details}") from None
        if "CERTIFICATE_VERIFY_FAILED" in details or "SSL_ERROR" in details or "handshake" in details.lower():
            raise AwayError(
                f"{address}: this is not the coordinator that the plant joined, or a certificate has ended: "
                "check the address, and the clocks of both machines"
            ) from None
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            raise AwayError(f"{address}: the coordinator does not answer there; is it running?") from None
        raise AwayError(f"{address}: {details or code.name.lower()}") from None
    except ValueError as error:
        # What grpc says of a channel that another thread has closed.
        if "channel" not in str(error).lower():
            raise
        raise AwayError(f"{address}: the connection was closed") from None
