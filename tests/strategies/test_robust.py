"""Median, trimmed mean, Krum and Multi-Krum: closed forms, Flower's own, and what they guard against."""

import logging
import re

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.strategies.krum import Krum
from interplant.strategies.median import Median
from interplant.strategies.multikrum import MultiKrum, distances, nearest
from interplant.strategies.trimmed_mean import TrimmedMean

from .conftest import WEIGHTS, close, column, flowers, one_round, updates

ZERO = {"w": np.float32([0.0])}
ALL = [Median(), TrimmedMean(), Krum(faulty=1), MultiKrum(faulty=1, keep=2)]
named = {"ids": lambda one: type(one).__name__}

FINITE = st.floats(-(2.0**20), 2.0**20, width=32)
COLUMNS = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=FINITE)


def moved(strategy, values, scratch):
    """By how much one weight at 0 moves."""
    return float(one_round(strategy, ZERO, column(values), scratch=scratch)[0]["w"][0])


# --- by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "values", "expected"),
    [
        (Median(), [3.0, 1.0, 2.0], 2.0),
        (Median(), [4.0, 1.0, 3.0, 2.0], 2.5),
        (Median(), [7.0], 7.0),
        (Median(0.5), [3.0, 1.0, 2.0], 1.0),
        (TrimmedMean(0.2), [100.0, 1.0, 2.0, 3.0, -50.0], 2.0),
        (TrimmedMean(0.4), [100.0, 1.0, 2.0, 90.0, -50.0], 2.0),
        (TrimmedMean(0.2), [1.0, 2.0, 6.0], 3.0),  # 0.2 of three is nobody
        (TrimmedMean(0.0), [1.0, 2.0, 9.0], 4.0),
        (TrimmedMean(0.25, 0.5), [1.0, 2.0, 4.0, 9.0], 1.5),
        (Krum(faulty=1), [1.0, 1.1, 1.25, 9.0, 1.5], 1.1),
        (Krum(faulty=1), [5.0], 5.0),
        (Krum(1, 0.5), [1.0, 1.1, 1.25, 9.0, 1.5], 0.55),
        (MultiKrum(faulty=1, keep=2), [1.0, 1.1, 1.25, 9.0, 1.5], 1.05),
        (MultiKrum(faulty=1, keep=9), [1.0, 3.0], 2.0),
    ],
)
def test_by_hand(tmp_path, strategy, values, expected):
    assert moved(strategy, values, tmp_path) == pytest.approx(expected, rel=1e-6)


def test_krums_scores_by_hand():
    values = np.array([1.0, 1.1, 1.25, 9.0, 1.5])
    squares = (values[:, None] - values) ** 2
    # Each with its 5 - 1 - 2 = 2 nearest: .0725 .0325 .085 (and far more for the last two)
    assert nearest(squares, 1, 1) == [1]
    assert nearest(squares, 1, 2) == [0, 1]
    assert nearest(squares, 1, 4) == [0, 1, 2, 4]
    assert nearest(np.zeros((3, 3)), 0, 2) == [0, 1]  # of equals the first


@given(COLUMNS)
@settings(max_examples=60, deadline=None)
def test_medians_and_trimmed_means_are_numpys(tmp_path_factory, rows):
    scratch, weights = tmp_path_factory.getbasetemp(), {"w": np.zeros(rows.shape[1], np.float32)}
    several = [{"w": row} for row in rows]
    found, _ = one_round(Median(), weights, several, scratch=scratch)
    tiny = float(np.finfo(np.float32).tiny)  # below, float32 has fewer digits, and none in the end
    np.testing.assert_allclose(found["w"], np.median(rows.astype(np.float64), axis=0), rtol=1e-6, atol=tiny)
    cut = int(0.3 * len(rows))
    kept = np.sort(rows.astype(np.float64), axis=0)[cut : len(rows) - cut]
    found, _ = one_round(TrimmedMean(0.3), weights, several, scratch=scratch)
    atol = tiny + 1e-6 * np.abs(kept).max()
    np.testing.assert_allclose(found["w"], kept.mean(axis=0), rtol=1e-5, atol=atol)


# --- Flower's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 7, 10, 16])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Median(), flower.FedMedian()),
        (TrimmedMean(0.2), flower.FedTrimmedAvg(beta=0.2)),
        (TrimmedMean(0.35), flower.FedTrimmedAvg(beta=0.35)),
        (Krum(faulty=2), flower.Krum(num_malicious_nodes=2)),
        (MultiKrum(faulty=2, keep=3), flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=3)),
    ],
    **named,
)
def test_it_is_flowers(tmp_path, ours, theirs, count):
    several = updates(count, seed=count, size=1.0)
    found, _ = one_round(ours, WEIGHTS, several, scratch=tmp_path)
    close(found, flowers(theirs, [several]), 1e-5)


# --- what they guard against ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1e4, -1e4, 0.3])
@pytest.mark.parametrize("strategy", [Median(), TrimmedMean(0.3), Krum(2), MultiKrum(2, keep=3)], **named)
def test_two_of_seven_cannot_move_a_coordinate_out_of_the_others_range(tmp_path, strategy, wrong):
    honest = updates(5, size=0.1)
    bad = [{name: np.full_like(array, wrong) for name, array in WEIGHTS.items()}] * 2
    found, _ = one_round(strategy, WEIGHTS, [bad[0], *honest, bad[1]], scratch=tmp_path)
    for name, array in WEIGHTS.items():
        values = np.stack([one[name] for one in honest])
        step = found[name] - array
        assert (step >= values.min(axis=0) - 1e-5).all()
        assert (step <= values.max(axis=0) + 1e-5).all()


