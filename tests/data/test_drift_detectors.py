"""Limits: closed forms where there are some, and the rate that they state."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from interplant.data.blocks import of_series
from interplant.data.detectors import HORIZON, WILDEST, Trends, excursions, limits, prediction
from interplant.data.survey import build

from .drifts import NAMES, WINDOW, live, monitor, reference


def autoregressive(rows: int, memory: float, channels: int = 200, seed: int = 0) -> np.ndarray:
    """Normal rows of variance one, each this much like the last."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, channels))
    for row in range(1, rows):
        found[row] = memory * found[row - 1] + np.sqrt(1 - memory**2) * found[row]
    return found


def test_the_bound_of_independent_windows_is_students_prediction_interval() -> None:
    rows, rate = autoregressive(400, 0.0), 1e-5
    interval = prediction(rows, rate)
    exact = t.isf(rate / 2, len(rows) - 1) * np.sqrt(1 + 1 / len(rows))
    assert np.median(interval.above) == pytest.approx(exact, rel=0.05)
    assert np.median(interval.below) == pytest.approx(exact, rel=0.05)
    # Never below it by more than the estimate of one side's spread errs.
    assert interval.above.min() > 0.97 * norm.isf(rate / 2)


@pytest.mark.parametrize("memory", [0.0, 0.8])
@pytest.mark.parametrize("size", [1.0, 6.0])
def test_one_more_window_is_outside_about_as_often_as_stated_or_less(memory: float, size: float) -> None:
    """Of windows that follow the reference's, as autocorrelated as they are, within windows and between."""
    rate, rows = 0.02, size * autoregressive(700, memory, channels=400, seed=3)
    outside = (prediction(rows[:200], rate).ratios(rows[200:]) > 1).mean()
    assert 0.2 * rate < outside < 1.1 * rate


def test_autocorrelated_windows_are_worth_fewer() -> None:
    """A first-order process of memory m: (1 - m) / (1 + m) as many, for the mean."""
    interval = prediction(autoregressive(2000, 0.5), 1e-4)
    assert np.median(interval.worth) == pytest.approx(2000 / 3, rel=0.1)


def test_a_side_that_reaches_far_out_has_a_bound_further_out() -> None:
    rows = autoregressive(400, 0.0)
    heavy = np.where(rows > 0, np.sign(rows) * np.abs(rows) ** 2, rows)
    interval = prediction(heavy, 1e-5)
    assert np.median(interval.above) > 1.5 * np.median(interval.below)


def test_a_channel_that_never_moves_is_held_to_what_independent_readings_would_do() -> None:
    interval = prediction(np.zeros((50, 1)), 1e-4)
    assert interval.size == 1
    assert 3 < interval.above[0] < 10


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1), st.floats(0, 1))
def test_what_the_bootstrap_sums_is_what_rivers_detector_compares(
    seed: int, shift: float, height: float
) -> None:
    rows = np.random.default_rng(seed).normal(shift, 1.5, size=(60, 13))
    made = limits(reference(), 1e-4)
    made = replace(made, height=np.full(13, 2 + 8 * height))
    sums = excursions(rows, made.interval.worth, made.allowance)
    trends = Trends(made)
    for number, row in enumerate(rows):
        passed = sums[number] > made.height
        ages = trends.update(row)
        assert ((ages > 0) == passed).all()
        if passed.any():
            assert (ages[passed] == number + 1).all()
            break


def test_a_trend_takes_a_wild_window_for_no_more_than_the_wildest() -> None:
    worth, allowance = np.array([100.0]), np.array([0.5])
    wild, bounded = np.full((3, 1), 50.0), np.full((3, 1), WILDEST)
    assert np.array_equal(excursions(wild, worth, allowance), excursions(bounded, worth, allowance))


def test_trends_of_the_references_kind_alarm_less_often_than_stated() -> None:
    """Many paths of bootstrapped windows, at a rate that can be counted."""
    made, rate = limits(reference(), 0.05), 0.05
    random = np.random.default_rng(5)
    rows = made.interval.standard(reference().rows)
    alarms = 0
    for _ in range(20):
        trends = Trends(made)
        for row in rows[random.integers(0, len(rows), HORIZON)]:
            alarms += trends.update(row).any()
    assert alarms / (20 * HORIZON) < rate / 3


def test_a_run_must_be_longer_than_the_references_by_what_chance_allows() -> None:
    """Coin flips: runs are geometric, and the limit is passed about as often as stated, or less."""
    random = np.random.default_rng(0)
    flips = random.integers(0, 2, size=(20_000, 1)).astype(float)
    coins = build(lambda: [of_series(flips)], ["coin"], 100)
    longest = limits(coins, 1e-3).longest[0]
    assert coins.longest[0] < longest < 3 * coins.longest[0]
    chance = 100 * 0.5**longest
    assert chance < 1e-3


def test_a_sensor_that_never_changed_is_never_stuck() -> None:
    block = of_series(np.full((1000, 1), 3.0))
    assert limits(build(lambda: [block], ["set"], 10), 1e-4).longest[0] == np.inf


@pytest.mark.parametrize("seed", range(3))
def test_three_thousand_windows_in_which_nothing_drifts_make_no_alarm(seed: int) -> None:
    """The short form of ``benchmarks/drift.py``: over all sensors and tests together."""
    watching = monitor()
    assert watching.watch([live(None, windows=1000, seed=100 + seed)]) == []
    assert watching.state.windows == 1000


def test_limits_keep_their_rate_where_it_can_be_counted() -> None:
    """At 200 in 10 000, over four sensors: the alarms of 1 500 windows, against the 30 that are allowed."""
    watching = monitor(rate=200.0)
    begun = watching.watch([live(None, windows=1500, seed=9)])
    assert 0 < len(begun) <= 30


def test_every_channel_has_limits() -> None:
    made = limits(reference(), 1e-4)
    assert len(made.interval.above) == len(reference().channels) == 3 * len(NAMES) + 1
    assert np.isfinite(made.interval.above).all()
    assert np.isfinite(made.height).all()
    assert reference().window == WINDOW
