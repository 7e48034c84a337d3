"""A forecast is what the ledger will say afterwards, and costs nothing."""

from dataclasses import replace
from itertools import pairwise

import pytest

from interplant.client import planning
from interplant.client.directory import PlantDirectory
from interplant.client.planning import forecast, forecast_at
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Metric, Model, PlantData
from interplant.privacy import accounting
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan

from .conftest import OPEN, TASK, edit

PLAN = Plan.of(TASK, PlantData(declared_windows=100))


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
    assert (found.units, found.budget, found.delta, found.unit) == (100, 50.0, 1e-5, "window")
    assert found.spent == pytest.approx(Ledger(bare.ledger).spent("data", 1e-5).epsilon)
    costs = {cost.rounds: cost.epsilon for cost in found.choices[0].costs}
    charge(bare, 5)
    assert costs[5] == pytest.approx(Ledger(bare.ledger).spent("data", 1e-5).epsilon)
    assert list(costs) == [1, 5, TASK.rounds]
    assert sorted(costs.values()) == list(costs.values())


def test_a_machine_is_told_of_for_the_tasks_own_rounds_only() -> None:
    found = forecast(TASK, PlantData(declared_windows=100), None, 1e-5, machine_windows=3)
    told = {cost.rounds: cost for cost in found.choices[0].costs if cost.machine_epsilon is not None}
    assert list(told) == [TASK.rounds]
    assert told[TASK.rounds].machine_epsilon > told[TASK.rounds].epsilon  # type: ignore[operator]
    assert found.choices[0].rounds_left is None
    assert found.budget is None
    assert not any(cost.machine for choice in found.choices[1:] for cost in choice.costs)


def test_rounds_left_are_those_that_the_ledger_will_take(bare: PlantDirectory) -> None:
    budget = accounting.spent([PLAN.event] * 4, 1e-5).epsilon * 1.0001
    edit(bare, lambda plant: setattr(plant.policy.privacy, "epsilon", budget))
    charge(bare)
    assert forecast_at(bare, TASK).choices[0].rounds_left == 3


def test_more_noise_covers_more_rounds_and_costs_less() -> None:
    found = forecast(TASK, PlantData(declared_windows=100), 20.0, 1e-5)
    own, *others = found.choices
    assert own.noise == TASK.privacy.noise
    by_noise = sorted([own, *others], key=lambda choice: choice.noise)
    left = [choice.rounds_left or 0 for choice in by_noise]
    assert left == sorted(left)
    assert left[-1] > left[0]
    for less, more in pairwise(by_noise):
        assert all(a.epsilon > b.epsilon for a, b in zip(less.costs, more.costs, strict=True))


def test_machines_are_planned_for_by_their_own_number() -> None:
    task = replace(TASK, privacy=replace(TASK.privacy, unit="unit"), training=replace(TASK.training, batch=4))
    found = forecast(task, PlantData(declared_units=40), None, 1e-5, machine_windows=3)
    assert (found.unit, found.units, found.q) == ("unit", 40, 0.1)
    assert not any(cost.machine for cost in found.choices[0].costs), "epsilon is a machine's already"


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
    assert (
        forecast_at(bare, replace(TASK, rounds=1, model=Model("not.installed.here"))).choices[0].rounds_left
        == 0
    )


def test_metrics_that_the_policy_lets_out_are_planned_for(
    bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "NOISES", (1.0,))  # the task's own is looked at
    measured = replace(TASK, metrics={"loss": Metric("noised", 1.0, 4.0)})
    without = forecast_at(bare, measured)
    assert without.choices[0] == forecast_at(bare, TASK).choices[0], "the policy lets none out"
    edit(bare, lambda plant: plant.policy.metrics.append("loss"))
    found = forecast_at(bare, measured)
    events = Plan.of(measured, PlantData(declared_windows=100), ["loss"]).events
    assert len(events) == 2
    assert found.choices[0].costs[0].epsilon == pytest.approx(accounting.spent(events, 1e-5).epsilon)
    assert found.choices[0].costs[0].epsilon > without.choices[0].costs[0].epsilon
