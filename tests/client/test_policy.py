"""Whatever the coordinator asks, the plant's own file decides."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from interplant.client import policy
from interplant.client.directory import PlantDirectory
from interplant.core.errors import Refusal
from interplant.core.schema import Connection, Model, Plant, Privacy, Strategy, Task

from .conftest import OPEN, TASK, edit


@pytest.fixture
def plant() -> Plant:
    """Allows the tiny task with privacy, and nothing else."""
    settings = Plant(name="north", federation="test", connection=Connection("localhost:7443"))
    settings.policy.tasks, settings.policy.models = ["wear"], ["tiny_models.Line"]
    settings.data.declared_windows = 100
    return settings


def refusal_of(plant: Plant, task: Task) -> str:
    with pytest.raises(Refusal) as caught:
        policy.admit(plant, task)
    return caught.value.code


def test_what_the_policy_covers_is_admitted(plant: Plant) -> None:
    policy.admit(plant, TASK)


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (replace(TASK, name="other"), "policy_task"),
        (replace(TASK, name="Wear"), "policy_task"),
        (replace(TASK, model=Model("tiny_models.Loud")), "policy_model"),
        (replace(TASK, model=Model("os.system")), "policy_model"),
        (replace(TASK, model=Model("Line")), "policy_model"),
        (replace(TASK, strategy=Strategy("other")), "policy_strategy"),
        (OPEN, "policy_privacy"),
        (replace(TASK, privacy=Privacy(mechanism="dp-sgd-test")), "policy_privacy"),
        (replace(TASK, privacy=Privacy(unit="row")), "policy_privacy"),
        (replace(TASK, privacy=Privacy(unit="")), "policy_privacy"),
        (replace(TASK, privacy=Privacy(delta=1.1e-5)), "policy_privacy"),
        (replace(TASK, contract=replace(TASK.contract, machine="cycle", time="machine")), "policy_privacy"),
        (replace(TASK, contract=replace(TASK.contract, time="shift")), "policy_privacy"),
    ],
)
def test_nothing_else_is(plant: Plant, task: Task, code: str) -> None:
    assert refusal_of(plant, task) == code


def test_the_plant_says_which_column_tells_machines(plant: Plant) -> None:
    """Else a task counts by cycle, and an epsilon "by machine" protects no machine."""
    plant.data.machine, plant.data.time = "press", "stroke"
    own = replace(TASK, contract=replace(TASK.contract, machine="press", time="stroke"))
    policy.admit(plant, own)
    assert refusal_of(plant, TASK) == "policy_privacy"


def test_a_smaller_delta_asks_for_more_privacy_and_is_fine(plant: Plant) -> None:
    policy.admit(plant, replace(TASK, privacy=Privacy(delta=1e-6)))


def test_an_undeclared_size_is_refused_only_where_it_would_set_the_sampling(plant: Plant) -> None:
    plant.data.declared_windows = 0
    assert refusal_of(plant, TASK) == "undeclared_size"
    plant.policy.privacy.allow_none = True
    policy.admit(plant, OPEN)


def test_allowing_no_privacy_loosens_nothing_else(plant: Plant) -> None:
    plant.policy.privacy.allow_none = True
    assert refusal_of(plant, replace(OPEN, name="other")) == "policy_task"
    assert refusal_of(plant, replace(OPEN, model=Model("tiny_models.Loud"))) == "policy_model"
    assert refusal_of(plant, replace(TASK, privacy=Privacy(delta=1e-3))) == "policy_privacy"


def drop(name: str) -> Callable[[Plant], None]:
    return lambda plant: setattr(plant.policy, name, [])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (drop("tasks"), "policy_task"),
        (drop("models"), "policy_model"),
        (drop("strategies"), "policy_strategy"),
        (lambda plant: setattr(plant.policy.privacy, "units", []), "policy_privacy"),
    ],
)
def test_an_empty_list_offers_nothing(plant: Plant, change: Callable[[Plant], None], code: str) -> None:
    change(plant)
    assert refusal_of(plant, TASK) == code


def test_a_new_plant_offers_no_task() -> None:
    settings = Plant(name="north", federation="test", connection=Connection("localhost:7443"))
    assert refusal_of(settings, TASK) == "policy_task"


def test_pausing_refuses_until_it_is_resumed_and_says_what_is_new(bare: PlantDirectory) -> None:
    policy.check_not_paused(bare)
    assert policy.pause(bare)
    assert not policy.pause(bare)
    with pytest.raises(Refusal) as caught:
        policy.check_not_paused(PlantDirectory(bare.path))
    assert caught.value.code == "paused"
    assert policy.resume(bare)
    assert not policy.resume(bare)
    policy.check_not_paused(bare)


def test_a_change_of_the_file_counts_from_the_next_round_on(bare: PlantDirectory) -> None:
    policy.admit(bare.load(), TASK)
    edit(bare, drop("tasks"))
    assert refusal_of(bare.load(), TASK) == "policy_task"
