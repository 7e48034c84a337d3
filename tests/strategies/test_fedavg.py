"""FedAvg and the mean under it, against closed forms and Flower's own."""

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.strategies import arrays, mean
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.mean import tolerance

from .conftest import WEIGHTS, close, column, flowers, one_round, updates


def merged(strategy, weights, several, public=()):
    return one_round(strategy, weights, several, public=public)[0]


def exact(weights, several, factor=1.0):
    """Weights plus the mean, in float64 and rounded once."""
    return {
        name: np.asarray(
            array + factor * np.mean([one[name].astype(np.float64) for one in several], axis=0), array.dtype
        )
        for name, array in weights.items()
    }


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_mean_of_the_updates_is_added(count):
    several = updates(count)
    close(merged(FedAvg(), WEIGHTS, several), exact(WEIGHTS, several))


def test_by_hand():
    (found, state) = one_round(FedAvg(), {"w": np.float32([10.0])}, column([1.0, 2.0, 6.0]))
    assert found["w"] == [13.0]
    assert state == {}


def test_it_is_flowers():
    several = updates(5)
    close(merged(FedAvg(), WEIGHTS, several), flowers(flower.FedAvg(), [several]))


def test_public_weights_weigh():
    several = updates(3)
    found = merged(FedAvg(), WEIGHTS, several, (1.0, 2.0, 5.0))
    for name, array in WEIGHTS.items():
        average = np.average([u[name].astype(np.float64) for u in several], axis=0, weights=[1, 2, 5])
        np.testing.assert_allclose(found[name], array + average, rtol=1e-6)


def test_a_sum_that_came_as_one_counts_as_its_parts():
    """Secure aggregation hands over the mean of many plants as one update with their number as weight."""
    several = updates(4)
    whole = {name: np.mean([one[name] for one in several], axis=0, dtype=np.float32) for name in WEIGHTS}
    one = updates(1, seed=9)
    close(
        merged(FedAvg(), WEIGHTS, [whole, *one], (4.0, 1.0)),
        merged(FedAvg(), WEIGHTS, [*several, *one]),
    )


def test_the_server_step_scales_the_mean():
    several = updates(3)
    close(merged(FedAvg(0.5), WEIGHTS, several), exact(WEIGHTS, several, 0.5))


def test_nothing_given_is_changed_or_kept():
    before = {name: array.copy() for name, array in WEIGHTS.items()}
    (one,) = updates(1)
    kept = {name: array.copy() for name, array in one.items()}
    strategy = FedAvg()
    merge = strategy.begin(WEIGHTS, None)
    strategy.fold(merge, one)
    for name, array in WEIGHTS.items():
        assert not np.shares_memory(merge.totals[name], one[name])
        np.testing.assert_array_equal(one[name], kept[name])
        one[name][...] = np.nan  # the next update may be read into the same memory
        np.testing.assert_array_equal(array, before[name])
    found, _ = strategy.finish(merge, WEIGHTS, {})
    close(found, exact(before, [kept]))
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(array, before[name])
        assert not np.shares_memory(found[name], array)


def test_one_array_under_two_names_is_folded_into_two_sums():
    """Tied weights come as two names; views of one buffer must not be added twice."""
    shared = np.float32([1.0, 2.0])
    weights = {"a": shared, "b": shared}
    found = merged(FedAvg(), weights, [{"a": shared, "b": shared}] * 3)
    for name in weights:
        np.testing.assert_array_equal(found[name], [2.0, 4.0])


