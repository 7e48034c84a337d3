"""What one privacy unit adds to a sum about readings follows from its own readings, and is bounded."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interplant.core.contract import Column, Contract
from interplant.core.errors import Refusal
from interplant.core.schema import UNITS, Privacy, Task, Window
from interplant.data.shares import BLOCK, Bins, bad_shares, intake_shares, unit_rows
from interplant.data.windows import training_windows

Make = Callable[..., pd.DataFrame]


def counted(task: Task, unit: str) -> Task:
    task.privacy = Privacy(unit=unit)
    return task


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_windows_rows_are_the_readings_that_the_window_is_cut_from(
    task: Task, readings: Make, stride: int
) -> None:
    task.window.stride = stride
    frame = readings(6, 2, 9).sample(frac=1.0, random_state=1).reset_index(drop=True)
    windows = training_windows(frame, task)
    found = list(unit_rows(frame, counted(task, "window")))
    assert len(found) == len(windows)
    heat = frame["heat"].to_numpy()
    for rows, x in zip(found, windows.x, strict=True):
        np.testing.assert_allclose(heat[rows] / 50 - 1, x[2], rtol=1e-6)


def test_a_machines_rows_are_all_its_readings_once(task: Task, readings: Make) -> None:
    frame = readings(6, 2).sample(frac=1.0, random_state=1).reset_index(drop=True)
    found = list(unit_rows(frame, counted(task, "unit")))
    assert [frame["machine"].to_numpy()[rows].tolist() for rows in found] == [[1] * 6, [2] * 2]


def test_the_share_of_bad_readings_of_each_unit(task: Task, readings: Make) -> None:
    frame = readings(6, 4, 1)
    frame.loc[[0, 6], "heat"] = [np.nan, 1e9]
    (by_unit,) = bad_shares([frame], counted(task, "unit"))
    (by_window,) = bad_shares([frame], counted(task, "window"))
    assert by_unit.tolist() == pytest.approx([1 / 6, 1 / 4, 0.0])
    assert by_window.tolist() == pytest.approx([0.25, 0.0, 0.0, 0.25, 0.0])


def test_no_readings_are_no_units(task: Task, readings: Make) -> None:
    for unit in ("unit", "window"):
        assert [own.tolist() for own in bad_shares([readings(3).iloc[:0]], counted(task, unit))] == [[]]
        assert list(Bins.of(task.contract, 8).shares([readings(3).iloc[:0]], counted(task, unit))) == []


COUNTS = st.tuples(st.integers(0, 300), st.integers(0, 300))


@given(intake=st.dictionaries(st.sampled_from(["", "a", "b", "c"]), COUNTS), unit=st.sampled_from(UNITS))
def test_what_came_passes_0_where_more_than_may_be_is_in_quarantine(
    intake: dict[str, tuple[int, int]], unit: str
) -> None:
    contract = Contract(sensors={"a": Column("", 0, 9)}, strays=0.1)
    length = 1 if unit == "row" else 4
    asked = Task(name="t", contract=contract, window=Window(length), privacy=Privacy(unit=unit))
    values = [value for block in intake_shares(intake, asked) for value in block]
    assert all(-1 <= value <= 1 for value in values)
    if unit != "unit":
        good, bad = (sum(own[place] for own in intake.values()) for place in (0, 1))
        assert len(values) == good + bad
        assert sum(values) * length == pytest.approx(bad - 0.1 * (good + bad), abs=1e-6)
        return
    shares = [bad / (good + bad) - 0.1 for name, (good, bad) in intake.items() if name and good + bad]
    assert sorted(values) == pytest.approx(sorted(shares))


def test_a_missing_column_is_refused(task: Task, readings: Make) -> None:
    frame = readings(4).drop(columns="flow")
    for asked in (bad_shares, Bins.of(task.contract, 8).shares):
        with pytest.raises(Refusal, match="flow"):
            list(asked([frame], counted(task, "unit")))


def shares(bins: Bins, frame: pd.DataFrame, task: Task) -> np.ndarray:
    return np.concatenate(list(bins.shares([frame], task))).reshape(-1, *bins.shape)


def test_a_reading_falls_into_its_conditions_bin(task: Task, readings: Make) -> None:
    """Low: heat 0 to 100, so that -100 to 200 are accepted; high: 100 to 200, so that 0 to 300 are."""
    frame = readings(4)
    frame.loc[3, ["height", "speed"]] = [9.9, 0.99]
    bins = Bins.of(task.contract, 3)
    (found,) = shares(bins, frame, counted(task, "unit"))
    assert found[0, 0].tolist() == [0.0, 0.75, 0.0]  # 10, 20, 30
    assert found[1, 0].tolist() == [0.25, 0.0, 0.0]  # 40
    assert found[:, 1].sum(axis=1).tolist() == [0.75, 0.25]


@pytest.mark.parametrize("unit", ["unit", "window"])
def test_no_unit_adds_more_than_the_bound_whatever_it_reads(task: Task, readings: Make, unit: str) -> None:
    frame = readings(BLOCK + 9, 3, 1)
    values = np.random.default_rng(0).choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0, 55.5], len(frame))
    frame["heat"], frame["flow"] = values, values[::-1]
    frame.loc[::3, "height"] = np.nan
    bins = Bins.of(task.contract, 5)
    found = shares(bins, frame, counted(task, unit))
    assert len(found) == len(list(unit_rows(frame, task)))
    assert (found >= 0).all()
    assert np.linalg.norm(found.reshape(len(found), -1), axis=1).max() <= bins.bound == pytest.approx(2**0.5)


def test_ranges_are_read_off_the_sums(task: Task) -> None:
    bins = Bins.of(task.contract, 30)  # heat, low: -100 to 200 in tens
    sums = np.random.default_rng(0).normal(0.0, 1.0, bins.shape)
    sums[0, 0, 12:15] += [100, 800, 100]
    sums[0, 0, 29] += 4.0
    (heat, flow), high = bins.quantiles(sums, 1.0, tail=0.01)
    assert heat == pytest.approx((20.0, 50.0))
    assert flow is None
    assert high == [None, None]
    assert bins.quantiles(sums, 1.0, tail=0.2)[0][0] == pytest.approx((30.0, 40.0))


def test_noise_alone_is_no_range(task: Task) -> None:
    bins = Bins.of(task.contract, 64)
    generator = np.random.default_rng(7)
    found: Iterable[object] = [
        ends
        for _ in range(20)
        for own in bins.quantiles(generator.normal(0.0, 3.0, bins.shape), 3.0, 0.01)
        for ends in own
    ]
    assert set(found) == {None}
