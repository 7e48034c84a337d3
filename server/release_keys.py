"""The federation's signing key hands over to a new one: `interplant coordinator rotate-key`.

The new private key is written first, beside the old one; then the statement, which is the step that counts;
then the two keys take the old ones' places. Who is killed in between finds in `settle` what is left to do.
"""

import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from interplant.core import certificates, keyring, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import sync_folder, takes_turns, write_atomic
from interplant.core.keyring import Statement
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

_NEXT = "release.next.key"


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
    with takes_turns(directory.path / "rotate.lock"):
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
        ).signed(old, new)
        certificates.write_key(directory.keys / _NEXT, signing.key_pem(new))
        write_atomic(directory.release_keys, keyring.to_json((*known.statements, statement)))
        settle(directory)
        what = "revoked" if revoke else f"counts for releases until {statement.until}"
        with closing(Registry.open(directory)) as registry:
            registry.add_event("key.rotated", name, f"by {person}: {statement.old[:16]} {what}")
    return statement


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
