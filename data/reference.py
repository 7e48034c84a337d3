"""Reference statistics: what a snapshot's readings look like, in a few hundred numbers for each sensor.

They are numbers about data. They are kept in the plant's own directory and never leave it: nothing here is
sent, logged or part of an update, so no privacy budget pays for it.

`interplant.data.survey` computes them. From a uniform sample of the readings come, for each operating
condition, each sensor's quantiles, and from their normal scores one correlation matrix of all sensors
together. Its inverse tells what each sensor's value is expected to be, given the others' (S. Lauritzen,
"Graphical Models", 1996, proposition 5.2). Each reading then has a few *channels*, all of them normal scores:

- ``level`` of each sensor: the value among the reference's in the same condition;
- ``residual`` of each sensor: its distance from what the other sensors say it should be;
- ``spread`` of each sensor: the size of that distance;
- ``joint``: how unusual the reading is as a whole (its Mahalanobis distance).

Means of the channels over the reference's own windows, in order, say how they vary from window to window
under the data's own autocorrelation; `interplant.data.detectors` makes limits of them.
"""

import json
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.data.blocks import Block
from interplant.data.contract import Floats
from interplant.data.runs import Counts
from interplant.data.scores import scores, values_of

KINDS: Final = ("level", "residual", "spread")
"""Channels of each sensor, in order; after them comes ``joint``."""

_FORMAT: Final = 1


@dataclass(frozen=True)
class Reference:
    """Statistics of a snapshot; numbers about data, which stay in the plant.

    Args:
        columns: Names of the settings and sensors.
        window: Readings of a window.
        readings: How many there were.
        quantiles: Of each column, for each operating condition (conditions, columns, LEVELS).
        precision: Inverse correlation matrix of the normal scores (columns, columns).
        hidden: Quantiles of residuals, spreads and the joint distance (2 * columns + 1, LEVELS).
        error: Standard deviation of a value from what the others let expect, in its unit (columns,).
        rows: Channels of windows in order, means times the root of ``window`` (windows, channels).
        longest: Most readings in a row without a change (columns,).
        absent: Most readings of a window in which a value was missing (columns,).
    """

    columns: tuple[str, ...]
    window: int
    readings: int
    quantiles: Floats
    precision: Floats
    hidden: Floats
    error: Floats
    rows: Floats
    longest: Counts
    absent: Counts

    @property
    def channels(self) -> list[tuple[str, str]]:
        """Column and kind of each channel, in order; the joint one has no column."""
        return [(name, kind) for kind in KINDS for name in self.columns] + [("", "joint")]

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which columns never change in the reference (columns,)."""
        found: NDArray[np.bool_] = (self.quantiles[..., 0] == self.quantiles[..., -1]).all(axis=0)
        return found

    def levels(self, block: Block) -> Floats:
        """Return the normal score of each value in its operating condition (N, columns)."""
        return levels_of(block, self.quantiles)

    def scores(self, block: Block) -> Floats:
        """Return the channels of each reading (N, channels)."""
        levels = self.levels(block)
        return np.hstack([levels, scores(hidden_of(levels, self.precision), self.hidden)])

    def windows(self, block: Block) -> Floats:
        """Return the channels of each window of a whole number of windows (windows, channels)."""
        windows = self.scores(block).reshape(-1, self.window, len(self.channels))
        means: Floats = windows.mean(axis=1) * np.sqrt(self.window)
        return means

    def expected(self, block: Block) -> Floats:
        """Return what each value should be, given the reading's others, in its unit (N, columns)."""
        return expected_of(self.levels(block), block, self.quantiles, self.precision)

    def save(self, path: Path) -> None:
        """Write the statistics, readable by this user alone."""
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        arrays["columns"] = json.dumps(self.columns)
        buffer = BytesIO()
        np.savez(buffer, format=_FORMAT, **arrays)
        write_atomic(path, buffer.getvalue(), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: It was not written yet.
            InterplantError: It is damaged, or of another version.
        """
        try:
            with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as held:
                arrays = {one.name: held[one.name] for one in fields(cls)}
                if held["format"] != _FORMAT:
                    raise ValueError(f"format {held['format']}")
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise InterplantError(
                f"{path}: cannot be read: {error}; remove it, and it is computed again from the snapshot"
            ) from None
        names = tuple(json.loads(str(arrays.pop("columns"))))
        window, readings = int(arrays.pop("window")), int(arrays.pop("readings"))
        return cls(columns=names, window=window, readings=readings, **arrays)


def levels_of(block: Block, tables: Floats) -> Floats:
    """Return the normal score of each value in its operating condition (N, columns).

    Args:
        block: Readings.
        tables: `Reference.quantiles`.
    """
    found = np.zeros(block.values.shape)
    known = np.minimum(block.condition, len(tables) - 1)
    for condition in np.unique(known):
        own = known == condition
        found[own] = scores(block.values[own], tables[condition])
    return found


def _residuals(levels: Floats, precision: Floats) -> Floats:
    """What each score differs from the one that the others let expect, in units of its own error."""
    return levels @ precision / np.sqrt(np.diag(precision))


def hidden_of(levels: Floats, precision: Floats) -> Floats:
    """Return residuals, spreads and the joint distance of levels, before they are scored (N, 2d + 1).

    Args:
        levels: What `levels_of` returned (N, d).
        precision: `Reference.precision`.
    """
    residuals = _residuals(levels, precision)
    joint = ((levels @ precision) * levels).sum(axis=1, keepdims=True)
    return np.hstack([residuals, np.abs(residuals), joint])


def expected_of(levels: Floats, block: Block, tables: Floats, precision: Floats) -> Floats:
    """Return what each value should be, given the reading's others, in its unit (N, columns).

    Args:
        levels: What `levels_of` returned.
        block: Readings.
        tables: `Reference.quantiles`.
        precision: `Reference.precision`.
    """
    others = levels - _residuals(levels, precision) / np.sqrt(np.diag(precision))
    found = np.zeros(levels.shape)
    known = np.minimum(block.condition, len(tables) - 1)
    for condition in np.unique(known):
        own = known == condition
        found[own] = values_of(others[own], tables[condition])
    return found
