"""The federation's signing key hands over to a new one: `interplant coordinator rotate-key`.

The new private key is written first, beside the old one; then the statement, which is the step that counts;
then the two keys take the old ones' places. Who is killed in between finds in `settle` what is left to do.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from interplant.core import certificates, keyring, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import sync_folder, takes_turns, write_atomic
from interplant.core.keyring import Statement
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

_NEXT = "release.next.key"
_LOCK = "rotate.lock"


def rotate(directory: CoordinatorDirectory, overlap_days: float, revoke: bool, person: str) -> Statement:
    """Make a new signing key and have the old one hand over to it.

    Args:
        directory: The coordinator's directory. A serving coordinator is to be told; see
            `interplant.server.control.reload`.
        overlap_days: For how long releases that are made under the old key still count, as one that another
            machine is just signing. Releases that were made before count for good.
        revoke: The old key was stolen or lost: no release counts under it from now on.
        person: Who does it.

    Raises:
        UsageError: The days are impossible.
        InterplantError: A key cannot be read.
    """
    if not 0 <= overlap_days <= 3650:
        raise UsageError(f"overlap: expected 0 to 3650 days, found {overlap_days:g}")
    name = directory.load().name
    with takes_turns(directory.path / _LOCK):
        settle(directory)
        old, new = signing.read_private(directory.release_key), signing.make_key()
        known = keyring.read(directory.release_public_key)
        now = datetime.now(UTC).replace(microsecond=0)
        until = now if revoke else now + timedelta(days=overlap_days)
        statement = Statement(
            name,
            old.public_key().public_bytes_raw().hex(),
            new.public_key().public_bytes_raw().hex(),
            now.isoformat(),
            until.isoformat(),
            revoke,
            keyring.digest(known.statements),
        ).signed(old, new)
        certificates.write_key(directory.keys / _NEXT, signing.key_pem(new))
        write_atomic(directory.release_keys, keyring.to_json((*known.statements, statement)))
        settle(directory)
        what = "revoked" if revoke else f"counts for releases until {statement.until}"
        with closing(Registry.open(directory)) as registry:
            registry.add_event("key.rotated", name, f"by {person}: {statement.old[:16]} {what}")
    return statement


def revoke(directory: CoordinatorDirectory, key: str, person: str) -> Statement:
    """Have the present key revoke one that has handed over before: no release counts under it any more.

    Args:
        directory: The coordinator's directory; see `rotate`.
        key: The first 16 or more of the earlier key's hex digits.
        person: Who does it.

    Raises:
        UsageError: There is no such earlier key, or it is revoked already.
        InterplantError: A key cannot be read.
    """
    name = directory.load().name
    with takes_turns(directory.path / _LOCK):
        settle(directory)
        known, present = (
            keyring.read(directory.release_public_key),
            signing.read_private(directory.release_key),
        )
        found = [one for one in known.keys[:-1] if len(key) >= 16 and one.startswith(key.lower())]
        if len(found) != 1:
            earlier = ", ".join(one[:16] for one in known.keys[:-1]) or "none"
            raise UsageError(f"key {key!r}: expected an earlier key's first 16 hex digits, one of: {earlier}")
        if any(one.old == found[0] and one.revoked for one in known.statements):
            raise UsageError(f"key {key!r}: expected one that still counts, it is revoked already")
        now = datetime.now(UTC).replace(microsecond=0).isoformat()
        statement = Statement(
            name, found[0], known.present, now, now, True, keyring.digest(known.statements)
        ).signed(None, present)
        write_atomic(directory.release_keys, keyring.to_json((*known.statements, statement)))
        with closing(Registry.open(directory)) as registry:
            registry.add_event("key.revoked", name, f"by {person}: {statement.old[:16]}")
    return statement


@contextmanager
def unchanged(directory: CoordinatorDirectory) -> Iterator[None]:
    """Hold off rotations while the block runs; the keys are settled."""
    with takes_turns(directory.path / _LOCK):
        settle(directory)
        yield


def check(directory: CoordinatorDirectory) -> None:
    """Raise `InterplantError` unless the keys of a folder that was restored belong together."""
    key = signing.read_private(directory.release_key).public_key().public_bytes_raw().hex()
    public = signing.read_public(directory.release_public_key).public_bytes_raw().hex()
    if public != key or _present(directory) not in ("", key):
        raise InterplantError(
            f"{directory.release_public_key.name}: expected the public half of {directory.release_key.name}, "
            "found another key; use another backup"
        )


def trusted(directory: CoordinatorDirectory) -> tuple[bytes, bytes]:
    """Return the public key as PEM and the statements that belong to it, for a join file."""
    with unchanged(directory):
        return directory.release_public_key.read_bytes(), statements(directory)


def settle(directory: CoordinatorDirectory) -> None:
    """Finish a rotation whose statement is written, and forget one whose statement is not.

    Raises:
        InterplantError: The key that the statements name is not there.
    """
    following = directory.keys / _NEXT
    present = _present(directory)
    if following.exists():
        if _public(following) == present:
            os.replace(following, directory.release_key)
            sync_folder(directory.keys)
        else:
            following.unlink()
    key = signing.read_private(directory.release_key).public_key()
    if present and key.public_bytes_raw().hex() != present:
        raise InterplantError(
            f"{directory.release_key}: expected the key that {directory.release_keys.name} names last, found "
            "another; restore keys/ from a backup"
        )
    if directory.release_public_key.read_bytes() != signing.public_pem(key):
        write_atomic(directory.release_public_key, signing.public_pem(key))


def statements(directory: CoordinatorDirectory) -> bytes:
    """Return what plants are told of the federation's keys; nothing before the first rotation."""
    return directory.release_keys.read_bytes() if directory.release_keys.exists() else b""


def _present(directory: CoordinatorDirectory) -> str:
    text = statements(directory)
    return keyring.parse(text, str(directory.release_keys))[-1].new if text else ""


def _public(path: Path) -> str:
    return signing.read_private(path).public_key().public_bytes_raw().hex()
