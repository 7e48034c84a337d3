"""A forecast is what the ledger will say afterwards, and costs nothing."""

from dataclasses import replace

import pytest

from interplant.client import planning
from interplant.client.directory import PlantDirectory
from interplant.client.planning import forecast, forecast_at
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Model
from interplant.privacy import accounting
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan

from .conftest import OPEN, TASK, edit

PLAN = Plan.of(TASK, 100)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure takes a part of a second."""
    monkeypatch.setattr(planning, "ROUNDS", (1, 5))


def charge(plant: PlantDirectory, times: int = 1) -> None:
    for number in range(times):
        Ledger(plant.ledger).reserve(PLAN, run="run", round=number, task="wear", lineage="data")


def test_a_forecast_is_what_the_ledger_will_say(bare: PlantDirectory) -> None:
    charge(bare, 2)
    before = Ledger(bare.ledger).entries()
    found = forecast_at(bare, TASK)
    assert Ledger(bare.ledger).entries() == before, "planning charges nothing"
    assert (found.windows, found.budget, found.delta, found.unit) == (100, 50.0, 1e-5, "window")
    assert found.spent == pytest.approx(Ledger(bare.ledger).spent("data", 1e-5).epsilon)
    costs = {cost.rounds: cost.epsilon for cost in found.costs}
    charge(bare, 5)
    assert costs[5] == pytest.approx(Ledger(bare.ledger).spent("data", 1e-5).epsilon)
    assert list(costs) == [1, 5, TASK.rounds]
    assert sorted(costs.values()) == list(costs.values())


def test_a_machine_is_told_of_for_the_tasks_own_rounds_only() -> None:
    found = forecast(TASK, 100, None, 1e-5, machine_windows=3)
    told = {cost.rounds: cost for cost in found.costs if cost.machine_epsilon is not None}
    assert list(told) == [TASK.rounds]
    assert told[TASK.rounds].machine_epsilon > told[TASK.rounds].epsilon  # type: ignore[operator]
    assert found.rounds_left is None
    assert found.budget is None


def test_rounds_left_are_those_that_the_ledger_will_take(bare: PlantDirectory) -> None:
    budget = accounting.spent([PLAN.event] * 4, 1e-5).epsilon * 1.0001
    edit(bare, lambda plant: setattr(plant.policy.privacy, "epsilon", budget))
    charge(bare)
    assert forecast_at(bare, TASK).rounds_left == 3


def test_nothing_is_planned_without_privacy_or_size(bare: PlantDirectory) -> None:
    with pytest.raises(UsageError, match=r"privacy\.mechanism is none"):
        forecast_at(bare, OPEN)
    edit(bare, lambda plant: setattr(plant.data, "declared_windows", 0))
    with pytest.raises(Refusal) as caught:
        forecast_at(bare, TASK)
    assert caught.value.code == "undeclared_size"


def test_planning_needs_no_model(bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "ROUNDS", ())
    edit(bare, lambda plant: setattr(plant.policy.privacy, "epsilon", 1e-3))
    assert forecast_at(bare, replace(TASK, rounds=1, model=Model("not.installed.here"))).rounds_left == 0
