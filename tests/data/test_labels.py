"""The label of each window, by the target's kind; and which labels cannot be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.schema import Task, Training, Window
from interplant.core.targets import Target
from interplant.data import labels
from interplant.data.windows import last_windows, training_windows

CONTRACT = Contract(label="state", sensors={"heat": Column("K", 0.0, 100.0)})


def task(kind: str, length: int = 1, **words: Any) -> Task:
    return Task(
        name="label",
        contract=CONTRACT,
        window=Window(length),
        target=Target(kind=kind, **words),
        training=Training(loss={"event": "bce", "class": "cross_entropy"}.get(kind, "mse")),
    )


def table(states: list[Any], machine: int = 1) -> pd.DataFrame:
    cycles = range(1, len(states) + 1)
    return pd.DataFrame({"machine": machine, "cycle": cycles, "heat": 50.0, "state": states})


def test_a_value_is_that_of_the_last_reading() -> None:
    value = task("value", 2, low=0.0, high=10.0)
    assert training_windows(table([1.0, 2.5, 4.0]), value).y.tolist() == [2.5, 4.0]
    assert last_windows(table([1.0, 2.5, 4.0]), value).y.tolist() == [4.0]


def test_a_wild_value_is_clipped_and_many_are_refused() -> None:
    value = task("value", low=0.0, high=10.0)
    stray = table([5.0] * 149 + [1e9])
    assert training_windows(stray, value).y.max() == 20.0
    with pytest.raises(Refusal, match=r"'state': far outside its declared range, 0 to 10"):
        training_windows(table([5.0, 1e9]), value)
    assert training_windows(table([5.0, 1e9]), value, checked=True).y.tolist() == [5.0, 20.0]


def test_an_event_at_the_reading() -> None:
    assert training_windows(table([0, 1, 0]), task("event")).y.tolist() == [0, 1, 0]


def test_an_event_within_the_horizon_and_none_where_the_record_ends_too_early() -> None:
    found = training_windows(table([0, 0, 0, 1, 0, 0, 0]), task("event", horizon=2.0))
    assert found.y.tolist() == [0, 1, 1, 1, 0]  # the last two readings cannot know
    assert len(found) == 5


@settings(max_examples=60, deadline=None)
@given(
    records=some.lists(some.lists(some.booleans(), min_size=1, max_size=9), min_size=1, max_size=4),
    horizon=some.integers(0, 4),
)
def test_events_agree_with_the_plain_loop(records: list[list[bool]], horizon: int) -> None:
    expected = []
    for machine, states in enumerate(records):
        for place in range(len(states)):
            ahead = states[place : place + horizon + 1]
            if any(ahead) or place + horizon < len(states):
                expected.append((machine, float(any(ahead))))
    frame = pd.concat([table([int(one) for one in own], number) for number, own in enumerate(records)])
    found = training_windows(frame, task("event", horizon=float(horizon)))
    assert list(zip(found.machine.tolist(), found.y.tolist(), strict=True)) == expected


@pytest.mark.parametrize("classes", [[73, 80, 100], ["low", "mid", "high"]])
def test_a_class_is_its_place_among_the_declared(classes: list[Any]) -> None:
    found = training_windows(table([classes[2], classes[0], classes[1]]), task("class", classes=classes))
    assert found.y.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("of", "states", "said"),
    [
        (task("event"), [0, 2], r"expected one of 0, 1, found 2 in 1 of 2 rows"),
        (task("class", classes=[3, 20]), [3, 20, 100, 7], r"one of 3, 20, found 100 in 2 of 4 rows"),
        (task("class", classes=["a", "b"]), ["a", "c"], r"one of a, b, found 'c' in 1 of 2 rows"),
    ],
)
def test_a_label_that_is_none_of_the_tasks_is_refused_or_its_window_left_out(
    of: Task, states: list[Any], said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        training_windows(table(states), of)
    known = [state for state in states if state in (of.target.classes or [0, 1])]
    assert len(training_windows(table(states), of, checked=True)) == len(known)


@pytest.mark.parametrize("kind", ["value", "event", "class"])
def test_only_a_time_to_failure_needs_no_label(kind: str) -> None:
    bare = table([0, 1]).drop(columns="state")
    with pytest.raises(Refusal, match=f"'state': expected by target.kind {kind} at each reading"):
        training_windows(bare, task(kind, classes=[0, 1]))
    assert list(labels.violations(bare, task("time_to_failure"))) == []


def test_the_label_is_no_input() -> None:
    quiet, loud = table([0, 0, 1]), table([1, 1, 0])
    np.testing.assert_array_equal(
        training_windows(quiet, task("event")).x, training_windows(loud, task("event")).x
    )
    assert task("event").channels == 1


def test_an_unknown_label_within_the_horizon_hides_what_comes() -> None:
    readings = table([0, 0, 0, 0]).astype({"state": float})
    readings.loc[2, "state"] = np.nan
    found = training_windows(readings, task("event", horizon=1.0), checked=True)
    assert found.y.tolist() == [0]


def test_a_machine_with_one_reading_has_a_window_too() -> None:
    frame = pd.concat([table([0, 0, 1], 1), table([0], 2)])
    found = training_windows(frame, replace(task("event"), window=Window(2)))
    assert found.machine.tolist() == [1, 1, 2]
