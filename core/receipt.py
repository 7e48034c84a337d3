"""A receipt: what a plant says beside its update, signed, so that its ledger cannot go back unnoticed.

The plant signs with the key of its connection's certificate, which stays the same when that is renewed.
All figures follow from public plans, not from data; what identifies data is keyed (see `core.wire`).
"""

import base64
import json
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from interplant.core.errors import InterplantError

Charges = dict[str, list[tuple[str, float, float, int]]]
"""By keyed lineage: privacy unit, q, noise and steps of each kind of charge."""

LONGEST = 300
"""Characters of a text in a receipt, but for its account."""

LONGEST_ACCOUNT = 65_536

LONGEST_TRAIL = 2048


@dataclass(frozen=True)
class Receipt:
    """What a plant says beside its update.

    Args:
        plant: The plant's name.
        snapshot: Keyed digest of the snapshot that was trained on.
        mechanism: ``dp-sgd``; or ``none`` or ``dp-sgd-test``, which are not private.
        unit: The privacy unit that epsilon counts; empty without privacy.
        epsilon: Spent so far at ``delta`` over the ledger's whole history for this dataset, this round
            included; 0 without privacy.
        delta: The probability beside it.
        simulated: Whether the data comes from the plant simulator.
        run: The run.
        round: The round in it.
        entries: How many entries the plant's ledger holds.
        head: Hash of the last one; empty if there is none.
        account: All that the ledger was ever charged, as JSON; see `Charges`.
        trail: First digits of hashes before the last one: a copy of the ledger finds where it parted.
        signer: The plant's public key, DER in base64.
        signature: ECDSA over all the rest, base64.
    """

    plant: str
    snapshot: str
    mechanism: str
    unit: str
    epsilon: float
    delta: float
    simulated: bool
    run: str = ""
    round: int = 0
    entries: int = 0
    head: str = ""
    account: str = "{}"
    trail: str = ""
    signer: str = ""
    signature: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name; all of them are plain values."""
        return dict(vars(self))

    def charges(self) -> Charges:
        """Read the account.

        Raises:
            InterplantError: It is not one.
        """
        try:
            found: Charges = {
                str(lineage): [(str(unit), float(q), float(noise), int(n)) for unit, q, noise, n in kinds]
                for lineage, kinds in dict(json.loads(self.account)).items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise InterplantError(f"receipt.account: expected charges by lineage: {error}") from None
        for _, q, noise, steps in (kind for kinds in found.values() for kind in kinds):
            if not (0 < q <= 1 and 0 < noise < math.inf and steps > 0):
                raise InterplantError("receipt.account: expected q in (0, 1], noise and steps above 0")
        return found


_KINDS = {field.name: field.type for field in fields(Receipt)}

_KNOWN: dict[str, Receipt] = {}
"""Receipts by the texts that this process has checked or signed, the oldest first."""

_MOST_KNOWN: Final = 1024

_LOCK = threading.Lock()

_LONGEST = {"account": LONGEST_ACCOUNT, "trail": LONGEST_TRAIL}


def account_json(charges: Mapping[str, Iterable[tuple[str, float, float, int]]]) -> str:
    """Write an account the one way that is signed."""
    return json.dumps({name: list(map(list, kinds)) for name, kinds in sorted(charges.items())})


def signed(receipt: Receipt, key: ec.EllipticCurvePrivateKey) -> Receipt:
    """Return the receipt with its signer and signature."""
    content = receipt.as_dict() | {"signer": public_text(key)}
    signature = key.sign(_signed_text(content), ec.ECDSA(hashes.SHA256()))
    made = Receipt(**content | {"signature": base64.b64encode(signature).decode()})
    _remember(to_json(made), made)
    return made


@lru_cache(maxsize=1024)
def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key's public half as a receipt names it."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(public).decode()


def parse(content: Mapping[str, Any]) -> Receipt:
    """Read a receipt: exactly its keys and types, short texts, finite figures.

    Raises:
        InterplantError: It is not one.
    """
    if content.keys() != _KINDS.keys():
        odd = sorted(content.keys() ^ _KINDS.keys())
        raise InterplantError(
            f"expected a receipt with {', '.join(_KINDS)}; {odd[0]!r} is missing or unknown"
        )
    for name, value in content.items():
        if type(value) is not _KINDS[name] or not _is_sensible(value, _LONGEST.get(name, LONGEST)):
            kind = getattr(_KINDS[name], "__name__", _KINDS[name])
            raise InterplantError(f"receipt.{name}: expected a short or finite {kind}")
    return Receipt(**content)


def verify(receipt: Receipt) -> None:
    """Check a receipt's signature against the key that it names.

    Raises:
        InterplantError: The signature is wrong, or the key cannot be read.
    """
    try:
        key = _key_of(receipt.signer)
        signature = base64.b64decode(receipt.signature, validate=True)
        key.verify(signature, _signed_text(receipt.as_dict()), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError):
        raise InterplantError("receipt.signature: it is not this key's over this receipt") from None


@lru_cache(maxsize=4096)
def _key_of(signer: str) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(base64.b64decode(signer, validate=True))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic-curve key")
    return key


@lru_cache(maxsize=64)
def to_json(receipt: Receipt) -> str:
    """Return the receipt as one line of JSON."""
    return json.dumps(receipt.as_dict(), sort_keys=True)


def from_json(text: str) -> Receipt:
    """Read what `to_json` wrote, and check its signature.

    A text that this process has checked before, or signed, is not checked again.

    Raises:
        InterplantError: It is not a receipt, or its signature is wrong.
    """
    if known := _KNOWN.get(text):
        return known
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InterplantError("expected a receipt as JSON, found something else")
    receipt = parse(content)
    verify(receipt)
    _remember(text, receipt)
    return receipt


def _remember(text: str, receipt: Receipt) -> None:
    with _LOCK:
        while len(_KNOWN) >= _MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[text] = receipt


def _signed_text(content: Mapping[str, Any]) -> bytes:
    """What is signed of a receipt's fields: all but the signature."""
    rest = {name: value for name, value in content.items() if name != "signature"}
    return b"interplant-receipt/1\n" + json.dumps(rest, sort_keys=True).encode()


def _is_sensible(value: Any, longest: int) -> bool:
    """A receipt stands in tables, on terminals and in the release's lineage."""
    if isinstance(value, str):
        return len(value) <= longest and value.isprintable()
    return math.isfinite(value) and value >= 0
