"""Engineered features: their definitions, their order, and that none leaves the bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays

from interplant.core.schema import Window
from interplant.data.features import features

ALL = ["mean", "std", "slope", "min", "max", "band1", "band2", "band3"]


def one(signal: np.ndarray, *names: str) -> list[float]:
    window = Window(len(signal), 1, list(names))
    return features(np.float32(signal)[None, None], window, 3.0)[0, :, 0].tolist()


def test_a_ramp_from_one_end_of_its_range_to_the_other() -> None:
    names = ("mean", "std", "slope", "min", "max")
    ramp = np.linspace(-1.0, 1.0, 21)
    assert one(ramp, *names) == pytest.approx([0.0, ramp.std(), 1.0, -1.0, 1.0], abs=1e-6)
    assert one(ramp[::-1], "slope") == pytest.approx([-1.0])
    assert one(np.array([0.7]), *names) == pytest.approx([0.7, 0.0, 0.0, 0.7, 0.7])


@pytest.mark.parametrize(("cycles", "band"), [(1, 0), (10, 0), (11, 1), (21, 2)])
def test_a_swing_shows_in_the_band_of_its_frequency(cycles: int, band: int) -> None:
    swing = 2.0 * np.sin(2 * np.pi * cycles * np.arange(60) / 60) + 0.5
    expected = [0.0, 0.0, 0.0]
    expected[band] = np.sqrt(2.0)
    assert one(swing, "band1", "band2", "band3") == pytest.approx(expected, abs=1e-6)


def test_features_stand_input_by_input_in_the_tasks_order() -> None:
    x = np.stack([np.zeros((2, 4)), np.ones((2, 4))], axis=1).astype(np.float32)
    found = features(x, Window(4, 1, ["max", "std"]), 3.0)
    assert found.shape == (2, 4, 1)
    assert found.dtype == np.float32
    assert found[0, :, 0].tolist() == [0.0, 0.0, 1.0, 0.0]


@settings(deadline=None)
@given(
    some.integers(6, 40).flatmap(
        lambda length: arrays.arrays(np.float32, (2, 3, length), elements=some.floats(-3, 3, width=32))
    )
)
def test_no_feature_leaves_the_bound_and_bands_add_up_to_the_variance(x: np.ndarray) -> None:
    found = features(x, Window(x.shape[2], 1, ALL), 3.0).reshape(2, 3, len(ALL))
    assert np.abs(found).max() <= 3.0
    squares = (found[..., 5:].astype(np.float64) ** 2).sum(axis=2)
    np.testing.assert_allclose(squares, x.astype(np.float64).var(axis=2), rtol=1e-4, atol=1e-5)
