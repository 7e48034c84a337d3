"""Bugs at the plant that other tests would let live: see `tests/mutants/`."""

from interplant.client.directory import PlantDirectory
from interplant.client.participation import take_part
from interplant.core import certificates
from interplant.core import receipt as core_receipt

from .conftest import START, TASK, FakeTrainer, receipt, request


def test_the_coordinators_copy_of_the_receipt_is_kept_for_the_ledger(
    bare: PlantDirectory, fake: FakeTrainer
) -> None:
    """The ledger is held against it before the round that it came with is trained."""
    key = certificates.make_key()
    certificates.write_key(bare.plant_key, certificates.key_pem(key))
    told = core_receipt.to_json(core_receipt.signed(receipt(entries=9, head="f" * 64), key))
    asked = request(TASK, START)
    asked.content.config_records["task"]["receipt"] = told
    seen: list[str] = []
    fake.before = lambda: seen.append(bare.told_receipt.read_text())
    assert not take_part(bare, fake, asked).has_error()
    assert [text.splitlines() for text in seen] == [[told]]
