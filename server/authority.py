"""Who may join: join files, the plants' certificates, and the server's own."""

import hashlib
import json
import textwrap
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from interplant.core import certificates
from interplant.core.certificates import Identity, Issuer, PublicKey
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.core.schema import Federation
from interplant.server import release_keys
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Issued
from interplant.server.registry import Registry


@dataclass(frozen=True)
class Authority:
    """The federation's certificate authority and the registry that remembers what it issued."""

    directory: CoordinatorDirectory
    federation: Federation
    issuer: Issuer
    registry: Registry

    @classmethod
    def open(cls, directory: CoordinatorDirectory | Path) -> "Authority":
        """Open the authority of a coordinator directory.

        Raises:
            UsageError: The directory is none, or its ``federation.yaml`` is wrong.
            InterplantError: A key or the registry is missing or damaged.
        """
        if not isinstance(directory, CoordinatorDirectory):
            directory = CoordinatorDirectory(directory)
        federation = directory.load()
        issuer = certificates.load_authority(directory.ca_certificate, directory.ca_key)
        certificates.check_clock(issuer.pem, "restore the authority's keys from a backup")
        return cls(directory, federation, issuer, Registry.open(directory))

    def invite(self, name: str, hours: float | None = None, now: datetime | None = None) -> str:
        """Make a join file; an earlier, unused one for the same plant is withdrawn.

        Args:
            name: The plant to be.
            hours: How long it is good, by default ``certificates.join_hours`` of ``federation.yaml``.
            now: By default the clock.

        Returns:
            The file's text. It holds a secret: write it with mode 0600.

        Raises:
            UsageError: The name or the time is impossible.
            InterplantError: The plant is enrolled already; a revoked one may be invited again.
        """
        hours = self.federation.certificates.join_hours if hours is None else hours
        _check_invitation(name, hours)
        key = certificates.make_key()
        pem = self._issue(key.public_key(), "bootstrap", name, timedelta(hours=hours), now)
        bootstrap = certificates.identity(pem)
        self.registry.invite(name, bootstrap.serial, bootstrap.not_after)
        words = {
            "interplant-join": 1,
            "federation": self.federation.name,
            "plant": name,
            "coordinator": self.federation.address,
            "expires": bootstrap.not_after.isoformat(),
        }
        release_key, statements = release_keys.trusted(self.directory)
        blocks = {
            "authority": self.issuer.pem,
            "release-key": release_key,
            **({"release-keys": statements} if statements else {}),
            "certificate": pem,
            "key": certificates.key_pem(key),
        }
        lines = [_head(name), *(f"{word}: {json.dumps(value)}" for word, value in words.items())]
        for word, block in blocks.items():
            lines += [f"{word}: |", textwrap.indent(block.decode("ascii").strip(), "  ")]
        return "\n".join(lines) + "\n"

    def accept(self, bootstrap: Identity, csr_pem: bytes, now: datetime | None = None) -> bytes:
        """Let the holder of a join file in, once.

        Args:
            bootstrap: Who calls, read from the certificate that TLS has verified.
            csr_pem: Request for the plant's own key. Names in it count for nothing: the plant's name
                is the invitation's.
            now: By default the clock.

        Returns:
            The plant's certificate as PEM.

        Raises:
            InterplantError: Another role calls, the request is bad, or the invitation is unknown,
                expired, withdrawn or used.
        """
        if bootstrap.role != "bootstrap":
            raise InterplantError(f"expected the certificate of a join file, found role {bootstrap.role}")
        key = certificates.requested_key(csr_pem)
        name = self.registry.invitation(bootstrap.serial).plant
        issued = self._issue_plant(key, name, now)
        return self.registry.use_invitation(bootstrap.serial, issued, now).encode()

    def renew(self, plant: Identity, csr_pem: bytes, now: datetime | None = None) -> bytes:
        """Give an enrolled plant a fresh certificate, for the same key or a new one.

        Raises:
            InterplantError: Another role calls, the plant was revoked, or the request is bad.
        """
        if plant.role != "plant":
            raise InterplantError(f"expected the certificate of a plant, found role {plant.role}")
        if not self.registry.is_allowed(plant.name, plant.serial, now):
            raise InterplantError(f"plant {plant.name!r} is not enrolled in this federation")
        issued = self._issue_plant(certificates.requested_key(csr_pem), plant.name, now)
        self.registry.add_certificate(plant.name, issued)
        return issued.pem.encode()

    def revoke(self, name: str, reason: str = "") -> None:
        """Refuse every certificate and join file of a plant from now on."""
        self.registry.revoke(name, reason)

    def ensure_server_certificate(self, now: datetime | None = None) -> bool:
        """Renew the server's certificate if it is due, missing, or lacks the configured address.

        The key stays: key and certificate are two files, and only one can change in one step.

        Returns:
            True if there is a new certificate, which the server takes up at the next handshake.
        """
        path, hosts = self.directory.server_certificate, server_hosts(self.federation)
        if path.exists():
            pem = path.read_bytes()
            if not certificates.renewal_due(pem, now) and certificates.covers(pem, hosts):
                return False
        key = certificates.read_key(self.directory.server_key)
        write_server_certificate(self.directory, self.issuer, self.federation, key.public_key(), now)
        self.registry.add_event("server.renewed", self.federation.name, ", ".join(hosts))
        return True

    def _issue_plant(self, key: PublicKey, name: str, now: datetime | None) -> Issued:
        lifetime = timedelta(hours=self.federation.certificates.plant_hours)
        pem = self._issue(key, "plant", name, lifetime, now)
        made = certificates.identity(pem)
        digest = hashlib.sha256(certificates.public_der(key)).hexdigest()
        return Issued(made.serial, made.not_after, pem.decode(), digest)

    def _issue(
        self, key: PublicKey, role: str, name: str, lifetime: timedelta, now: datetime | None
    ) -> bytes:
        return certificates.issue(self.issuer, key, role, name, lifetime=lifetime, now=now)


def server_hosts(federation: Federation) -> list[str]:
    """Return the names under which the server is dialled: on this machine, and as configured."""
    hosts = ["localhost", "127.0.0.1"]
    for address in (federation.address, federation.listen):
        host = address.rpartition(":")[0].strip("[]")
        # Listening everywhere is not a name that anybody dials.
        if host not in (*hosts, "0.0.0.0", "::"):  # noqa: S104
            hosts.append(host)
    return hosts


def write_server_certificate(
    directory: CoordinatorDirectory,
    issuer: Issuer,
    federation: Federation,
    key: PublicKey,
    now: datetime | None = None,
) -> None:
    """Issue the server's certificate and write it to its file."""
    lifetime = timedelta(hours=federation.certificates.server_hours)
    pem = certificates.issue(
        issuer, key, "server", federation.name, lifetime=lifetime, hosts=server_hosts(federation), now=now
    )
    write_atomic(directory.server_certificate, pem)


def _check_invitation(name: str, hours: float) -> None:
    if not certificates.is_valid_name(name):
        raise UsageError(
            f"plant name: expected 1 to 63 letters, digits and hyphens, not starting with a hyphen, "
            f"found {name!r}"
        )
    if not 0 < hours <= 24 * 365:
        raise UsageError(f"hours: expected more than 0 and at most a year, found {hours:g}")


def _head(name: str) -> str:
    return (
        f"# Join file for plant {name}. It is valid once and holds a secret: hand it over on a safe way.\n"
        "# At the plant: interplant plant join FILE"
    )
