"""FedAvg against its closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.strategies.fedavg import FedAvg

WEIGHTS = {"a": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "b": np.float32([5.0])}


def updates(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {name: rng.normal(size=array.shape).astype(np.float32) for name, array in WEIGHTS.items()}
        for _ in range(count)
    ]


def merged(strategy, weights, several, public=()):
    merge = strategy.begin(weights)
    for number, update in enumerate(several):
        strategy.fold(merge, update, *public[number : number + 1])
    return strategy.finish(merge, weights)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_mean_of_the_updates_is_added(count):
    several = updates(count)
    found = merged(FedAvg(), WEIGHTS, several)
    for name, array in WEIGHTS.items():
        mean = np.mean([update[name].astype(np.float64) for update in several], axis=0)
        np.testing.assert_array_equal(found[name], (array + mean).astype(np.float32))


def test_public_weights_weigh():
    several = updates(3)
    found = merged(FedAvg(), WEIGHTS, several, (1.0, 2.0, 5.0))
    for name, array in WEIGHTS.items():
        mean = np.average([u[name].astype(np.float64) for u in several], axis=0, weights=[1, 2, 5])
        np.testing.assert_allclose(found[name], array + mean, rtol=1e-6)


def test_the_server_step_scales_the_mean():
    several = updates(3)
    half, whole = merged(FedAvg(0.5), WEIGHTS, several), merged(FedAvg(), WEIGHTS, several)
    for name, array in WEIGHTS.items():
        np.testing.assert_allclose(half[name] - array, (whole[name] - array) / 2, rtol=1e-5, atol=1e-6)


def test_equal_plants_change_nothing_but_what_one_would():
    (one,) = updates(1)
    for name, array in merged(FedAvg(), WEIGHTS, [one] * 9).items():
        np.testing.assert_allclose(array, WEIGHTS[name] + one[name], rtol=1e-6)


def test_nothing_given_is_changed():
    before = {name: array.copy() for name, array in WEIGHTS.items()}
    (one,) = updates(1)
    kept = {name: array.copy() for name, array in one.items()}
    found = merged(FedAvg(), WEIGHTS, [one])
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(one[name], kept[name])
        assert not np.shares_memory(found[name], array)


def test_the_merge_holds_one_model_whatever_the_number_of_plants():
    strategy = FedAvg()
    merge = strategy.begin(WEIGHTS)
    buffers = {name: total.__array_interface__["data"] for name, total in merge.totals.items()}
    for update in updates(20):
        strategy.fold(merge, update)
    assert {name: total.__array_interface__["data"] for name, total in merge.totals.items()} == buffers


def test_small_updates_are_not_lost_in_a_large_sum():
    """Folded in float32, a million small steps beside a large one would vanish."""
    weights = {"w": np.zeros(1, np.float32)}
    strategy = FedAvg()
    merge = strategy.begin(weights)
    strategy.fold(merge, {"w": np.float32([1e8])})
    for _ in range(1000):
        strategy.fold(merge, {"w": np.float32([1.0])})
    assert merge.totals["w"][0] == 1e8 + 1000


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
    np.testing.assert_array_equal(found, (array.astype(np.float64) + 1).astype(array.dtype))


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "0.5", None, [1.0], True])
def test_an_impossible_server_step_is_refused(value):
    with pytest.raises(ValueError, match="learning_rate: expected a number above 0"):
        FedAvg(value)