def test_the_merge_holds_one_model_whatever_the_number_of_plants():
    strategy = FedAvg()
    merge = strategy.begin(WEIGHTS, None)
    buffers = {name: total.__array_interface__["data"] for name, total in merge.totals.items()}
    for update in updates(20):
        strategy.fold(merge, update)
    assert {name: total.__array_interface__["data"] for name, total in merge.totals.items()} == buffers
    assert {total.dtype for total in merge.totals.values()} == {np.dtype(np.float32)}


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(2, 24), st.just(5)), elements=st.floats(-8, 8, width=32)),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_any_two_orders_agree_within_the_stated_tolerance(values, chance):
    """The bound is on the mean itself, before the weights' own rounding."""
    order = list(range(len(values)))
    chance.shuffle(order)
    sizes = np.abs(values.astype(np.float64)).mean(axis=0)
    means = []
    for rows in (values, values[order]):
        merge = FedAvg().begin({"w": values[0]}, None)
        for row in rows:
            FedAvg().fold(merge, {"w": row})
        means.append(merge.value()["w"].astype(np.float64))
    exactly = values.astype(np.float64).mean(axis=0)
    for element, size in enumerate(sizes):
        bound = tolerance(len(values), size) + np.finfo(np.float32).smallest_subnormal
        assert abs(means[0][element] - means[1][element]) <= bound
        assert abs(means[0][element] - exactly[element]) <= bound


def test_the_tolerance_is_not_a_loose_word():
    """Some order of some updates does differ: a tolerance of nothing would be wrong."""
    values = [1.0, *[2.0**-24] * 40]
    one, other = (merged(FedAvg(), {"w": np.float32([0])}, column(v)) for v in (values, values[::-1]))
    assert one["w"] != other["w"]
    assert abs(float(one["w"][0]) - float(other["w"][0])) <= tolerance(41, sum(values) / 41)
    assert tolerance(41, 1.0) < 1e-5


def test_the_same_order_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    weights = {"w": np.zeros((300, 1000), np.float32), "v": np.zeros(7, np.float32)}
    several, found = updates(5, weights=weights), []
    for workers in (1, 2, 5):
        arrays._pool.cache_clear()
        monkeypatch.setattr(arrays, "_workers", lambda workers=workers: workers)
        monkeypatch.setattr(arrays, "_ALONE", 0)
        monkeypatch.setattr(mean, "_LONG", 1 << 12)
        found.append(merged(FedAvg(), weights, several))
        if workers > 1:
            arrays._pool().shutdown()
    arrays._pool.cache_clear()
    for name in weights:
        np.testing.assert_array_equal(found[0][name], found[1][name])
        np.testing.assert_array_equal(found[0][name], found[2][name])
    close(found[0], exact(weights, several), 1e-6)


def test_other_memory_layouts_are_merged_by_their_values():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights = {"w": np.asfortranarray(values)}
    found = merged(FedAvg(), weights, [{"w": values}, {"w": np.asfortranarray(values)}, {"w": values[::1]}])
    np.testing.assert_array_equal(found["w"], 2 * values)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(-100, 100, width=16),
    ),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_shapes_and_dtypes_stay(array, count):
    update = {"w": np.ones_like(array)}
    (found,) = merged(FedAvg(), {"w": array}, [update] * count).values()
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    expected = np.asarray(array.astype(np.float64) + 1, array.dtype)
    np.testing.assert_allclose(found, expected, rtol=float(np.finfo(array.dtype).eps))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_whole_numbers_stay_whole_and_are_rounded_to_the_nearest(dtype):
    weights = {"seen": np.array([100, 5], dtype)}
    found = merged(FedAvg(), weights, [{"seen": np.array(v, dtype)} for v in ([1, -2], [1, -2], [3, 0])])
    assert found["seen"].dtype == dtype
    np.testing.assert_array_equal(found["seen"], [102, 4])  # means 5/3 and -4/3


def test_large_counters_are_exact():
    weights = {"seen": np.array([2**60 + 1], np.int64)}
    found = merged(FedAvg(), weights, [{"seen": np.array([3], np.int64)}] * 3)
    assert found["seen"][0] == 2**60 + 4


def test_half_precision_is_summed_in_single():
    weights = {"w": np.zeros(1, np.float16)}
    found = merged(FedAvg(), weights, [{"w": np.float16([2048.0])}, *[{"w": np.float16([1.0])}] * 9])
    assert found["w"].dtype == np.float16
    assert found["w"][0] == np.float16(2057 / 10)  # summed in float16, every 1 would be lost


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "0.5", None, [1.0], True])
def test_an_impossible_server_step_is_refused(value):
    with pytest.raises(ValueError, match="learning_rate: expected a number above 0, found"):
        FedAvg(value)
