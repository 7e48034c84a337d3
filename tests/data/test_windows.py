from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.schema import Target, Task, Window
from interplant.data.windows import (
    BOUND,
    arranged,
    last_windows,
    normalise,
    training_windows,
    unit_windows,
)

Make = Callable[..., pd.DataFrame]


def heat(task: Task, values: list[float]) -> list[float]:
    """What `heat` becomes in the first condition: 0 to 100 K is -1 to 1."""
    return [value / 50 - 1 for value in values]


def test_a_window_holds_consecutive_readings_of_one_machine(task: Task, readings: Make) -> None:
    windows = training_windows(readings(6, 5), task)
    assert windows.x.dtype == np.float32
    assert windows.y.dtype == np.float32
    assert windows.x.shape == (3 + 2, 4, 4)
    assert windows.machine.tolist() == [1, 1, 1, 2, 2]
    np.testing.assert_allclose(windows.x[0, 2], heat(task, [10, 20, 30, 40]), rtol=1e-6)
    np.testing.assert_allclose(windows.x[2, 2], heat(task, [30, 40, 50, 60]), rtol=1e-6)
    np.testing.assert_allclose(windows.x[3, 2], heat(task, [10, 20, 30, 40]), rtol=1e-6)
    assert len(windows) == 5


def test_the_label_is_cycles_left_up_to_the_cap(task: Task, readings: Make) -> None:
    windows = training_windows(readings(12), task)
    assert windows.y.tolist() == [5, 5, 5, 5, 4, 3, 2, 1, 0]


def test_a_gap_in_time_counts_as_time(task: Task, readings: Make) -> None:
    frame = readings(6)
    frame.loc[5, "cycle"] = 8
    assert training_windows(frame, task).y.tolist() == [4, 3, 0]


def test_a_label_column_is_believed(task: Task, readings: Make) -> None:
    frame = readings(5).assign(rul=[6, 5, 4, 3, 2])
    assert training_windows(frame, task).y.tolist() == [3, 2]
    assert last_windows(frame, task).y.tolist() == [2]


def test_the_order_of_rows_does_not_matter(task: Task, readings: Make) -> None:
    frame = readings(7, 6, 9)
    shuffled = frame.sample(frac=1.0, random_state=3)
    for cut in (training_windows, last_windows):
        ordered, other = cut(frame, task), cut(shuffled, task)
        np.testing.assert_array_equal(ordered.x, other.x)
        np.testing.assert_array_equal(ordered.y, other.y)


def test_a_short_machine_is_padded_with_its_first_reading(task: Task, readings: Make) -> None:
    for cut in (training_windows, last_windows):
        windows = cut(readings(2, 5), task)
        first = windows.x[windows.machine == 1]
        assert first.shape == (1, 4, 4)
        np.testing.assert_allclose(first[0, 2], heat(task, [10, 10, 10, 20]), rtol=1e-6)
        assert windows.y[0] == 0


def test_the_last_window_of_each_machine(task: Task, readings: Make) -> None:
    windows = last_windows(readings(6, 3, 9), task)
    assert windows.machine.tolist() == [1, 2, 3]
    np.testing.assert_allclose(windows.x[:, 2, -1], heat(task, [60, 30, 90]), rtol=1e-6)


def test_a_stride_keeps_the_last_reading(task: Task, readings: Make) -> None:
    task.window.stride = 3
    windows = training_windows(readings(9), task)
    np.testing.assert_allclose(windows.x[:, 2, -1], heat(task, [60, 90]), rtol=1e-6)
    assert windows.y.tolist() == [3, 0]


def test_each_reading_is_normalised_by_its_own_condition(task: Task, readings: Make) -> None:
    frame = readings(4).assign(
        heat=[50.0, 150.0, 100.0, 100.0], height=[0, 10, 0, 10.0], speed=[0, 1, 0, 1.0]
    )
    window = training_windows(frame, task).x[0]
    assert window.tolist() == [[-1, 1, -1, 1], [-1, 1, -1, 1], [0, 0, 1, -1], [0, 0, 0, 0]]


