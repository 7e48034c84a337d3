"""Who is who: X.509 certificates for mutual TLS, with the role written into the certificate.

One certificate authority per federation signs them all. A URI subject alternative name
``interplant:<role>:<name>`` says what the holder is; the server reads it from the certificate that
TLS has verified, and nothing else of the peer's own words. Keys are ECDSA P-256, which the TLS
library of gRPC, OpenSSL and hardware modules all speak.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic

Key: TypeAlias = ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey

ROLES: Final = ("server", "plant", "bootstrap")
"""``bootstrap`` may call only ``Enrol``; it travels in a join file."""

BACKDATE: Final = timedelta(minutes=5)
"""How long before its issue a certificate is already valid: clocks of two machines differ a little,
and a plant whose clock is a minute slow must not find its fresh certificate "not yet valid"."""

AUTHORITY_LIFETIME: Final = timedelta(days=20 * 365)
"""A new authority means enrolling every plant again, so it outlives the machines it serves."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SCHEME = "interplant:"


@dataclass(frozen=True)
class Identity:
    """Who a certificate says its holder is.

    Attributes:
        role: One of `ROLES`.
        name: Name of the plant, or of the federation for the server.
        serial: Serial number, lower-case hex.
        not_before: Start of validity, UTC.
        not_after: End of validity, UTC.
    """

    role: str
    name: str
    serial: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class Issuer:
    """A certificate authority that can sign: its certificate and its private key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        """The authority's certificate as PEM, the trust root of the federation."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def utc_now() -> datetime:
    """Return the clock of this machine, in UTC."""
    return datetime.now(UTC)


def is_valid_name(name: str) -> bool:
    """Tell whether ``name`` may stand in a certificate: 1 to 63 letters, digits and hyphens."""
    return _NAME.fullmatch(name) is not None


# --- keys ------------------------------------------------------------------------------------------


def make_key() -> Key:
    """Make a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """Return a private key as unencrypted PEM; the file's mode and folder guard it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def parse_key(pem: bytes, origin: str = "the key") -> Key:
    """Read a private key, or say in one sentence that ``origin`` holds none."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InterplantError(f"{origin}: expected a private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InterplantError(f"{origin}: expected an ECDSA key, found {type(key).__name__}")
    return key


def write_key(path: Path, pem: bytes) -> None:
    """Write a secret file, readable by its owner alone."""
    write_atomic(path, pem, mode=0o600)


def read_key(path: Path) -> Key:
    """Read a private key from a file; the same bytes are parsed once, which takes as long as to sign."""
    return _parsed(_read(path), str(path))


@lru_cache(maxsize=1024)
def _parsed(pem: bytes, origin: str) -> Key:
    return parse_key(pem, origin)


# --- requests --------------------------------------------------------------------------------------


def make_csr(key: Key) -> bytes:
    """Make a certificate request for ``key`` as PEM.

    It names nobody: the coordinator takes the name from the invitation or the present certificate.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(csr_pem: bytes) -> PublicKey:
    """Return the public key of a request whose sender has proved to hold the private one.

    Everything else in the request (names, extensions) is ignored on purpose.

    Raises:
        InterplantError: It is not a request, its signature is wrong, or the key is not P-256.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key, signed = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InterplantError(f"expected a certificate request in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InterplantError("expected a certificate request for an ECDSA P-256 key")
    if not signed:
        raise InterplantError("the certificate request is not signed by the key it names")
    return key


def public_der(key: PublicKey) -> bytes:
    """Return a public key as bytes, the same for the same key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


# --- issuing ---------------------------------------------------------------------------------------


def make_authority(
    federation: str, lifetime: timedelta = AUTHORITY_LIFETIME, now: datetime | None = None
) -> Issuer:
    """Make the federation's certificate authority: self-signed, and no authority below it."""
    key = make_key()
    name = _subject(federation, "Interplant certificate authority")
    builder = _builder(name, key.public_key(), _validity(lifetime, now)).issuer_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return Issuer(builder.sign(key, hashes.SHA256()), key)


def load_authority(certificate: Path, key: Path) -> Issuer:
    """Read the authority's certificate and key from its two files."""
    return Issuer(parse_certificate(_read(certificate), str(certificate)), read_key(key))


