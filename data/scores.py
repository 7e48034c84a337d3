"""Normal scores: where a value stands among the reference's values, as a standard normal number.

The score of a value is the normal quantile of its mid-rank (B. L. van der Waerden, "Order tests for the
two-sample problem and their power", Indagationes Mathematicae 14, 1952). Scores are bounded and nearly
normal whatever the sensor's own distribution, so that means of a few dozen of them have the tails that a
threshold at one in a million relies on; the raw values' means have not.
"""

from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from interplant.data.contract import Floats

LEVELS: Final = 512
"""Quantiles that are kept of each quantity; a score lies within about 3.1 of zero."""

_PROBABILITIES: Final[Floats] = (np.arange(LEVELS) + 0.5) / LEVELS
_SCORES: Final[Floats] = ndtri(
    np.clip(np.arange(2 * LEVELS + 1) / (2 * LEVELS), 0.5 / LEVELS, 1 - 0.5 / LEVELS)
)
"""By twice the mid-rank among the quantiles."""


def quantiles(values: Floats) -> Floats:
    """Return `LEVELS` quantiles of each column, all of them values that occur.

    Args:
        values: (N, columns); what is not finite is left out.

    Returns:
        Increasing along the last axis (columns, LEVELS); zeros for a column without a finite value.
    """
    table = np.zeros((values.shape[1], LEVELS))
    for column, row in zip(values.T, table, strict=True):
        finite = np.sort(column[np.isfinite(column)])
        if len(finite):
            row[:] = finite[(_PROBABILITIES * len(finite)).astype(np.intp)]
    return table


def scores(values: Floats, table: Floats) -> Floats:
    """Return the normal score of each value in its column (N, columns); 0 for what is not finite.

    Args:
        values: (N, columns), in the unit of the table.
        table: What `quantiles` returned.
    """
    found = np.zeros(values.shape)
    for place, row in enumerate(table):
        column = values[:, place]
        twice = np.searchsorted(row, column, "left") + np.searchsorted(row, column, "right")
        found[:, place] = np.where(np.isfinite(column), _SCORES[twice], 0.0)
    return found


def values_of(scores: Floats, table: Floats) -> Floats:
    """Return the values that have these scores: the inverse of `scores`, between the quantiles linear."""
    return np.column_stack(
        [np.interp(ndtr(column), _PROBABILITIES, row) for column, row in zip(scores.T, table, strict=True)]
    )
