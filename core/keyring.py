"""Which keys may sign a federation's releases: one after the other, each handing over to the next.

Who holds one key of the federation, from a join file for example, learns the others from statements. A
statement names the next key and says until when releases of the old one count; the old key and the new one
sign it both, so it leads from either to the other, and nobody else can lead anywhere. The statements lie
beside the public key (``release-keys.json``), and in each release that is signed after the first of them.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interplant.core import signing
from interplant.core.errors import InterplantError

FILE: Final = "release-keys.json"
"""Beside a public key: the statements that are known there."""

IN_RELEASE: Final = "keys.json"
"""The same within a release, as they were when it was signed."""

FORMAT: Final = "interplant-keys/1"

_LARGEST = 1 << 20
"""Bytes of statements: thousands of them."""


class RevokedKeyError(InterplantError):
    """What was signed is signed by a key that does not count for it any more."""


@dataclass(frozen=True)
class Statement:
    """One key hands over to the next.

    Args:
        federation: Its name.
        old: The key that hands over, 32 bytes as lower-case hex.
        new: The key that signs from now on.
        created: ISO 8601, UTC.
        until: Releases that were made later than this do not count under the old key; ISO 8601, UTC.
        revoked: Whether no release counts under the old key, whenever it was made.
        by_old: The old key's Ed25519 signature over all above, hex.
        by_new: The new key's.
    """

    federation: str
    old: str
    new: str
    created: str
    until: str
    revoked: bool
    by_old: str = ""
    by_new: str = ""

    def signed(self, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> "Statement":
        """Return it with both signatures."""
        text = self._text()
        return Statement(**asdict(self) | {"by_old": old.sign(text).hex(), "by_new": new.sign(text).hex()})

    def check(self) -> None:
        """Raise `InterplantError` unless both keys have signed exactly this."""
        try:
            for key, signature in ((self.old, self.by_old), (self.new, self.by_new)):
                _public(key).verify(bytes.fromhex(signature), self._text())
            datetime.fromisoformat(self.until).astimezone(UTC)
        except (InvalidSignature, ValueError):
            raise InterplantError("a statement on release keys is not signed by both its keys") from None

    def _text(self) -> bytes:
        content = {name: value for name, value in asdict(self).items() if not name.startswith("by_")}
        return json.dumps({"format": FORMAT, **content}, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Keyring:
    """The keys that count, for who trusts one of them.

    Args:
        root: The key that is trusted, 32 bytes as lower-case hex.
        statements: From the first key to the present one; each is checked, and the root is among the keys.
    """

    root: str
    statements: tuple[Statement, ...] = ()

    @property
    def present(self) -> str:
        """The key that signs now."""
        return self.statements[-1].new if self.statements else self.root

    def extended(self, statements: tuple[Statement, ...]) -> "Keyring":
        """Learn statements; fewer than are known change nothing.

        Raises:
            InterplantError: They are not signed, lead past the root, or contradict what is known. Who knows a
                statement believes no other in its place: a key that was stolen cannot hand over again.
        """
        common = min(len(self.statements), len(statements))
        if statements[:common] != self.statements[:common]:
            raise InterplantError("the statements on release keys contradict those that are known here")
        if len(statements) <= len(self.statements):
            return self
        for statement in statements:
            statement.check()
        keys = [statements[0].old, *(statement.new for statement in statements)]
        if any(one.new != other.old for one, other in itertools.pairwise(statements)):
            raise InterplantError("the statements on release keys do not follow one another")
        if self.root not in keys:
            raise InterplantError("the statements on release keys do not name the key that is trusted here")
        return Keyring(self.root, statements)

    def signer(self, signed: bytes, signature: bytes) -> str:
        """Return the key of the federation that has signed these bytes, whether it still counts or not.

        Raises:
            InterplantError: None has.
        """
        for key in [self.root, *(key for one in self.statements for key in (one.old, one.new))]:
            try:
                _public(key).verify(signature, signed)
            except InvalidSignature:
                continue
            return key
        raise InterplantError(
            "the manifest is not signed by this federation's release key, or was changed after signing; do "
            "not use it"
        )

    def check_counts(self, key: str, created: str) -> None:
        """Hold a release's key and the time that it names against the statements.

        Raises:
            RevokedKeyError: The key was revoked, or has handed over before the release was made.
        """
        for statement in self.statements:
            if statement.old == key and statement.revoked:
                raise RevokedKeyError(f"signed by a key that was revoked on {statement.created}")
            if statement.old == key and _time(created) > _time(statement.until):
                raise RevokedKeyError(f"made {created} under a key that signed until {statement.until}")


def of(key: Ed25519PublicKey) -> Keyring:
    """Trust one key."""
    return Keyring(key.public_bytes_raw().hex())


def read(public_key: Path) -> Keyring:
    """Trust the key in a file, and learn the statements beside it.

    Raises:
        InterplantError: One of the files cannot be read, or the statements are not the key's.
    """
    beside = public_key.with_name(FILE)
    ring = of(signing.read_public(public_key))
    return ring.extended(parse(beside.read_bytes(), str(beside))) if beside.exists() else ring


def parse(text: bytes, origin: str = IN_RELEASE) -> tuple[Statement, ...]:
    """Read statements; `Keyring.extended` checks them.

    Raises:
        InterplantError: They are not of this format.
    """
    try:
        content = json.loads(text[:_LARGEST])
        if content["format"] != FORMAT:
            raise ValueError("another format")
        return tuple(_statement(one) for one in content["statements"])
    except (ValueError, TypeError, KeyError) as error:
        raise InterplantError(f"{origin}: expected statements on release keys ({FORMAT}): {error}") from None


def to_json(statements: tuple[Statement, ...]) -> str:
    """Return statements as JSON for people and programs."""
    return json.dumps({"format": FORMAT, "statements": [asdict(one) for one in statements]}, indent=1) + "\n"


def _statement(content: Mapping[str, Any]) -> Statement:
    made = Statement(**content)
    kinds = {name: bool if name == "revoked" else str for name in asdict(made)}
    if any(type(value) is not kinds[name] for name, value in asdict(made).items()):
        raise ValueError("a value of another type")
    return made


def _public(key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