def test_a_far_update_does_not_blur_which_of_the_others_are_near(tmp_path):
    """From products, distances would drown in the size of the updates, or of a mean that one has moved."""
    far, near = 1e6, [100.0, 100.001, 100.002, 100.0035, 101.0]
    weights = {"w": np.zeros(1000, np.float32)}
    several = [{"w": np.full(1000, value, np.float32)} for value in [far, *near]]
    found, _ = one_round(Krum(faulty=1), weights, several, scratch=tmp_path)
    assert found["w"][0] == np.float32(100.002)


@pytest.mark.parametrize("apart", [1.0, 1e-3, 0.0])
def test_distances_are_exact_however_much_alike_updates_are(tmp_path, apart):
    rng = np.random.default_rng(3)
    base, rows = 100.0 * rng.normal(size=5000), rng.normal(size=(6, 5000))
    several = [{"w": np.float32(base + apart * row)} for row in rows]
    several.append({"w": np.float32(-1e4 * base)})
    merge = Krum().begin({"w": np.zeros(5000, np.float32)}, tmp_path)
    for one in several:
        merge.add(one)
    values = np.stack([one["w"].astype(np.float64) for one in several])
    expected = np.square(values[:, None] - values).sum(axis=2)
    np.testing.assert_allclose(distances(merge), expected, rtol=1e-5)


def test_a_public_weight_gives_nobody_a_louder_voice(tmp_path):
    strategy = Median()
    merge = strategy.begin(ZERO, tmp_path)
    for update, weight in zip(column([1.0, 2.0, 9.0]), (1.0, 1.0, 100.0), strict=True):
        strategy.fold(merge, update, weight)
    assert strategy.finish(merge, ZERO, {})[0]["w"] == [2.0]


def test_too_few_updates_for_krums_promise_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        moved(Krum(faulty=1), [1.0] * 5, tmp_path)
        assert caplog.messages == []
        moved(Krum(faulty=1), [1.0] * 4, tmp_path)
    assert caplog.messages == [
        "krum: 4 updates, of which 1 may be wrong: expected at least 5; raise rounds.quorum"
    ]


# --- dtypes and what is given --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ALL, **named)
def test_shapes_and_dtypes_stay(tmp_path, strategy):
    weights = {
        "half": np.ones((2, 3), np.float16, order="F"),
        "seen": np.array([7, 0], np.int64),
        "double": np.array(1.0),
        "none": np.zeros((0, 3), np.float32),
    }
    update = {name: np.full(array.shape, 3, array.dtype, order="F") for name, array in weights.items()}
    found, state = one_round(strategy, weights, [update] * 5, scratch=tmp_path)
    for name, array in weights.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(found[name], array + 3)
    assert state == {}


def test_a_median_between_whole_numbers_is_the_nearest_whole_number(tmp_path):
    weights = {"seen": np.array([10], np.int32)}
    several = [{"seen": np.array([v], np.int32)} for v in (1, 2, 5, 9)]
    found, _ = one_round(Median(), weights, several, scratch=tmp_path)
    assert found["seen"][0] in (13, 14)


@pytest.mark.parametrize("strategy", ALL, **named)
def test_the_layout_in_memory_does_not_matter(tmp_path, strategy):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    several = [{"w": np.asfortranarray(values * k)} for k in (1, 2, 3, 4, 5)]
    plain = [{"w": np.ascontiguousarray(one["w"])} for one in several]
    weights = {"w": np.zeros((3, 4), np.float32)}
    found, _ = one_round(strategy, weights, several, scratch=tmp_path)
    expected, _ = one_round(strategy, weights, plain, scratch=tmp_path)
    np.testing.assert_array_equal(found["w"], expected["w"])


@pytest.mark.parametrize("strategy", ALL, **named)
def test_an_update_is_neither_changed_nor_kept(tmp_path, strategy):
    several = updates(5)
    expected, _ = one_round(strategy, WEIGHTS, several, scratch=tmp_path)
    merge = strategy.begin(WEIGHTS, tmp_path)
    for one in several:
        given = {name: array.copy() for name, array in one.items()}
        strategy.fold(merge, given)
        for name, array in given.items():
            np.testing.assert_array_equal(array, one[name])
            array[...] = np.nan
    found, _ = strategy.finish(merge, WEIGHTS, {})
    close(found, expected, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrimmedMean(0.5), "beta: expected a number from 0 and below 0.5, found 0.5"),
        (lambda: TrimmedMean(-0.1), "beta: expected a number from 0 and below 0.5, found -0.1"),
        (lambda: Median(0), "learning_rate: expected a number above 0, found 0"),
        (lambda: Krum(faulty=-1), "faulty: expected a whole number from 0, found -1"),
        (lambda: MultiKrum(faulty=1.0), "faulty: expected a whole number from 0, found 1.0"),
        (lambda: MultiKrum(keep=0), "keep: expected a whole number from 1, found 0"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make()