def issue(
    issuer: Issuer,
    key: PublicKey,
    role: str,
    name: str,
    *,
    lifetime: timedelta,
    hosts: Iterable[str] = (),
    now: datetime | None = None,
) -> bytes:
    """Sign a certificate.

    Args:
        issuer: The federation's authority.
        key: Public key of the holder, see `requested_key`.
        role: One of `ROLES`.
        name: Name of the holder.
        lifetime: From ``now`` to the end of validity; never beyond the authority's own.
        hosts: Host names and IP addresses at which a server is dialled; none for other roles.
        now: Time of issue, by default the clock.

    Returns:
        The certificate as PEM.

    Raises:
        InterplantError: The role or the name cannot stand in a certificate.
    """
    if role not in ROLES or not is_valid_name(name):
        raise InterplantError(
            f"expected a name of letters, digits and hyphens and a role of {', '.join(ROLES)}, "
            f"found {role!r} and {name!r}"
        )
    subject = _subject(_organisation(issuer), name)
    builder = _builder(subject, key, _validity(lifetime, now, issuer))
    builder = builder.issuer_name(issuer.certificate.subject)
    names = [x509.UniformResourceIdentifier(f"{_SCHEME}{role}:{name}"), *map(_host, hosts)]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role == "server":
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    parent = issuer.key.public_key()
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(authority=False), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.SubjectAlternativeName(names), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(parent), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    signed = builder.sign(issuer.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


# --- reading ---------------------------------------------------------------------------------------


def parse_certificate(pem: bytes | str, origin: str = "the certificate") -> x509.Certificate:
    """Read exactly one certificate, or say in one sentence that ``origin`` holds none."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode() if isinstance(pem, str) else pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InterplantError(f"{origin}: expected a certificate in PEM: {error}") from None
    if len(found) != 1:
        raise InterplantError(f"{origin}: expected one certificate, found {len(found)}")
    return found[0]


def read_pem(path: Path) -> bytes:
    """Read a PEM file, or say in one sentence why not."""
    return _read(path)


def identity(pem: bytes | str) -> Identity:
    """Read who a certificate belongs to.

    The caller has had it verified (by TLS, or with `check_issued`): this function reads, strictly,
    and trusts what it reads.

    Raises:
        InterplantError: It carries no identity of ours, more than one, an unknown role or an
            impossible name.
    """
    certificate = parse_certificate(pem)
    uris = [uri for uri in _uris(certificate) if uri.lower().startswith(_SCHEME)]
    if len(uris) != 1:
        raise InterplantError(f"expected a certificate with one interplant identity, found {len(uris)}")
    scheme, _, rest = uris[0].partition(":")
    role, _, name = rest.partition(":")
    if f"{scheme}:" != _SCHEME or role not in ROLES or not is_valid_name(name):
        raise InterplantError(
            f"expected a certificate for interplant:<{'|'.join(ROLES)}>:<name>, found {uris[0]!r}"
        )
    return Identity(
        role,
        name,
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def covers(pem: bytes, hosts: Iterable[str]) -> bool:
    """Tell whether a server's certificate is good at all of these host names and IP addresses."""
    names = _alternative_names(parse_certificate(pem))
    return names is not None and set(map(_host, hosts)) <= set(names)


def check_issued(pem: bytes, authority_pem: bytes) -> None:
    """Raise `InterplantError` unless the authority has signed the certificate."""
    certificate, authority = parse_certificate(pem), parse_certificate(authority_pem)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise InterplantError("the certificate is not from this federation's authority") from None


def check_pair(pem: bytes, key: Key) -> None:
    """Raise `InterplantError` unless the certificate belongs to the private key."""
    if parse_certificate(pem).public_key() != key.public_key():
        raise InterplantError("the certificate belongs to another key")


def renewal_due(pem: bytes, now: datetime | None = None) -> bool:
    """Tell whether less than a third of the certificate's lifetime is left."""
    certificate = parse_certificate(pem)
    issued = certificate.not_valid_before_utc + BACKDATE
    lifetime = certificate.not_valid_after_utc - issued
    return certificate.not_valid_after_utc - (now or utc_now()) < lifetime / 3


def check_clock(pem: bytes, remedy: str, now: datetime | None = None) -> None:
    """Raise `InterplantError` if the clock of this machine lies outside a certificate's validity.

    Args:
        pem: The own certificate.
        remedy: What to do if the clock is right, such as "enrol this plant again".
        now: By default the clock.
    """
    certificate, clock = parse_certificate(pem), now or utc_now()
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= clock <= end:
        raise InterplantError(
            f"the clock of this machine says {readable(clock)}, the certificate is valid from "
            f"{readable(start)} to {readable(end)}: set the clock or {remedy}"
        )


def readable(time: datetime) -> str:
    """Return a time as a person reads it, in UTC to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InterplantError(f"{path}: cannot be read: {error.strerror}") from None


def _subject(organisation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _organisation(issuer: Issuer) -> str:
    value = issuer.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    return value if isinstance(value, str) else value.decode()


def _validity(
    lifetime: timedelta, now: datetime | None, issuer: Issuer | None = None
) -> tuple[datetime, datetime]:
    # Certificates count whole seconds.
    issued = (now or utc_now()).replace(microsecond=0)
    end = issued + lifetime
    latest = issuer.certificate.not_valid_after_utc if issuer else end
    return issued - BACKDATE, min(end, latest)


def _builder(
    subject: x509.Name, key: PublicKey, validity: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise UsageError(f"expected a host name or an IP address, found {host!r}")
    return x509.DNSName(host)


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise InterplantError(f"the certificate's names cannot be read: {error}") from None


def _uris(certificate: x509.Certificate) -> list[str]:
    names = _alternative_names(certificate)
    return [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
