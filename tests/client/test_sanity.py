"""Sanity cases: what a sensible model says of inputs that people made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interplant.client import sanity, verdicts
from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.cases import STEPS, Case
from interplant.core.contract import Column, Condition, Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Plant, ReleasePolicy, Task, Window
from interplant.core.targets import Target

from .federation import TASK, Federation, settle

TWO = Task(
    name="two",
    contract=Contract(
        settings={"speed": Column("rpm", 0.0, 100.0)},
        sensors={"heat": Column("K", 200.0, 400.0), "wear": Column("mm", 0.0, 2.0)},
        conditions=[
            Condition("slow", {"speed": 10.0}, {"heat": [200.0, 300.0]}),
            Condition("fast", {"speed": 90.0}, {"heat": [300.0, 400.0]}),
        ],
    ),
    window=Window(3),
    target=Target(kind="value", low=0.0, high=10.0),
)


def windows(case: Case, task: Task = TWO) -> Any:
    (found,) = sanity.asked(replace(task, cases=[case]), ReleasePolicy())
    return found.windows


def test_constants_and_readings_are_normalised_as_the_plants_own_are() -> None:
    found = windows(Case("c", inputs={"speed": 90, "heat": 300.0, "wear": [0, 1, 2]}, within=[0, 1]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], [[0.8, 0.8, 0.8], [-1, -1, -1], [-1, 0, 1]], atol=1e-6)


def test_what_is_not_named_stands_in_the_middle_of_the_first_condition() -> None:
    found = windows(Case("c", inputs={"heat": 300}, within=[0, 1]))
    np.testing.assert_allclose(found[0, :, 0], [-0.8, 1.0, 0.0], atol=1e-6)


def test_a_direction_is_tried_from_one_end_to_the_other() -> None:
    found = windows(Case("c", inputs={"wear": 2.0}, falls="heat"))
    assert found.shape == (STEPS, 3, 3)
    np.testing.assert_allclose(found[:, 1, 0], np.linspace(-1, 1, STEPS))
    np.testing.assert_allclose(found[:, 2], 1.0)


def test_features_take_the_place_of_readings() -> None:
    task = replace(TWO, window=Window(3, features=["mean", "slope"]))
    found = windows(Case("c", inputs={"wear": [0, 1, 2]}, within=[0, 1]), task)
    assert found.shape == (1, 6, 1)
    np.testing.assert_allclose(found[0, 4:, 0], [0.0, 1.0], atol=1e-6)


def outcome(case: Case, predicted: list[Any], task: Task = TWO) -> str:
    asked = sanity.asked(replace(task, cases=[case]), ReleasePolicy())
    found = sanity.failed(asked, [np.array(predicted, np.float32)], task)
    return found[1] if found else ""


def test_a_prediction_must_lie_within_in_the_labels_unit() -> None:
    case = Case("a new tool", within=[0, 3])
    assert outcome(case, [0.25]) == ""
    assert outcome(case, [0.35]) == "a new tool: expected 0 to 3, predicted 3.5"
    assert outcome(case, [np.nan]) == "a new tool: predicted no finite number"
    event = replace(TWO, target=Target(kind="event"))
    assert outcome(Case("c", within=[0, 0.5]), [-1.0], event) == ""
    assert "predicted 0.7311" in outcome(Case("c", within=[0, 0.5]), [1.0], event)


def test_a_class_must_be_one_of_those() -> None:
    task = replace(TWO, target=Target(kind="class", classes=["a", "b", "c"]))
    case = Case("c", classes=["a", "b"])
    assert outcome(case, [[0, 2, 1]], task) == ""
    assert outcome(case, [[0, 1, 2]], task) == "c: expected one of ['a', 'b'], predicted 'c'"


def test_a_direction_is_held_but_for_rounding() -> None:
    rises, falls = Case("c", rises="wear"), Case("c", falls="wear")
    up = [0.1, 0.2, 0.19995, 0.3, 0.4]
    assert outcome(rises, up) == ""
    assert outcome(falls, up[::-1]) == ""
    assert outcome(rises, [0.1, 0.2, 0.1, 0.3, 0.4]) == (
        "c: expected that it does not fall with wear, predicted 1, 2, 1, 3, 4"
    )
    assert "does not rise with wear" in outcome(falls, up)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"name": "", "within": [0, 1]}, "expected what the case is about"),
        ({"name": "c"}, "expected one of within, classes, rises and falls, found 0"),
        ({"name": "c", "within": [0, 1], "rises": "heat"}, "found 2: a case asks one thing"),
        ({"name": "c", "within": [1, 0]}, "expected \\[low, high\\] with low < high"),
        ({"name": "c", "within": [0, 1], "inputs": {"heat": "hot"}}, "expected a number, or one for each"),
        ({"name": "c", "within": [0, 1], "inputs": {"cold": 1}}, "inputs of the contract, found 'cold'"),
        ({"name": "c", "rises": "cold"}, "inputs of the contract, found 'cold'"),
        ({"name": "c", "within": [0, 1], "inputs": {"heat": [1, 2]}}, "one for each of 3 readings"),
        ({"name": "c", "classes": ["a"]}, "expected within, rises or falls for target.kind value"),
    ],
)
def test_a_case_that_cannot_be_asked_is_named_with_its_key(
    tmp_path: Path, case: dict[str, Any], words: str
) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(config.to_yaml(TWO))
    content = config.dump(TWO) | {"cases": [case]}
    with pytest.raises(UsageError, match=words) as caught:
        config.parse(content, Task, str(path))
    assert "cases.0" in str(caught.value)


def test_a_release_that_fails_a_case_of_its_task_is_refused_and_that_is_told(federation: Federation) -> None:
    case = Case("at its end", inputs={"health": 0.0}, within=[0, 1])
    asking = replace(TASK, cases=[case])
    good = federation.try_out(federation.make("r-1", 0.02, asking))
    assert good.state == "active", good.sentence
    bad = federation.try_out(federation.make("r-2", 0.1, asking))
    assert (bad.state, bad.code) == ("refused", "case")
    assert "at its end: expected 0 to 1, predicted 2" in bad.sentence
    policy = federation.plant.load().policy
    assert verdicts.report_for_coordinator(policy, bad) == ("refused", "case")


def test_a_case_of_the_plants_own_is_nobody_elses_business(federation: Federation) -> None:
    case = Case("at its end", task="wear", inputs={"health": 0.0}, within=[0, 1])
    settle(federation.plant, release__cases=[case, Case("other", task="heat", rises="kiln")])
    bad = federation.try_out(federation.make("r-1", 0.1))
    assert (bad.state, bad.code) == ("refused", "own_case")
    policy = federation.plant.load().policy
    assert verdicts.report_for_coordinator(policy, bad) == ("received", "")


def test_a_case_of_the_plants_own_that_does_not_fit_the_task_is_named(plant: PlantDirectory) -> None:
    policy = ReleasePolicy(cases=[Case("c", rises="kiln")])
    with pytest.raises(UsageError, match=r"plant\.yaml: policy\.release\.cases\.0: .* for task wear"):
        sanity.asked(TASK, policy)


def test_a_plants_cases_are_read_from_its_file(tmp_path: Path) -> None:
    settings = Plant(name="north", federation="f")
    settings.connection.coordinator = "hub:7443"
    settings.policy.release.cases = [Case("c", within=[0, 200])]
    path = tmp_path / "plant.yaml"
    path.write_text(config.to_yaml(settings))
    assert config.load(path, Plant).policy.release.cases == [Case("c", within=[0, 200])]
