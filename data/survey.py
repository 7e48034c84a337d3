"""Reference statistics of a snapshot, computed by streaming over its readings.

Two passes, each in bounded memory however many readings there are: the first draws a uniform sample and
measures runs of equal values, the second cuts windows. What comes out stays in the plant, as
`interplant.data.reference` says.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import UsageError
from interplant.data.blocks import Block, cut, joined
from interplant.data.contract import Floats
from interplant.data.reference import Reference, expected_of, hidden_of, levels_of
from interplant.data.runs import Runs
from interplant.data.scores import quantiles

SAMPLE: Final = 30_000
"""Readings that quantiles and correlations are taken from; a uniform sample where there are more."""

FEWEST_WINDOWS: Final = 10
"""Windows that a reference needs; with fewer, nothing is known of how they vary."""

FEWEST_READINGS: Final = 100
"""Readings of an operating condition that has quantiles of its own; else it has those of all readings."""

MOST_WINDOWS: Final = 1024
"""Windows that are remembered of the reference, in stretches of `STRETCH` without a gap."""

FOLDS: Final = 5
"""Parts of the readings that are left out in turn; see `_with_windows`."""

_PARTS: Final = 4
"""Places over the record that a fold has."""

SHRINK: Final = 0.01
"""Weight of independence in the correlation matrix, which may be singular without it."""

STRETCH: Final = 32
"""Windows of a stretch without a gap."""


def build(blocks: Callable[[], Iterable[Block]], columns: Sequence[str], window: int) -> Reference:
    """Compute the statistics of readings in two passes over them, each in bounded memory.

    Args:
        blocks: Starts a pass over the readings, in the order in which live ones will come.
        columns: Names of the values.
        window: Readings of a window.

    Raises:
        UsageError: There are too few readings, or a column has no value at all.
    """
    survey = _Survey(len(columns))
    for block in blocks():
        survey.add(block)
    if survey.readings < FEWEST_WINDOWS * window:
        raise UsageError(
            f"expected at least {FEWEST_WINDOWS} windows of {window} readings in the snapshot, found "
            f"{survey.readings} readings; bring more, or make data.drift.window smaller"
        )
    sample, place = survey.sample()
    for name, column in zip(columns, sample.values.T, strict=True):
        if not np.isfinite(column).any():
            raise UsageError(f"column {name!r}: expected values in the snapshot, found none that is finite")
    part = -(-survey.readings // (FOLDS * _PARTS))
    fold = place // part % FOLDS
    others = [_fitted(columns, window, survey, sample[fold != one]) for one in range(FOLDS)]
    return _with_windows(_fitted(columns, window, survey, sample), others, part, blocks())


def _fitted(columns: Sequence[str], window: int, survey: "_Survey", sample: Block) -> Reference:
    """Everything that follows from a sample; without windows."""
    tables = _tables(sample)
    levels = levels_of(sample, tables)
    precision = _precision(levels)
    values = np.where(np.isfinite(sample.values), sample.values, np.nan)
    return Reference(
        columns=tuple(columns),
        window=window,
        readings=survey.readings,
        quantiles=tables,
        precision=precision,
        hidden=quantiles(hidden_of(levels, precision)),
        error=_deviation(values - expected_of(levels, sample, tables, precision)),
        rows=np.empty((0, 3 * len(columns) + 1)),
        longest=survey.longest,
        absent=np.zeros(len(columns), np.int64),
    )


class _Survey:
    """The first pass: a uniform sample, and the longest runs."""

    def __init__(self, width: int) -> None:
        self.readings = 0
        self.longest = np.zeros(width, np.int64)
        self._runs = Runs()
        self._random = np.random.default_rng(0)
        self._keys, self._places = np.empty(0), np.empty(0, np.int64)
        self._parts: list[Block] = []

    def sample(self) -> tuple[Block, NDArray[np.int64]]:
        """Return the readings, and the place of each among all."""
        return joined(self._parts), self._places

    def add(self, block: Block) -> None:
        if not len(block):
            return
        # The readings with the smallest of random keys are a uniform sample, however many come.
        self._keys = np.r_[self._keys, self._random.random(len(block))]
        self._places = np.r_[self._places, self.readings + np.arange(len(block))]
        self._parts = [joined([*self._parts, block])]
        if len(self._keys) > SAMPLE:
            kept = np.sort(np.argpartition(self._keys, SAMPLE)[:SAMPLE])
            self._keys, self._places = self._keys[kept], self._places[kept]
            self._parts = [self._parts[0][kept]]
        self.readings += len(block)
        self.longest = np.maximum(self.longest, self._runs.count(block).max(axis=0))


def _with_windows(
    plain: Reference, others: Sequence[Reference], part: int, blocks: Iterable[Block]
) -> Reference:
    """The second pass: the channels of windows, all of them or evenly spread stretches.

    Each is held against statistics that it is not in, as a live one will be.

    Args:
        plain: What the windows are for.
        others: For each fold, the statistics without it.
        part: Readings in a row of one fold.
        blocks: The readings.
    """
    every = -(-(plain.readings // plain.window) // MOST_WINDOWS)
    rows, absent, number = [], plain.absent, 0
    for block in cut(blocks, plain.window):
        for begin in range(0, len(block), plain.window):
            one = block[begin : begin + plain.window]
            absent = np.maximum(absent, (~np.isfinite(one.values)).sum(axis=0))
            if number // STRETCH % every == 0:
                rows.append(others[number * plain.window // part % FOLDS].windows(one)[0])
            number += 1
    return replace(plain, rows=np.array(rows), absent=absent)


def _tables(sample: Block) -> Floats:
    """Quantiles by operating condition; a condition that hardly occurs has those of all readings."""
    pooled = quantiles(sample.values)
    tables = []
    for condition in range(int(sample.condition.max()) + 1):
        own = sample.values[sample.condition == condition]
        rare = (np.isfinite(own).sum(axis=0) < FEWEST_READINGS)[:, None]
        tables.append(np.where(rare, pooled, quantiles(own)))
    # The last is for a condition that the reference never saw.
    return np.stack([*tables, pooled])


def _precision(levels: Floats) -> Floats:
    size: Floats = np.sqrt((levels**2).mean(axis=0))
    scaled: Floats = levels / np.where(size > 0, size, 1.0)
    matrix: Floats = (1 - SHRINK) * (scaled.T @ scaled) / len(levels)
    # A column that never changes goes with no other.
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _deviation(errors: Floats) -> Floats:
    """Standard deviation of each column's finite values (columns,); 0 for a column without one."""
    count = np.maximum(np.isfinite(errors).sum(axis=0), 1)
    mean = np.nansum(errors, axis=0) / count
    found: Floats = np.sqrt(np.nansum((errors - mean) ** 2, axis=0) / count)
    return found
