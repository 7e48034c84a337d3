"""Sorting networks sort."""

import itertools

import numpy as np
import pytest

from interplant.strategies.network import middle_rows, steps


@pytest.mark.parametrize("count", range(1, 14))
def test_every_sequence_of_zeros_and_ones_is_sorted(count):
    """The zero-one principle (Knuth, volume 3): then it sorts everything."""
    rows = np.array(list(itertools.product([0.0, 1.0], repeat=count)), np.float32).T
    np.testing.assert_array_equal(middle_rows(rows.copy(), 0, count), np.sort(rows, axis=0))


@pytest.mark.parametrize("count", [2, 3, 5, 16, 17, 31, 100])
def test_any_rows_of_the_sorted_ones(count):
    rows = np.random.default_rng(count).normal(size=(count, 40)).astype(np.float32)
    expected = np.sort(rows, axis=0)
    for first, last in ((0, 1), (count - 1, count), ((count - 1) // 2, count // 2 + 1), (1, count)):
        np.testing.assert_array_equal(middle_rows(rows.copy(), first, last), expected[first:last])


def test_what_no_wanted_row_depends_on_is_left_out():
    whole = steps(16, 0, 16)
    assert len(whole) == 63  # Batcher's count for 16
    assert all(low and high for *_, low, high in whole)
    middle = steps(16, 7, 9)
    assert sum(low + high for *_, low, high in middle) < 0.75 * 2 * 63
