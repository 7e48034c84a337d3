"""A charged look at the data: paid first, noised, and logged."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interplant.client import measuring
from interplant.client.directory import PlantDirectory
from interplant.client.measuring import measure_ranges, measure_sizes
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Privacy, Task
from interplant.data import snapshots
from interplant.privacy import accounting
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Event

from .conftest import OPEN, TASK, audited, edit

QUIET = 0.01
"""Noise that a test can see through; it costs an epsilon that no plant would pay."""


@pytest.fixture
def rich(ready: PlantDirectory) -> PlantDirectory:
    def change(plant: Any) -> None:
        plant.policy.privacy.epsilon, plant.policy.privacy.units = 1e6, ["window", "unit"]
        plant.data.declared_unit_windows = 12

    edit(ready, change)
    return ready


def by_machine(task: Task = TASK) -> Task:
    return replace(task, privacy=Privacy(unit="unit"))


def test_a_size_is_counted_noised_and_charged(rich: PlantDirectory) -> None:
    found = measure_sizes(rich, TASK, QUIET)
    assert found.found == {"declared_windows": 27}
    (entry,) = [one for one in Ledger(rich.ledger).entries() if one.kind == "reserve"]
    assert entry.events == (Event("window", 1.0, QUIET, 1),)
    assert (entry.run, entry.task) == ("measure", "wear")
    assert (found.before, found.delta) == (0.0, 1e-5)
    assert found.after == accounting.spent(entry.events, 1e-5, 12).epsilon


def test_machines_are_counted_where_they_are_the_unit(rich: PlantDirectory) -> None:
    assert measure_sizes(rich, by_machine(), QUIET).found == {"declared_units": 3}


def test_noise_may_bring_a_size_down_to_one_but_not_below(
    rich: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "noised", lambda *_: -40.0)
    assert measure_sizes(rich, TASK, 8.0).found == {"declared_windows": 1}


def test_a_size_is_never_told_exactly(rich: PlantDirectory) -> None:
    found = {measure_sizes(rich, TASK, 8.0).found["declared_windows"] for _ in range(12)}
    assert len(found) > 3


def test_ranges_hold_almost_all_readings_and_cost_one_charge(rich: PlantDirectory) -> None:
    """`health` reads 0 to 11 fortieths."""
    found = measure_ranges(rich, by_machine(), QUIET, bins=600)
    low, high = found.found[""]["health"]
    width = 6.0 / 600  # what is accepted reaches from -3 to 3
    assert -width <= low <= 0.0
    assert 11 / 40 <= high <= 11 / 40 + 2 * width
    (entry,) = [one for one in Ledger(rich.ledger).entries() if one.kind == "reserve"]
    assert entry.events == (Event("unit", 1.0, QUIET, 1),)


def test_ranges_of_too_few_units_are_not_told(rich: PlantDirectory) -> None:
    assert measure_ranges(rich, by_machine(), 8.0).found == {"": {"health": None}}


def test_what_was_measured_stands_in_the_audit_log(rich: PlantDirectory) -> None:
    found = measure_sizes(rich, TASK, 8.0)
    (entry,) = audited(rich)
    assert (entry["what"], entry["found"]) == ("sizes", found.found)


@pytest.mark.parametrize("measure", [measure_sizes, measure_ranges])
def test_the_charge_comes_before_the_data_is_read(
    rich: PlantDirectory, monkeypatch: pytest.MonkeyPatch, measure: Any
) -> None:
    seen = []
    really = snapshots.load

    def looked(*words: Any) -> Any:
        seen.append(len(Ledger(rich.ledger).entries()))
        return really(*words)

    monkeypatch.setattr(snapshots, "load", looked)
    measure(rich, TASK, 8.0)
    assert seen == [1]


@pytest.mark.parametrize("measure", [measure_sizes, measure_ranges])
def test_a_budget_that_does_not_cover_it_refuses_and_nothing_is_read(
    rich: PlantDirectory, monkeypatch: pytest.MonkeyPatch, measure: Any
) -> None:
    edit(rich, lambda plant: setattr(plant.policy.privacy, "epsilon", 0.1))
    monkeypatch.setattr(snapshots, "load", lambda *_: pytest.fail("the data was read"))
    with pytest.raises(Refusal) as caught:
        measure(rich, TASK, 1.0)
    assert caught.value.code == "budget_spent"
    assert Ledger(rich.ledger).entries() == []
    assert audited(rich) == []


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        (OPEN, {}, "nothing would be charged"),
        (
            replace(TASK, privacy=Privacy(unit="row")),
            {},
            r"units \(window, unit\), found row",
        ),
        (TASK, {"noise": 0.0}, "expected a number more than 0, found 0"),
        (TASK, {"noise": math.nan}, "expected a number more than 0, found nan"),
        (TASK, {"bins": 1}, "expected 2 to 4096, found 1"),
        (TASK, {"tail": 0.5}, r"expected 0 to less than 0\.5, found 0\.5"),
    ],
)
def test_bad_words_are_refused_before_a_charge(
    rich: PlantDirectory, task: Task, words: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        measure_ranges(rich, task, **({"noise": 8.0} | words))
    assert not rich.ledger.exists() or Ledger(rich.ledger).entries() == []


def test_noise_of_ranges_is_that_of_all_sensors_together(
    rich: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit adds up to 1 for each sensor: with four sensors the bound is 2."""
    column = TASK.contract.sensors["health"]
    names = ("health", "b", "c", "d")
    task = replace(TASK, contract=replace(TASK.contract, sensors=dict.fromkeys(names, column)))
    asked = []

    def stopped(blocks: Any, size: int, one: Any, stream: Any) -> Any:
        asked.append((size, one.bound, one.noise))
        return np.zeros(size)

    monkeypatch.setattr(measuring, "noised_vectors", stopped)
    measure_ranges(rich, task, 8.0, bins=10)
    assert asked == [(40, 2.0, 8.0)]


def test_a_ledger_put_back_after_a_measurement_is_noticed(rich: PlantDirectory) -> None:
    Ledger(rich.ledger)
    before = rich.ledger.read_bytes()
    measure_sizes(rich, TASK, 8.0)
    rich.ledger.write_bytes(before)
    with pytest.raises(Refusal) as caught:
        measure_sizes(rich, TASK, 8.0)
    assert caught.value.code == "ledger_behind"


def test_a_task_cannot_call_another_column_a_machine(rich: PlantDirectory) -> None:
    contract = replace(TASK.contract, machine="cycle", time="machine")
    with pytest.raises(Refusal, match=r"contract\.machine is 'cycle', data\.machine is 'machine'"):
        measure_sizes(rich, replace(by_machine(), contract=contract), 8.0)
    assert not rich.ledger.exists()
