"""Which keys may sign a federation's releases: one after the other, each handing over to the next.

Who holds one key of the federation, from a join file for example, learns the others from statements. A
statement names the next key and says until when releases of the old one count; the old key and the new one
sign it both. It also holds a digest of all statements before it, so who signs the newest has signed the list:
keys before the one that is trusted count only because that one, or a later one, says so. A key can thus lead
forward, and nobody who has stolen an old one can put a key of theirs before it. The present key may also
revoke an earlier one; that statement it signs alone. The statements lie in a join file, beside the public key
(``release-keys.json``), and in each release that is signed after the first of them.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interplant.core import signing
from interplant.core.errors import InterplantError

log = logging.getLogger(__name__)

FILE: Final = "release-keys.json"
"""Beside a public key: the statements that are known there."""

IN_RELEASE: Final = "keys.json"
"""The same within a release, as they were when it was signed."""

FORMAT: Final = "interplant-keys/2"

_LARGEST = 1 << 20
"""Bytes of statements: thousands of them."""


class RevokedKeyError(InterplantError):
    """What was signed is signed by a key that does not count for it any more."""


class UnknownKeyError(InterplantError):
    """Statements do not name the key that is trusted."""


@dataclass(frozen=True)
class Statement:
    """One key hands over to the next, or the present key revokes an earlier one.

    Args:
        federation: Its name.
        old: The key that hands over, or is revoked later, 32 bytes as lower-case hex.
        new: The key that signs from now on; if it does already, this is no more than a revocation.
        created: ISO 8601, UTC.
        until: Releases that were made later than this do not count under the old key; ISO 8601, UTC.
        revoked: Whether no release counts under the old key, whenever it was made.
        before: `digest` of all statements before this one.
        by_old: The old key's Ed25519 signature over all above, hex; empty in a mere revocation.
        by_new: The new key's.
    """

    federation: str
    old: str
    new: str
    created: str
    until: str
    revoked: bool
    before: str
    by_old: str = ""
    by_new: str = ""

    def signed(self, old: Ed25519PrivateKey | None, new: Ed25519PrivateKey) -> "Statement":
        """Return it with both signatures; a mere revocation has no old key's."""
        text = self._text()
        by_old = old.sign(text).hex() if old else ""
        return Statement(**asdict(self) | {"by_old": by_old, "by_new": new.sign(text).hex()})

    def check(self, alone: bool = False) -> None:
        """Raise `InterplantError` unless both keys, or the new one ``alone``, have signed exactly this."""
        signers = [(self.new, self.by_new)] if alone else [(self.old, self.by_old), (self.new, self.by_new)]
        try:
            for key, signature in signers:
                _public(key).verify(bytes.fromhex(signature), self._text())
            datetime.fromisoformat(self.until).astimezone(UTC)
        except (InvalidSignature, ValueError):
            raise InterplantError("a statement on release keys is not signed by its keys") from None

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

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that were ever the federation's, the present one last."""
        order = [one.old for one in self.statements[:1]] + [one.new for one in self.statements]
        return tuple(dict.fromkeys(order or [self.root]))

    def extended(self, statements: tuple[Statement, ...]) -> "Keyring":
        """Learn statements; fewer than are known change nothing.

        Raises:
            UnknownKeyError: They are another federation's, or older than the root.
            InterplantError: They are not signed, or contradict what is known. Who knows a
                statement believes no other in its place: a key that was stolen cannot hand over again.
        """
        common = min(len(self.statements), len(statements))
        if statements[:common] != self.statements[:common]:
            raise InterplantError("the statements on release keys contradict those that are known here")
        if len(statements) <= len(self.statements):
            return self
        if self.root not in _keys(statements):
            raise UnknownKeyError("the statements on release keys do not name the key that is trusted here")
        return Keyring(self.root, statements)

    def signer(self, signed: bytes, signature: bytes) -> str:
        """Return the key of the federation that has signed these bytes, whether it still counts or not.

        Raises:
            InterplantError: None has.
        """
        for key in self.keys:
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

    Statements that do not name the key are another's, left from before a new join: they count for nothing.

    Raises:
        InterplantError: One of the files cannot be read, or the statements contradict themselves.
    """
    beside = public_key.with_name(FILE)
    ring = of(signing.read_public(public_key))
    if not beside.exists():
        return ring
    try:
        return ring.extended(parse(beside.read_bytes(), str(beside)))
    except UnknownKeyError as error:
        log.warning("%s: %s; they count for nothing", beside, error)
        return ring


def digest(statements: tuple[Statement, ...]) -> str:
    """Return the SHA-256 of statements with their signatures, lower-case hex."""
    text = json.dumps([asdict(one) for one in statements], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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


def _keys(statements: tuple[Statement, ...]) -> tuple[str, ...]:
    """The keys in order, after every statement was held against those before it."""
    keys = [statements[0].old]
    for number, one in enumerate(statements):
        revokes = one.revoked and one.new == keys[-1] and one.old in keys[:-1]
        follows = one.old == keys[-1] and one.new not in keys
        if one.before != digest(statements[:number]) or not (revokes or follows):
            raise InterplantError("the statements on release keys do not follow one another")
        one.check(alone=revokes)
        if follows:
            keys.append(one.new)
    return tuple(keys)


def _public(key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
