"""How many more runs a budget pays: the same as the ledger then lets be charged, and what is said of it."""

import json
from dataclasses import replace

import pytest

from interplant.client import runway as module
from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.runway import champions_task, runway
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.release import TASK as FILE
from interplant.core.schema import Privacy
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan

from .conftest import OPEN, TASK, edit

WEAR = replace(TASK, rounds=2)


def charged(plant: PlantDirectory) -> int:
    """Charge rounds until the ledger refuses; return how many it took."""
    settings, ledger = plant.load(), Ledger(plant.ledger)
    account, plan = Account.of(plant, settings, WEAR, ledger), Plan.of(WEAR, settings.data)
    for number in range(10_000):
        try:
            account.reserve(plan, "run-1", number)
        except Refusal:
            return number
    raise AssertionError("the budget never ends")


@pytest.mark.parametrize("own", [None, 1.5])
def test_it_pays_as_many_rounds_as_the_ledger_then_charges(ready: PlantDirectory, own: float | None) -> None:
    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", 2.0))
    edit(ready, lambda plant: plant.policy.privacy.tasks.update({"wear": own} if own else {}))
    found = runway(ready, WEAR)
    assert found is not None
    assert found.runs == found.rounds_left // 2 > 0
    assert charged(ready) == found.rounds_left
    spent = runway(ready, WEAR)
    assert spent is not None
    assert spent.spent
    assert (spent.rounds_left, spent.runs) == (0, 0)


def test_the_figure_is_kept_and_computed_anew_when_the_policy_changes(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runway(ready, WEAR)
    with monkeypatch.context() as patched:
        patched.delattr(module, "_rounds_left")
        assert runway(ready, WEAR) == first
    edit(ready, lambda plant: setattr(plant.policy.privacy, "epsilon", 1.0))
    fewer = runway(ready, WEAR)
    assert fewer is not None
    assert first is not None
    assert fewer.rounds_left < first.rounds_left
    ready.runway.write_text('{"basis": [], "runway": {"task": 1}}')
    assert runway(ready, WEAR) == fewer


def test_an_answer_about_readings_is_always_counted(ready: PlantDirectory) -> None:
    """Whether one is owed depends on the newest snapshot, and the number of runs may be told."""
    left = {}
    for refusals in ("declared", "billed"):
        edit(ready, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 3.0))
        edit(ready, lambda plant, how=refusals: setattr(plant.policy.privacy, "data_refusals", how))  # type: ignore[misc]
        found = runway(ready, WEAR)
        assert found is not None
        left[refusals] = found.rounds_left
    assert left["billed"] < left["declared"]


def test_what_is_not_private_is_not_limited(ready: PlantDirectory) -> None:
    assert runway(ready, OPEN) is None
    assert runway(ready, replace(TASK, privacy=Privacy(mechanism="dp-sgd-test"))) is None


def test_it_is_the_champions_task_that_counts(ready: PlantDirectory) -> None:
    assert champions_task(ready) is None
    assert runway(ready) is None
    (ready.releases / "r-1").mkdir(parents=True)
    (ready.releases / "r-1" / FILE).write_text(json.dumps(config.dump(WEAR)))
    ready.champion.write_text(json.dumps({"release": "r-1", "previous": None, "since": ""}))
    task = champions_task(ready)
    assert task is not None
    assert (task.name, task.rounds) == ("wear", 2)
    assert runway(ready) == runway(ready, WEAR)