def test_one_wild_reading_cannot_explode(task: Task, readings: Make) -> None:
    frame = readings(150)
    frame["heat"] = 50.0
    frame.loc[3, "heat"] = 1e300
    windows = training_windows(frame, task)
    assert windows.x.max() == BOUND
    assert np.isfinite(windows.x).all()


def test_what_breaks_the_contract_makes_no_windows(task: Task, readings: Make) -> None:
    frame = readings(6)
    with pytest.raises(Refusal, match="'flow'"):
        training_windows(frame.drop(columns="flow"), task)
    frame.loc[2, "flow"] = np.nan
    with pytest.raises(Refusal, match="not a finite number"):
        last_windows(frame, task)


@settings(max_examples=50, deadline=None)
@given(
    lengths=some.lists(some.integers(1, 12), min_size=1, max_size=5),
    length=some.integers(1, 6),
    stride=some.integers(1, 4),
)
def test_windows_agree_with_the_plain_loop(lengths: list[int], length: int, stride: int) -> None:
    task = Task(
        name="loop",
        contract=Contract(sensors={"value": Column("", 0.0, 200.0)}),
        window=Window(length=length, stride=stride),
        target=Target(cap=7.0),
    )
    expected = []
    rows = []
    for machine, count in enumerate(lengths):
        values = [machine * 20 + cycle for cycle in range(count)]
        rows += [(machine, cycle, float(value)) for cycle, value in enumerate(values)]
        values = [values[0]] * (length - count) + values
        ends = range(len(values) - 1, length - 2, -stride)
        expected += [
            (machine, min(7, len(values) - 1 - end), values[end - length + 1 : end + 1])
            for end in reversed(ends)
        ]
    windows = training_windows(pd.DataFrame(rows, columns=["machine", "cycle", "value"]), task)
    assert windows.machine.tolist() == [one[0] for one in expected]
    assert windows.y.tolist() == [one[1] for one in expected]
    np.testing.assert_allclose((windows.x[:, 0] + 1) * 100, [one[2] for one in expected], atol=1e-3)


def test_normalise_is_bounded_and_linear_between(contract: Contract) -> None:
    values = np.array([[0.0, 0.0, 0.0, 10.0], [0.0, 0.0, 100.0, -1e9], [0.0, 0.0, 25.0, 1e9]])
    assert normalise(values, contract)[:, 2:].tolist() == [[-1, 1], [1, -BOUND], [-0.5, BOUND]]


# --- stretches -------------------------------------------------------------------------------------


def cycled(task: Task, cycle: str = "", gap: float = 0.0) -> Task:
    contract = replace(task.contract, cycle=cycle, gap=gap)
    return replace(task, contract=contract)


def test_no_window_reaches_over_a_gap(task: Task, readings: Make) -> None:
    frame = readings(10)
    frame.loc[5:, "cycle"] += 3
    whole = training_windows(frame, task)
    assert len(whole) == 7
    assert [len(training_windows(frame, cycled(task, gap=gap))) for gap in (4.0, 3.0)] == [7, 4]


def test_one_window_a_cycle(task: Task, readings: Make) -> None:
    frame = readings(12).assign(stroke=np.repeat([1, 2, 3], 4))
    by_cycle = replace(cycled(task, "stroke"), window=Window(4, 4))
    windows = training_windows(frame, by_cycle)
    assert len(windows) == 3
    np.testing.assert_allclose(windows.x[1, 2], heat(task, [50, 60, 70, 80]), rtol=1e-6)
    assert last_windows(frame, by_cycle).y.tolist() == [0]


