"""A plant's receipts: signed after each round, kept, and held against the ledger before the next.

An older ledger put back (a restored backup, a cloned disk) lacks entries that a receipt of this very plant
names. The plant's own copy shows that if only the ledger went back; the coordinator's, which it sends with
each round's request, if the whole disk did.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from interplant.client.directory import PlantDirectory
from interplant.client.lineages import keyed, lineage_of
from interplant.core import certificates, receipt
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.receipt import Receipt
from interplant.privacy.history import End
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
    end = ledger.end()
    last = _own(plant)
    if last is not None and last.entries > end.entries:
        # Another process of the plant has charged and signed since the ledger was last looked at.
        ledger.lineages()
        end = ledger.end()
    charges = {
        keyed(plant, lineage): [(one.unit, one.q, one.noise, one.steps) for one in events]
        for lineage, events in end.account.items()
    }
    made = receipt.signed(
        replace(
            unsigned,
            entries=end.entries,
            head=end.hash if end.entries else "",
            account=receipt.account_json(charges),
            trail=end.trail,
        ),
        certificates.read_key(plant.plant_key),
    )
    write_atomic(plant.receipt, receipt.to_json(made) + "\n", 0o600)
    return made


def hear(plant: PlantDirectory, text: str) -> None:
    """Keep the receipt that the coordinator says was this plant's last, until the ledger is seen to hold it.

    One that this plant did not sign is left alone: nobody else can make a plant charge itself. Nor can
    an older receipt make it forget a newer one.
    """
    if not text:
        return
    try:
        told = receipt.from_json(text)
        if told == _own(plant):
            return  # the plant's own copy says the same: nothing new to wait for the disk with
        if told.signer not in _signers(plant):
            raise InterplantError("another key has signed it")
    except InterplantError as error:
        log.warning("the coordinator's receipt is left alone: %s", error)
        return
    lines = _read(plant.told_receipt).splitlines()
    if receipt.to_json(told) not in lines:
        write_atomic(plant.told_receipt, "\n".join([*lines, receipt.to_json(told)]) + "\n", 0o600)


@contextmanager
def require(plant: PlantDirectory, ledger: Ledger) -> Iterator[None]:
    """Refuse a ledger that is behind a receipt; within the block it is looked at once.

    Receipts are read before the ledger is: what another process charges and signs in between makes the ledger
    longer, never shorter than what was read.

    Raises:
        Refusal: ``ledger_behind``.
    """
    lines = _read(plant.told_receipt).splitlines()
    known = list(_known(plant, lines))
    with ledger.one_look():
        for one in known:
            ledger.require_receipt(one.entries, one.head)
        yield
    if len(lines) > 1:
        write_atomic(plant.told_receipt, lines[-1] + "\n", 0o600)


def repair(plant: PlantDirectory, ledger: Ledger) -> list[Receipt]:
    """Charge what receipts name and the ledger does not hold; return those receipts."""
    lines = _read(plant.told_receipt).splitlines()
    return [one for one in _known(plant, lines) if ledger.repair(_end(plant, one, ledger))]


def _end(plant: PlantDirectory, one: Receipt, ledger: Ledger) -> End:
    """What a receipt tells, under the lineages' own names as far as this plant knows them."""
    known = [*ledger.lineages(), lineage_of(plant, plant.load())]
    names = {keyed(plant, lineage): lineage for lineage in known}
    account = {
        names.get(lineage, lineage): tuple(Event(*kind) for kind in kinds)
        for lineage, kinds in one.charges().items()
    }
    return End(one.entries, one.head, account, one.trail)


def _known(plant: PlantDirectory, told: list[str]) -> list[Receipt]:
    """Receipts that the ledger may be behind: the plant's own last one, and those it was told of."""
    own = _own(plant)
    found = [own] if own else []
    for line in told:
        try:
            one = receipt.from_json(line)
            if one.signer in _signers(plant) and one != own:
                found.append(one)
        except InterplantError as error:
            log.warning("%s: %s", plant.told_receipt, error)
    return found


def _own(plant: PlantDirectory) -> Receipt | None:
    text = _read(plant.receipt).strip()  # the very text that the coordinator sends back: checked once
    try:
        return receipt.from_json(text) if text else None
    except InterplantError as error:
        log.warning("%s: %s", plant.receipt, error)
        return None


def _signers(plant: PlantDirectory) -> set[str]:
    """The plant's key, and the one before if it has joined anew since its last receipt."""
    own = _own(plant)
    return {_public(plant), *([own.signer] if own else [])}


def _public(plant: PlantDirectory) -> str:
    return receipt.public_text(certificates.read_key(plant.plant_key))


def _read(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read().decode()
    except FileNotFoundError:
        return ""
