"""A plant's receipts: signed after each round, kept, and held against the ledger before the next.

An older ledger put back (a restored backup, a cloned disk) lacks entries that a receipt of this very plant
names. The plant's own copy shows that if only the ledger went back; the coordinator's, which it sends with
each round's request, if the whole disk did.
"""

import hashlib
import hmac
import logging
from pathlib import Path

from interplant.client.directory import PlantDirectory
from interplant.core import certificates, receipt
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.receipt import Receipt
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Event

log = logging.getLogger(__name__)


def sign(plant: PlantDirectory, unsigned: Receipt, ledger: Ledger) -> Receipt:
    """Add the ledger's end and account to a receipt, sign it and keep it.

    Args:
        plant: Its key signs; its receipt is replaced.
        unsigned: What the round brought.
        ledger: The plant's.
    """
    head = ledger.head()
    charges = {
        keyed(plant, lineage): [(one.unit, one.q, one.noise, one.steps) for one in events]
        for lineage, events in ledger.account().items()
    }
    made = receipt.signed(
        Receipt(
            **{
                **vars(unsigned),
                "entries": head.entries,
                "head": head.hash if head.entries else "",
                "account": receipt.account_json(charges),
            }
        ),
        certificates.read_key(plant.plant_key),
    )
    write_atomic(plant.receipt, receipt.to_json(made) + "\n", 0o600)
    return made


def hear(plant: PlantDirectory, text: str) -> None:
    """Keep the receipt that the coordinator says was this plant's last.

    One that this plant did not sign is left alone: nobody else can make a plant charge itself.
    """
    if not text:
        return
    try:
        told = receipt.from_json(text)
        if told.signer != _public(plant):
            raise InterplantError("another key has signed it")
    except InterplantError as error:
        log.warning("the coordinator's receipt is left alone: %s", error)
        return
    if receipt.to_json(told) != _read(plant.told_receipt).strip():
        write_atomic(plant.told_receipt, receipt.to_json(told) + "\n", 0o600)


def require(plant: PlantDirectory, ledger: Ledger) -> None:
    """Refuse a ledger that is behind a receipt.

    Raises:
        Refusal: ``ledger_behind``.
    """
    for one in _known(plant):
        ledger.require_receipt(one.entries, one.head)


def repair(plant: PlantDirectory, ledger: Ledger) -> list[Receipt]:
    """Charge what receipts name and the ledger does not hold; return those receipts."""
    known = ((one, _account(plant, one, ledger)) for one in _known(plant))
    return [one for one, account in known if ledger.repair(one.entries, one.head, account)]


def keyed(plant: PlantDirectory, lineage: str) -> str:
    """Return the name under which a lineage leaves the plant: an HMAC under the snapshots' key."""
    secret = plant.snapshot_key.read_bytes()
    return hmac.new(secret, f"lineage {lineage}".encode(), hashlib.sha256).hexdigest()[:32]


def _account(plant: PlantDirectory, one: Receipt, ledger: Ledger) -> dict[str, list[Event]]:
    """A receipt's charges under the lineages' own names, as far as this plant knows them."""
    names = {keyed(plant, lineage): lineage for lineage in {*ledger.account(), *_lineages(plant)}}
    return {
        names.get(lineage, lineage): [Event(*kind) for kind in kinds]
        for lineage, kinds in one.charges().items()
    }


def _lineages(plant: PlantDirectory) -> list[str]:
    from interplant.data.snapshots import Repository

    name = plant.load().data.repository
    try:
        return [name, Repository(plant.path / name).lineage]
    except InterplantError:
        return [name]


def _known(plant: PlantDirectory) -> list[Receipt]:
    """The plant's own last receipt, and the one it was told of; a file that is not one is left alone."""
    found = []
    for path in (plant.receipt, plant.told_receipt):
        text = _read(path)
        try:
            if text and (one := receipt.from_json(text)).signer == _public(plant):
                found.append(one)
        except InterplantError as error:
            log.warning("%s: %s", path, error)
    return found


def _public(plant: PlantDirectory) -> str:
    return receipt.public_text(certificates.read_key(plant.plant_key))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