def test_a_short_first_stretch_is_padded_and_a_short_later_one_gives_nothing(
    task: Task, readings: Make
) -> None:
    frame = readings(9).assign(stroke=[1, 1, 2, 2, 2, 2, 2, 3, 3])
    windows = training_windows(frame, cycled(task, "stroke"))
    assert len(windows) == 3
    np.testing.assert_allclose(windows.x[0, 2], heat(task, [10, 10, 10, 20]), rtol=1e-6)
    np.testing.assert_allclose(windows.x[2, 2], heat(task, [40, 50, 60, 70]), rtol=1e-6)
    last = last_windows(frame, cycled(task, "stroke"))
    np.testing.assert_allclose(last.x[0, 2], heat(task, [40, 50, 60, 70]), rtol=1e-6)


def test_the_time_left_counts_to_the_machines_last_reading_over_all_stretches(
    task: Task, readings: Make
) -> None:
    frame = readings(9).assign(stroke=np.repeat([1, 2], [4, 5]))
    assert training_windows(frame, cycled(task, "stroke")).y.tolist() == [5, 1, 0]


def test_a_cycle_column_that_is_not_there_is_refused(task: Task, readings: Make) -> None:
    with pytest.raises(Refusal, match="'stroke'"):
        training_windows(readings(9), cycled(task, "stroke"))


def test_what_must_never_be_an_input_is_none_and_no_surprise(task: Task, readings: Make) -> None:
    barred = replace(task, contract=replace(task.contract, never=["verdict"]))
    frame = readings(6)
    windows = training_windows(frame.assign(verdict="torn"), barred)
    np.testing.assert_array_equal(windows.x, training_windows(frame, task).x)
    assert barred.channels == 4


def test_gaps_between_timestamps_are_in_seconds(task: Task, readings: Make) -> None:
    frame = readings(8)
    frame["cycle"] = pd.to_datetime(frame["cycle"], unit="s", utc=True)
    frame.loc[4:, "cycle"] += pd.Timedelta(seconds=10)
    rows = arranged(frame, cycled(task, gap=5.0))
    assert (rows.last - rows.first + 1).tolist() == [4, 4]


@settings(max_examples=50, deadline=None)
@given(
    cycles=some.lists(some.lists(some.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    length=some.integers(1, 4),
    stride=some.integers(1, 3),
)
def test_stretches_agree_with_the_plain_loop(cycles: list[list[int]], length: int, stride: int) -> None:
    task = Task(
        name="loop",
        contract=Contract(sensors={"value": Column("", 0.0, 200.0)}, cycle="stroke"),
        window=Window(length, stride),
        target=Target(1000.0),
    )
    rows, expected, counts = [], [], []
    for machine, own in enumerate(cycles):
        at, found = 0, []
        for stroke, count in enumerate(own):
            values = list(range(at, at + count))
            rows += [(machine, value, float(value), stroke) for value in values]
            at += count
            if stroke == 0:
                values = [values[0]] * (length - count) + values
            ends = list(range(len(values) - 1, length - 2, -stride))[::-1]
            found += [values[end - length + 1 : end + 1] for end in ends]
        expected += found
        counts.append(len(found))
    frame = pd.DataFrame(rows, columns=["machine", "cycle", "value", "stroke"])
    windows = training_windows(frame, task)
    np.testing.assert_allclose((windows.x[:, 0] + 1) * 100, expected, atol=1e-3)
    assert unit_windows(frame, task).tolist() == counts


def test_features_stand_in_place_of_readings(task: Task, readings: Make) -> None:
    plain = training_windows(readings(9), task)
    made = training_windows(readings(9), replace(task, window=Window(4, 1, ["mean", "max"])))
    assert made.x.shape == (6, 8, 1)
    np.testing.assert_allclose(made.x[:, 0::2, 0], plain.x.mean(axis=2), atol=1e-6)
    np.testing.assert_array_equal(made.x[:, 1::2, 0], plain.x.max(axis=2))
    assert np.abs(made.x).max() <= BOUND
