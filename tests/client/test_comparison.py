"""Who is no worse: the bound's level is kept with few units, and nothing is told where nothing can be."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from interplant.client import comparison
from interplant.client.comparison import BETTER, BLOCKS, LEAST, compare, units_of
from interplant.core import measures
from interplant.core.measures import Predicted
from interplant.core.targets import Target

TIME = Target(100.0)
CLASS = Target(kind="class", classes=["a", "b", "c"])


def machines(count: int, each: int = 5) -> NDArray[np.int64]:
    return np.repeat(np.arange(count), each)


def errs(off: NDArray[np.float64], each: int = 5) -> tuple[Target, Predicted]:
    """A model whose predictions are off by these cycles, one number a machine."""
    y = np.full(len(off) * each, 50.0, np.float32)
    return TIME, Predicted(((y + np.repeat(off, each)) / 100.0).astype(np.float32), y)


# --- what is resampled -----------------------------------------------------------------------------


def test_machines_are_the_units_where_there_are_enough() -> None:
    found = units_of(machines(LEAST), 30)
    assert (found.kind, found.count) == ("machines", LEAST)
    assert np.array_equal(found.of, machines(LEAST))


def test_fewer_machines_are_cut_into_blocks_that_share_no_more_than_a_border() -> None:
    found = units_of(machines(3, 100), 30)
    assert (found.kind, found.count) == ("blocks", 9)
    for block in range(found.count):
        own = np.flatnonzero(found.of == block)
        assert len(own) >= 30
        assert (np.diff(own) == 1).all()
        assert len(np.unique(machines(3, 100)[own])) == 1


def test_blocks_are_as_long_as_the_record_allows() -> None:
    assert units_of(machines(1, 4000), 10).count == BLOCKS
    assert units_of(machines(1, 5), 1).count == 5
    assert units_of(machines(1, 5), 30).count == 1


# --- the error, and its bound -----------------------------------------------------------------------


@pytest.mark.parametrize("target", [TIME, Target(kind="event"), CLASS], ids=lambda one: one.kind)
def test_sums_of_units_give_the_error_of_all(target: Target) -> None:
    chance = np.random.default_rng(0)
    outputs = chance.normal(size=(60, 3) if target is CLASS else 60)
    y = chance.integers(0, 3 if target is CLASS else 2, 60).astype(np.float32)
    found = Predicted(outputs, y)
    of = np.sort(chance.integers(0, 7, 60))
    sums = measures.unit_sums(target, found, of, 7)
    assert measures.error_of(target, sums.sum(axis=0)) == pytest.approx(measures.error(target, found))
    one = Predicted(outputs[of == 3], y[of == 3])
    assert measures.error_of(target, sums)[3] == pytest.approx(measures.error(target, one))


def test_the_errors_and_the_limit_are_those_of_the_models() -> None:
    units = units_of(machines(20), 1)
    found = compare(errs(np.full(20, 9.0)), errs(np.full(20, 10.0)), units, 0.05, 0.03)
    assert (found.error, found.rival, found.limit) == pytest.approx((9.0, 10.0, 10.5), abs=1e-4)
    assert found.passed
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1), abs=1e-3)


@pytest.mark.parametrize(
    ("ratio", "margin", "passed"),
    [(1.04, 0.05, True), (1.06, 0.05, False), (1.0, 0.0, True), (1.01, 0.0, False), (1.0, BETTER, False)],
)
def test_without_chance_the_margin_alone_decides(ratio: float, margin: float, passed: bool) -> None:
    units = units_of(machines(20), 1)
    found = compare(errs(np.full(20, 10.0 * ratio)), errs(np.full(20, 10.0)), units, margin, 0.03)
    assert found.passed == passed


def test_what_is_better_on_average_but_not_for_sure_does_not_pass() -> None:
    """Better by 10 %, for one machine: the others are worse."""
    off = np.full(12, 10.0)
    better = np.where(np.arange(12) == 0, 0.0, off * 1.01)
    found = compare(errs(better), errs(off), units_of(machines(12), 1), 0.0, 0.03)
    assert found.error < found.rival
    assert not found.passed
    assert found.high > 0.0


@pytest.mark.parametrize("count", [24, 100])
@pytest.mark.parametrize("skewed", [False, True])
def test_a_challenger_at_the_margin_passes_no_more_often_than_the_level_says(
    count: int, skewed: bool
) -> None:
    """300 hold-outs; a bound of 0.05 fails 15 times of them, and 26 times once in 200 such tests."""
    chance = np.random.default_rng(count + skewed)
    units, passed = units_of(machines(count, 1), 1), 0
    for _ in range(300):
        rival = chance.gamma(4.0, 2.5, count) if skewed else np.abs(chance.normal(10.0, 4.0, count))
        noise = chance.gamma(12.0, 1 / 12, count) if skewed else np.abs(chance.normal(1.0, 0.3, count))
        # The mean square of the challenger's error is 1.05^2 times the rival's, in expectation.
        spread = 13 / 12 if skewed else 1.09
        challenger = rival * noise * 1.05 / np.sqrt(spread)
        passed += compare(errs(challenger, 1), errs(rival, 1), units, 0.05, 0.05).passed
    assert passed <= 26


def test_a_real_difference_is_seen() -> None:
    chance = np.random.default_rng(5)
    rival = np.abs(chance.normal(10.0, 4.0, 100))
    found = compare(
        errs(rival * chance.normal(0.9, 0.1, 100)), errs(rival), units_of(machines(100), 1), 0.05, 0.03
    )
    assert found.passed
    assert found.low < -0.1 < found.high < 0.0


def test_a_smaller_level_asks_for_more() -> None:
    chance = np.random.default_rng(6)
    rival = np.abs(chance.normal(10.0, 4.0, 40))
    both = errs(rival * chance.normal(1.0, 0.1, 40)), errs(rival)
    highs = [compare(*both, units_of(machines(40), 1), 0.05, level).high for level in (0.03, 1e-3, 1e-6)]
    assert highs == sorted(highs)
    assert highs[0] < highs[2]


def test_classes_are_compared_by_their_f1() -> None:
    chance, machine = np.random.default_rng(7), machines(60)
    y = chance.integers(0, 3, len(machine)).astype(np.float32)

    def model(noise: float) -> tuple[Target, Predicted]:
        return CLASS, Predicted(np.eye(3)[y.astype(int)] + chance.normal(0, noise, (len(y), 3)), y)

    good, bad = model(0.4), model(0.8)
    units = units_of(machine, 1)
    assert compare(good, bad, units, 0.05, 0.03).passed
    assert not compare(bad, good, units, 0.05, 0.03).passed
    found = compare(good, bad, units, 0.05, 0.03)
    assert found.low < found.error / found.rival - 1.0 < found.high


def test_many_units_are_put_together_and_mean_the_same() -> None:
    chance = np.random.default_rng(8)
    rival = np.abs(chance.normal(10.0, 4.0, 3000))
    both = errs(rival * chance.normal(0.99, 0.2, 3000), 1), errs(rival, 1)
    found = compare(*both, units_of(machines(3000, 1), 1), 0.05, 0.03)
    ratio = found.error / found.rival - 1.0
    assert found.passed
    assert found.low < ratio < found.high
    # The spread of all 3000: a bound of its normal approximation lies within a quarter of it.
    values = (both[0][1].outputs - 0.5) ** 2 - (found.error / found.rival) ** 2 * (
        both[1][1].outputs - 0.5
    ) ** 2
    deviation = values.std() / np.sqrt(3000) / (2 * ((both[1][1].outputs - 0.5) ** 2).mean())
    assert found.high - ratio == pytest.approx(1.88 * deviation, rel=0.25)


def test_a_champion_of_another_range_is_compared_in_the_labels_unit() -> None:
    other = replace(TIME, cap=50.0)
    y = np.full(60, 40.0, np.float32)
    challenger = TIME, Predicted(np.full(60, 0.41, np.float32), y)
    rival = other, Predicted(np.full(60, 0.84, np.float32), y)
    found = compare(challenger, rival, units_of(machines(12), 1), 0.05, 0.03)
    assert (found.error, found.rival) == pytest.approx((1.0, 2.0), abs=1e-4)


def test_nothing_can_be_told_against_a_rival_that_never_errs() -> None:
    found = compare(errs(np.full(12, 1.0)), errs(np.zeros(12)), units_of(machines(12), 1), 0.05, 0.03)
    assert not found.passed
    assert found.high == comparison.WIDEST
