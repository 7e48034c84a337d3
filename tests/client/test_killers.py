"""Bugs at the plant that other tests would let live: see `tests/mutants/`."""

from typing import Any

import pytest

from interplant.client import round_training
from interplant.client.directory import PlantDirectory
from interplant.client.participation import take_part
from interplant.core import certificates
from interplant.core import receipt as core_receipt
from interplant.core.errors import Refusal
from interplant.data import snapshots

from .conftest import START, TASK, FakeTrainer, edit, receipt, request


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


def test_a_spent_budget_is_refused_before_data_is_read(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a contract's refusal would tell of data to who has no budget left."""

    def unexpected(*_: Any) -> None:
        raise AssertionError("readings were loaded")

    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", 0.01))
    monkeypatch.setattr(snapshots, "load", unexpected)
    with pytest.raises(Refusal) as caught:
        round_training.train_round(ready, round_training.Bench(), "run-1", 1, TASK, START)
    assert caught.value.code == "budget_spent"
