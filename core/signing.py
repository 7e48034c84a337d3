"""Signed releases: an Ed25519 signature over a manifest of digests.

A release folder holds its files, ``manifest.json`` (name, size and SHA-256 of every other file, and
the lineage) and ``manifest.sig``. Who holds the federation's public key checks it without a network.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interplant.core.errors import InterplantError
from interplant.core.files import sha256_file, write_atomic

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
FORMAT: Final = "interplant-release/1"

# One flat folder: a name that cannot lead out of it, hide in it, or be an option of a command.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One file of a release: SHA-256 as lower-case hex, and size in bytes."""

    sha256: str
    size: int


def make_key() -> Ed25519PrivateKey:
    """Make a new signing key."""
    return Ed25519PrivateKey.generate()


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a signing key as unencrypted PEM; write it with `certificates.write_key`."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_private(pem: bytes, origin: str = "the signing key") -> Ed25519PrivateKey:
    """Read a signing key from PEM, or say in one sentence what ``origin`` holds instead."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InterplantError(f"{origin}: expected an Ed25519 private key: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InterplantError(f"{origin}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def parse_public(pem: bytes, origin: str = "the release key") -> Ed25519PublicKey:
    """Read a public key from PEM, or say in one sentence what ``origin`` holds instead."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InterplantError(f"{origin}: expected an Ed25519 public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InterplantError(f"{origin}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read a signing key from a file."""
    return parse_private(_read(path), str(path))


def read_public(path: Path) -> Ed25519PublicKey:
    """Read a public key from a file."""
    return parse_public(_read(path), str(path))


def sign_manifest(
    files: Mapping[str, Entry], meta: Mapping[str, Any], key: Ed25519PrivateKey
) -> tuple[bytes, bytes]:
    """Write and sign a manifest.

    Args:
        files: Every file of the release by its plain name.
        meta: Lineage: whatever JSON can hold.
        key: The federation's signing key.

    Returns:
        The manifest as canonical JSON (sorted keys, no spaces, ASCII), and its signature.

    Raises:
        InterplantError: A name is not a plain file name.
    """
    for name in files:
        _check_name(name)
    content = {
        "format": FORMAT,
        "files": {name: asdict(entry) for name, entry in files.items()},
        "meta": dict(meta),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    manifest = text.encode("ascii")
    return manifest, key.sign(manifest)


def sign_folder(folder: Path, meta: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    """Sign every file in ``folder`` and write its manifest and signature beside them.

    Returns:
        SHA-256 of the manifest, which names the release.
    """
    names = sorted(_names_in(folder) - {MANIFEST, SIGNATURE})
    files = {name: Entry(sha256_file(folder / name), _size(folder / name)) for name in names}
    manifest, signature = sign_manifest(files, meta, key)
    write_atomic(folder / MANIFEST, manifest)
    write_atomic(folder / SIGNATURE, signature)
    return hashlib.sha256(manifest).hexdigest()


def verify(folder: Path, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Check a release folder: the signature first, then that it holds the listed files and no other.

    Returns:
        The manifest: ``files`` (name to ``sha256`` and ``size``) and ``meta``.

    Raises:
        InterplantError: Anything is missing, changed, added or signed by another key; one sentence
            names it.
    """
    text = _read(folder / MANIFEST)
    check_signature(text, _read(folder / SIGNATURE), public_key, str(folder))
    manifest = _parse(text, folder)
    listed, found = manifest["files"], _names_in(folder) - {MANIFEST, SIGNATURE}
    for name in sorted(found - set(listed)):
        raise InterplantError(f"{folder}: {name!r} is not listed in the release; do not use it")
    for name in sorted(set(listed) - found):
        raise InterplantError(f"{folder}: {name!r} is missing; fetch the release again")
    for name, entry in sorted(listed.items()):
        path = folder / name
        if _size(path) != entry["size"] or sha256_file(path) != entry["sha256"]:
            raise InterplantError(f"{folder}: {name!r} was changed after signing; do not use it")
    return manifest


def check_signature(manifest: bytes, signature: bytes, public_key: Ed25519PublicKey, origin: str) -> None:
    """Raise `InterplantError` unless the federation's key has signed exactly these bytes."""
    try:
        public_key.verify(signature, manifest)
    except InvalidSignature:
        raise InterplantError(
            f"{origin}: the manifest is not signed by this federation's release key, or was "
            "changed after signing; do not use it"
        ) from None


def _parse(text: bytes, folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except ValueError:
        manifest = None
    if not _is_manifest(manifest):
        raise InterplantError(
            f"{folder / MANIFEST}: expected a manifest of format {FORMAT!r}; update Interplant here"
        )
    content: dict[str, Any] = manifest
    for name in content["files"]:
        _check_name(name)
    return content


def _is_manifest(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.get("format") == FORMAT
        and isinstance(content.get("meta"), dict)
        and isinstance(content.get("files"), dict)
        and all(_is_entry(entry) for entry in content["files"].values())
    )


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("sha256"), str)
        and _DIGEST.fullmatch(entry["sha256"]) is not None
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
        raise InterplantError(f"{name!r} cannot be a file of a release; expected a plain file name")


def _names_in(folder: Path) -> set[str]:
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise InterplantError(f"{folder}: cannot be read: {error.strerror}") from None
    for path in paths:
        # A link could change what it points to after the check.
        if path.is_symlink() or not path.is_file():
            raise InterplantError(f"{folder}: {path.name!r} is not a plain file; do not use it")
    return {path.name for path in paths}


def _size(path: Path) -> int:
    return path.stat().st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InterplantError(f"{path}: cannot be read: {error.strerror}") from None
