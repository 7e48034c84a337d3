"""The account as a person reads it: whole, named, and never better than the ledger."""

import json
from typing import Any

import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.spending import spending
from interplant.core.errors import Refusal
from interplant.core.schema import PlantData
from interplant.privacy import accounting
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan

from .conftest import TASK, edit

PLAN = Plan.of(TASK, PlantData(declared_windows=100))


def charge(plant: PlantDirectory, times: int = 1, lineage: str = "data") -> None:
    for number in range(times):
        Ledger(plant.ledger).reserve(PLAN, run="run", round=number, task="wear", lineage=lineage)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many charges each computation was over."""
    seen: list[int] = []
    really = accounting.spent

    def counted(events: Any, *words: Any) -> Any:
        seen.append(len(events))
        return really(events, *words)

    monkeypatch.setattr(accounting, "spent", counted)
    return seen


def test_a_plant_that_was_never_charged_has_all_its_budget_and_no_ledger(bare: PlantDirectory) -> None:
    (account,) = spending(bare)
    assert (account.dataset, account.unit, account.rounds) == ("data", "window", 0)
    assert (account.epsilon, account.budget, account.left) == (0.0, 50.0, 50.0)
    assert account.machine == "nothing was spent"
    assert not bare.ledger.exists()
    assert not bare.spending.exists()


def test_what_was_spent_is_the_ledgers_and_what_is_left_never_below_nothing(bare: PlantDirectory) -> None:
    charge(bare, 3)
    (account,) = spending(bare)
    assert account.epsilon == Ledger(bare.ledger).spent("data", 1e-5).epsilon > 0
    assert account.rounds == 3, "a charge without a commit is a charge"
    assert account.left == pytest.approx(50.0 - account.epsilon)
    assert "machine" in account.machine
    edit(bare, lambda plant: setattr(plant.policy.privacy, "epsilon", account.epsilon / 2))
    assert spending(bare)[0].left == 0.0


def test_each_dataset_has_its_own_account_and_none_is_forgotten(bare: PlantDirectory) -> None:
    charge(bare, 1)
    charge(bare, 2, lineage="older")
    edit(bare, lambda plant: setattr(plant.data, "repository", "newest"))
    assert [(one.dataset, one.rounds) for one in spending(bare)] == [("data", 1), ("newest", 0), ("older", 2)]


def test_the_machine_with_the_most_windows_is_counted(ready: PlantDirectory) -> None:
    charge(ready)
    (account,) = spending(ready)
    assert account.machine_windows == 12
    machine = accounting.machine_epsilon([PLAN.event], 1e-5, 12)
    assert machine > account.epsilon
    assert account.machine == accounting.machine_sentence(machine, 12)


def test_figures_are_computed_anew_only_when_something_changed(
    bare: PlantDirectory, computed: list[int]
) -> None:
    charge(bare)
    first = spending(bare)
    done = len(computed)
    assert spending(bare) == first
    assert len(computed) == done
    assert bare.spending.stat().st_mode & 0o777 == 0o600
    charge(bare)
    assert spending(bare)[0].epsilon > first[0].epsilon
    edit(bare, lambda plant: setattr(plant.policy.privacy, "delta", 1e-7))
    assert spending(bare)[0].delta == 1e-7


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"data": 3}', b'{"data": {"basis": []}}'])
def test_damaged_figures_are_computed_again(bare: PlantDirectory, content: bytes) -> None:
    charge(bare)
    good = spending(bare)
    bare.spending.write_bytes(content)
    assert spending(bare) == good
    assert json.loads(bare.spending.read_text())["data"]["account"]["rounds"] == 1


def test_figures_kept_by_another_version_are_computed_again(bare: PlantDirectory) -> None:
    charge(bare)
    good = spending(bare)
    kept = json.loads(bare.spending.read_text())
    kept["data"]["account"]["of another version"] = kept["data"]["account"].pop("machine")
    bare.spending.write_text(json.dumps(kept))
    assert spending(bare) == good


def test_a_damaged_ledger_is_no_account(bare: PlantDirectory) -> None:
    bare.ledger.write_bytes(b"nonsense" * 100)
    with pytest.raises(Refusal) as caught:
        spending(bare)
    assert caught.value.code == "ledger"


def test_each_task_is_told_with_its_own_cap(bare: PlantDirectory) -> None:
    charge(bare, 2)
    ledger = Ledger(bare.ledger)
    ledger.reserve(PLAN, run="run", round=9, task="other", lineage="data")
    edit(bare, lambda plant: plant.policy.privacy.tasks.update(other=0.75))
    (account,) = spending(bare)
    one, two = (accounting.spent([PLAN.event] * count, 1e-5).epsilon for count in (1, 2))
    assert account.tasks == {
        "other": {"epsilon": pytest.approx(one), "budget": 0.75},
        "wear": {"epsilon": pytest.approx(two), "budget": None},
    }
    assert two < account.epsilon < one + two, "the account is that of all tasks together"
    edit(bare, lambda plant: plant.policy.privacy.tasks.update(other=0.8))
    assert spending(bare)[0].tasks["other"]["budget"] == 0.8
