"""What a snapshot's readings look like, in few numbers and bounded memory."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri

from interplant.core.contract import Column, Condition, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.data.blocks import LARGEST, Block, cut, of_frame, of_path, of_series
from interplant.data.reference import Reference
from interplant.data.runs import Runs
from interplant.data.scores import LEVELS, quantiles, scores, values_of
from interplant.data.survey import MOST_WINDOWS, SAMPLE, STRETCH, build


def pair(rows: int, correlation: float, seed: int = 0) -> Block:
    """Two normal columns with this correlation."""
    random = np.random.default_rng(seed)
    first, noise = random.normal(size=(2, rows))
    second = correlation * first + np.sqrt(1 - correlation**2) * noise
    return of_series(np.column_stack([first, second]))


def of(*blocks: Block, window: int = 20) -> Reference:
    names = [f"s{place}" for place in range(blocks[0].values.shape[1])]
    return build(lambda: blocks, names, window)


def test_scores_of_a_normal_column_are_the_values_themselves() -> None:
    values = np.random.default_rng(0).normal(size=(50_000, 1))
    found = scores(values, quantiles(values))
    middle = np.abs(values) < 2
    np.testing.assert_allclose(found[middle], values[middle], atol=0.06)


def test_a_score_is_the_normal_quantile_of_the_mid_rank_and_bounded() -> None:
    table = quantiles(np.array([[1.0], [1.0], [2.0], [3.0]]))
    # Half of the reference is 1: its mid-rank is a quarter. A quarter is 2: five eighths. 1.5 is the median.
    found = scores(np.array([[1.0], [2.0], [1.5], [1e30], [-1e30]]), table)[:, 0]
    edge = -ndtri(0.5 / LEVELS)
    np.testing.assert_allclose(found, [ndtri(0.25), ndtri(0.625), 0.0, edge, -edge], atol=1e-12)


def test_a_column_that_never_changes_scores_zero_until_it_changes() -> None:
    table = quantiles(np.full((7, 1), 4.2))
    assert scores(np.array([[4.2]]), table)[0, 0] == 0
    assert scores(np.array([[4.3]]), table)[0, 0] > 3


def test_values_of_scores_are_where_they_came_from() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(5000, 2))
    table = quantiles(values)
    inner = np.all((values > table[:, 5]) & (values < table[:, -5]), axis=1)
    np.testing.assert_allclose(
        values_of(scores(values, table), table)[inner], values[inner], rtol=0.05, atol=0.05
    )


@given(arrays(np.float64, (6, 2), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_scores_are_finite_whatever_comes(values: np.ndarray) -> None:
    table = quantiles(np.random.default_rng(0).normal(size=(30, 2)))
    found = scores(values, table)
    assert np.isfinite(found).all()
    assert (found[~np.isfinite(values)] == 0).all()


def test_the_residual_is_the_distance_from_the_conditional_mean() -> None:
    """Of two normal columns: (x - r y) / sqrt(1 - r²), a standard normal number (Lauritzen, 5.2)."""
    correlation, block = 0.8, pair(40_000, 0.8)
    reference = of(block)
    residual = reference.scores(block)[:, 2]
    first, second = block.values.T
    wanted = (first - correlation * second) / np.sqrt(1 - correlation**2)
    middle = (np.abs(wanted) < 2) & (np.abs(first) < 2) & (np.abs(second) < 2)
    assert np.abs(residual - wanted)[middle].mean() < 0.06
    expected = reference.expected(block)[:, 0]
    assert np.abs(expected - correlation * second)[middle].mean() < 0.05
    assert reference.error[0] == pytest.approx(np.sqrt(1 - correlation**2), rel=0.05)


def test_windows_of_independent_readings_have_channels_of_mean_zero_and_variance_one() -> None:
    rows = of(pair(40_000, 0.5)).rows
    assert MOST_WINDOWS - STRETCH <= len(rows) <= MOST_WINDOWS
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=0.12)


def test_readings_in_pieces_make_the_same_reference_as_at_once() -> None:
    block = pair(5000, 0.5)
    whole, pieces = of(block), of(*(block[begin : begin + 333] for begin in range(0, 5000, 333)))
    for one in fields(Reference):
        assert np.array_equal(getattr(whole, one.name), getattr(pieces, one.name)), one.name


def test_each_operating_condition_has_its_own_quantiles() -> None:
    random = np.random.default_rng(0)
    condition = np.arange(4000) % 2
    values = random.normal(size=(4000, 1)) + 100 * condition[:, None]
    block = replace(of_series(values), condition=condition)
    reference = of(block)
    levels = reference.levels(block)[:, 0]
    assert abs(levels[condition == 0].mean()) < 0.05
    assert abs(levels[condition == 1].mean()) < 0.05
    # The same value in the other condition is far out; in one that was never seen, it is nothing special.
    swapped = reference.levels(replace(block, condition=1 - condition))[:, 0]
    assert (np.abs(swapped) > 3).all()
    unseen = reference.levels(replace(block, condition=np.full(4000, 7)))[:, 0]
    assert np.abs(unseen).mean() < 1


def test_a_condition_that_hardly_occurs_is_held_against_all_readings() -> None:
    condition = np.zeros(2000, np.intp)
    condition[:5] = 1
    block = replace(pair(2000, 0.0), condition=condition)
    reference = of(block)
    assert np.array_equal(reference.quantiles[1], reference.quantiles[-1])


def test_ten_times_the_readings_take_the_same_memory() -> None:
    def readings(blocks: int) -> Iterator[Block]:
        for seed in range(blocks):
            yield pair(SAMPLE, 0.5, seed)

    def peak(blocks: int) -> int:
        tracemalloc.start()
        build(lambda: readings(blocks), ["a", "b"], 1000)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # The first pass holds a sample beside a block from the second block on.
    assert peak(20) < 1.3 * peak(2)


def test_windows_of_a_large_reference_are_kept_in_stretches_all_over_it() -> None:
    count = 3 * MOST_WINDOWS
    ramp = np.repeat(np.arange(count, dtype=np.float64), 10)[:, None]
    levels = of(of_series(ramp), window=10).rows[:, 0]
    assert len(levels) <= MOST_WINDOWS + STRETCH
    assert levels[:STRETCH].max() < -5
    assert levels[-STRETCH:].min() > 4
    assert np.corrcoef(levels, np.arange(len(levels)))[0, 1] > 0.9


def test_runs_go_on_from_block_to_block_and_belong_to_one_machine() -> None:
    values = np.array([[1.0], [1.0], [2.0], [1.0], [1.0], [np.nan], [np.nan]])
    machine = np.array([1, 1, 2, 1, 2, 1, 1])
    block = replace(of_series(values), machine=machine)
    wanted = [[1], [2], [1], [3], [1], [1], [1]]
    assert Runs().count(block).tolist() == wanted
    runs = Runs()
    assert [runs.count(block[place : place + 1])[0].tolist() for place in range(7)] == wanted


def test_a_saved_reference_is_the_same_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    reference = of(pair(1000, 0.5))
    reference.save(tmp_path / "r.npz")
    assert (tmp_path / "r.npz").stat().st_mode & 0o777 == 0o600
    again = Reference.load(tmp_path / "r.npz")
    for one in fields(Reference):
        assert np.array_equal(getattr(again, one.name), getattr(reference, one.name)), one.name
    whole = (tmp_path / "r.npz").read_bytes()
    (tmp_path / "r.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InterplantError, match="remove it"):
        Reference.load(tmp_path / "r.npz")


def test_too_few_readings_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="at least 10 windows of 20 readings in the snapshot, found 199"):
        of(pair(199, 0.5))


def test_a_sensor_without_a_value_is_refused_by_name() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 2))
    values[:, 1] = np.nan
    with pytest.raises(UsageError, match="column 's1': expected values"):
        of(of_series(values))


@settings(max_examples=25, deadline=None)
@given(
    arrays(
        np.float64,
        (100, 3),
        elements=st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-308]),
    )
)
def test_any_readings_make_a_finite_reference_or_a_sentence(values: np.ndarray) -> None:
    try:
        reference = of(of_series(values), window=10)
    except UsageError:
        assert not (np.abs(values) < LARGEST).any(axis=0).all()
        return
    assert np.isfinite(reference.rows).all()
    assert np.isfinite(reference.precision).all()


# --- readings as blocks ---------------------------------------------------------------------------


CONTRACT = Contract(
    settings={"speed": Column("rpm", 0, 10)},
    sensors={"heat": Column("K", 0, 100)},
    conditions=[Condition("slow", {"speed": 0.0}), Condition("fast", {"speed": 10.0})],
)


def test_readings_are_put_in_order_with_their_conditions_and_what_is_no_number_is_missing() -> None:
    frame = pd.DataFrame(
        {"machine": [2, 1, 1], "cycle": [1, 2, 1], "speed": [9, 1, 0], "heat": ["7", "broken", "5"]}
    )
    block = of_frame(frame, CONTRACT)
    assert block.machine.tolist() == [1, 1, 2]
    assert block.time.tolist() == [1, 2, 1]
    assert block.condition.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(block.values, [[0, 5], [1, np.nan], [9, 7]])


def test_moments_order_readings_of_all_machines() -> None:
    contract = replace(CONTRACT, clock="timestamp", time="when")
    when = ["2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+01:00", "2026-01-01T12:00:00Z"]
    frame = pd.DataFrame({"machine": [1, 2, 1], "when": when, "speed": 0.0, "heat": [3.0, 1.0, 2.0]})
    block = of_frame(frame, contract)
    assert block.values[:, 1].tolist() == [1, 2, 3]
    assert block.time[2] - block.time[1] == 12 * 3600


def test_a_column_that_is_gone_is_named_with_its_file(tmp_path: Path) -> None:
    pd.DataFrame({"machine": [1], "cycle": [1], "speed": [0.0]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UsageError, match=r"a\.csv: column 'heat'"):
        list(of_path(tmp_path, CONTRACT))
    (tmp_path / "a.csv").unlink()
    with pytest.raises(UsageError, match="tables here, found none"):
        list(of_path(tmp_path, CONTRACT))


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 9))
def test_cutting_loses_and_doubles_nothing_but_the_last_part(sizes: list[int], window: int) -> None:
    whole = of_series(np.arange(sum(sizes), dtype=np.float64))
    ends = np.cumsum([0, *sizes])
    parts = [whole[begin:end] for begin, end in pairwise(ends)]
    found = [value for block in cut(parts, window) for value in block.time.tolist()]
    assert found == list(range(sum(sizes) // window * window))
