"""What is asked of a model: the contract of training holds, and the same code makes the windows."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interplant.client import protocol, requests
from interplant.client.protocol import ProtocolError
from interplant.client.requests import Asked, asked, described, label_of, outputs
from interplant.core.contract import Condition
from interplant.core.schema import Target, Task, Window
from interplant.core.targets import CLASS, EVENT, VALUE
from interplant.data.windows import training_windows

from .served import COLD, TASK, readings

DEEP: Any = "bottom"
for _ in range(300):
    DEEP = [DEEP]

MOMENTS = replace(TASK, contract=replace(TASK.contract, clock="timestamp", zone="Europe/Berlin"))


def ask(*inputs: dict[str, Any], task: Task = TASK) -> Asked:
    return asked(protocol.parse(json.dumps({"inputs": inputs}).encode()), task)


def one(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        replace(TASK, window=Window(4, features=["mean", "slope", "band1"])),
        replace(
            TASK,
            contract=replace(
                TASK.contract,
                conditions=[
                    Condition("low", {"load": 2.0}, {"heat": [250.0, 300.0]}),
                    Condition("high", {"load": 8.0}, {"heat": [300.0, 380.0]}),
                ],
            ),
        ),
    ],
    ids=["readings", "features", "conditions"],
)
def test_readings_become_what_training_makes_of_them(task: Task) -> None:
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"machine": np.repeat([1, 2], 6), "cycle": [*range(6), *range(6)]})
    frame["load"], frame["heat"] = random.uniform(0, 10, 12), random.uniform(260, 320, 12)
    trained = training_windows(frame, task)
    table = frame[["load", "heat"]].to_numpy()
    windows = [table[first + start : first + start + 4] for first in (0, 6) for start in range(3)]
    np.testing.assert_array_equal(ask(readings(windows), task=task).x, trained.x)


def test_windows_are_taken_as_they_are() -> None:
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 2, 4)
    entry = {"name": "windows", "datatype": "FP32", "shape": [2, 2, 4], "data": x.ravel().tolist()}
    found = ask(entry).x
    np.testing.assert_array_equal(found, x)
    assert found.flags.c_contiguous


def changed(place: tuple[int, int], value: float) -> list[list[list[float]]]:
    window = [list(row) for row in COLD]
    window[place[0]][place[1]] = value
    return [COLD, window]


WIDE = {"name": "windows", "datatype": "FP32", "shape": [1, 2, 4]}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "inputs: expected a list of at least one"),
        ([one("machine", "BYTES", ["m"])], "expected 'readings' or 'windows'"),
        ([readings(), {**WIDE, "data": [0.0] * 8}], "expected 'readings' or 'windows'"),
        ([readings(), one("pressure", "FP32", [1.0])], "found 'pressure', 'readings'"),
        ([readings(datatype="BYTES", data=["1"] * 8)], "expected numbers .* found BYTES"),
        ([readings(shape=[1, 2, 4])], r"expected shape \[windows, readings: 4, columns: 2\]"),
        ([readings(shape=[2, 2, 2])], r"expected shape .* found \[2, 2, 2\]"),
        ([readings(shape=[8])], r"expected shape .* found \[8\]"),
        ([readings((), shape=[0, 4, 2])], "at least one window"),
        ([readings([COLD[:3]], shape=[1, 3, 2])], "expected shape"),
        ([readings(changed((2, 1), 900.0))],
         "window 1, reading 2, column 'heat': 900 is far outside .* 200 to 400 K .* in another unit"),
        ([readings(changed((0, 0), -10.5))], "window 1, reading 0, column 'load': -10.5 is far outside"),
        ([readings(parameters={"units": ["kN", "°C"]})], "units: expected 'K' for column 'heat', found '°C'"),
        ([readings(parameters={"units": "kN,F"})], "units: expected 'K' for column 'heat', found 'F'"),
        ([readings(parameters={"units": "K"})], "units: expected kN, K"),
        ([readings(parameters={"units": {"heat": "K"}})], "units: expected kN, K"),
        ([readings(parameters={"columns": ["heat", "load"]})],
         "columns: expected 'load' for column 'load', found 'heat'"),
        ([{**WIDE, "data": [0.0] * 7 + [3.5]}], r"windows\[0, 1, 3\]: expected normalised readings, -3 to 3"),
        ([{**WIDE, "shape": [1, 4, 2], "data": [0.0] * 8}], r"shape \[windows, channels: 2, readings: 4\]"),
        ([readings(), one("machine", "BYTES", ["a", "b"])], "machine: expected one for each of 1 windows"),
        ([readings(), one("machine", "FP32", [1.5])], "machine: expected texts or whole numbers"),
        ([readings(), one("machine", "BYTES", ["m" * 101])], "machine: expected at most 100 characters"),
        ([readings(), one("time", "FP64", [1.0, 2.0])], "time: expected one for each of 1 windows"),
        ([readings(), one("time", "BYTES", ["2026-01-01"])], "time: expected numbers, as the contract"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_refused_with_its_place(inputs: list[Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        ask(*inputs)
    assert caught.value.status == 400


def raw(name: str, x: np.ndarray) -> protocol.Request:
    tensor = protocol.Tensor(name, "FP64", x.shape, x)
    return protocol.Request(None, {name: tensor}, None, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    """JSON knows none, bytes do."""
    with pytest.raises(ProtocolError, match="window 1, reading 3, column 'heat': expected a finite number"):
        asked(raw("readings", np.array(changed((3, 1), value))), TASK)
    with pytest.raises(ProtocolError, match="expected normalised readings"):
        asked(raw("windows", np.full((1, 2, 4), value)), TASK)


def test_what_the_contract_still_accepts_is_predicted() -> None:
    assert np.abs(ask(readings(changed((0, 1), 600.0))).x).max() == 3.0


def test_columns_and_units_may_be_said() -> None:
    said = {"columns": ["load", "heat"], "units": "kN,K"}
    np.testing.assert_array_equal(ask(readings(parameters=said)).x, ask(readings()).x)


def test_machines_and_times_go_with_the_windows() -> None:
    found = ask(readings([COLD, COLD]), one("machine", "INT64", [3, 4]), one("time", "FP64", [17.0, 18.0]))
    assert (found.machines, found.times) == (["3", "4"], [17.0, 18.0])
    assert ask(readings(), one("machine", "BYTES", ["press 3"])).machines == ["press 3"]
    assert (ask(readings()).machines, ask(readings()).times) == (None, None)


def test_moments_are_seconds_since_1970() -> None:
    def seconds(text: str) -> Any:
        return ask(readings(), one("time", "BYTES", [text]), task=MOMENTS).times

    assert seconds("1970-01-01T00:01:00+00:00") == [60.0]
    assert seconds("1970-01-01T01:01:00") == [60.0]  # in the contract's zone
    with pytest.raises(ProtocolError, match=r"time: expected moments such as .* found 'yesterday'"):
        seconds("yesterday")


def test_a_time_is_finite() -> None:
    x = {"readings": raw("readings", np.array([COLD])).inputs["readings"]}
    at = protocol.Tensor("time", "FP64", (1,), np.array([np.nan]))
    with pytest.raises(ProtocolError, match="time: expected finite numbers"):
        asked(protocol.Request(None, {**x, "time": at}, None, False), TASK)


# --- answers and labels ----------------------------------------------------------------------------

EVENTS = Target(kind=EVENT)
VALUES = Target(kind=VALUE, low=100.0, high=200.0)
CLASSES = Target(kind=CLASS, classes=["good", "worn"])


def test_answers_are_in_the_labels_unit() -> None:
    x = np.array([0.5, 1.0], np.float32)
    assert outputs(TASK.target, x, ["a", "b"])["prediction"].tolist() == [10.0, 20.0]  # type: ignore[union-attr]
    assert outputs(VALUES, x, ["a", "b"])["prediction"].tolist() == [150.0, 200.0]  # type: ignore[union-attr]
    logits = np.array([0.0, 1000.0, -1000.0], np.float32)
    assert outputs(EVENTS, logits, ["a", "b", "c"])["prediction"].tolist() == [0.5, 1.0, 0.0]  # type: ignore[union-attr]
    found = outputs(CLASSES, np.array([[1000.0, 0.0], [0.0, np.log(3.0)]], np.float32), ["a", "b"])
    np.testing.assert_allclose(found["prediction"], [[1.0, 0.0], [0.25, 0.75]])
    assert found["class"] == ["good", "worn"]
    assert list(found) == ["prediction", "class", requests.ID]


@pytest.mark.parametrize(
    ("target", "value"),
    [(TASK.target, 0), (TASK.target, 12.5), (VALUES, 100), (VALUES, 250.0), (EVENTS, 1), (CLASSES, "worn")],
)
def test_a_label_of_the_targets_kind_is_taken(target: Target, value: Any) -> None:
    assert label_of(value, replace(TASK, target=target)) == value


@pytest.mark.parametrize(
    ("target", "value", "said"),
    [
        (TASK.target, -1.0, "expected 0 or more, found -1"),
        (TASK.target, "12", "expected a number, found '12'"),
        (TASK.target, True, "expected a number"),
        (TASK.target, None, "expected a number"),
        (TASK.target, float("inf"), "expected a number"),
        (VALUES, 301.0, "expected 100 to 200, found 301"),
        (EVENTS, 2, "expected one of 0, 1, found 2"),
        (EVENTS, True, "expected one of 0, 1, found True"),
        (EVENTS, DEEP, "expected one of 0, 1, found "),
        (TASK.target, DEEP, "expected a number, found "),
        (TASK.target, "x" * 1000, "expected a number, found 'xxx"),
        (CLASSES, "bad", "expected one of 'good', 'worn', found 'bad'"),
        (CLASSES, ["good"], "expected one of"),
    ],
)
def test_a_label_that_cannot_be_is_refused(target: Target, value: Any, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        label_of(value, replace(TASK, target=target))
    assert caught.value.status == 400


@pytest.mark.parametrize("name", ["readings", "windows"])
def test_as_many_windows_as_there_may_be_are_read(name: str) -> None:
    """Nested, each with a machine and a time."""
    count, shape = 500, [4, 2] if name == "readings" else [2, 4]
    data = np.ones((count, *shape)).tolist()
    entry = {"name": name, "datatype": "FP32", "shape": [count, *shape], "data": data}
    moments = ["2026-11-26T08:00:00"] * count
    texts = [one("machine", "BYTES", ['"[{press'] * count), one("time", "BYTES", moments)]
    body = json.dumps({"inputs": [entry, *texts]}).encode()
    found = asked(protocol.parse(body, None, requests.parts(MOMENTS, count)), MOMENTS)
    assert len(found) == count


def test_much_that_is_wrong_is_not_all_sent_back() -> None:
    for inputs in (
        [one(f"{number:099d}", "FP32", []) for number in range(20_000)],
        [readings(parameters={"units": [DEEP, "K"]})],
        [readings(parameters={"units": ["kN" * 1000, "K"]})],
    ):
        with pytest.raises(ProtocolError) as caught:
            ask(*inputs)
        assert len(str(caught.value)) < 500


def test_the_description_is_what_is_taken() -> None:
    inputs, outs = described(TASK)
    by_name = {entry["name"]: entry for entry in inputs}
    assert by_name["readings"]["shape"] == [-1, 4, 2]
    assert by_name["readings"]["parameters"]["units"] == ["kN", "K"]
    assert by_name["windows"]["shape"] == [-1, 2, 4]
    assert [entry["name"] for entry in outs] == list(outputs(TASK.target, np.zeros(1, np.float32), ["a"]))
    assert [entry["name"] for entry in described(replace(TASK, target=CLASSES))[1]] == list(
        outputs(CLASSES, np.zeros((1, 2), np.float32), ["a"])
    )
