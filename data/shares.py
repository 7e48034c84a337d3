"""What each privacy unit adds to a sum about readings: its own mean, so that a longer one counts no more.

Every number here follows from one unit's readings alone. The sums are noised and charged elsewhere.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.schema import Split, Task
from interplant.data.contract import TOLERANCE, bad_readings, condition_of, usable
from interplant.data.labels import encoded
from interplant.data.pieces import parted
from interplant.data.snapshots import Snapshot, reader_of
from interplant.data.windows import arranged

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 256
"""Units whose shares are in memory at a time."""

_READINGS = 1 << 20


def unit_rows(frame: "pd.DataFrame", task: Task) -> Iterator[NDArray[np.intp]]:
    """Yield of each privacy unit the rows of a `usable` table that are its readings."""
    places = arranged(frame, task)
    if task.privacy.unit == "unit":
        for first, end in itertools.pairwise(places.machines):
            yield np.unique(places.order[first:end])
    else:
        for end in places.ends(task.window):
            yield places.order[end + 1 - task.window.length : end + 1]


def frames(snapshot: Snapshot, split: Split) -> "Iterator[pd.DataFrame]":
    """Yield an opened snapshot's readings to train on: of a store one machine's at a time, else all at once.

    No privacy unit reaches over two of them.
    """
    import pandas as pd

    reader = reader_of(snapshot)
    if reader is None:
        yield snapshot.dataset(split).train
        return
    for _, parts in parted(reader, split):
        yield pd.concat(list(parts), ignore_index=True)


def count_units(readings: "Iterable[pd.DataFrame]", task: Task) -> int:
    """Return how many privacy units there are in all `frames`.

    Raises:
        Refusal: ``contract``: a column is missing.
    """
    usables = (usable(encoded(frame, task), task.contract) for frame in readings)
    return sum(1 for frame in usables for _ in unit_rows(frame, task))


def bad_shares(readings: "Iterable[pd.DataFrame]", task: Task) -> Iterator[NDArray[np.float64]]:
    """Yield for each of `frames`, of each privacy unit in it, the share of readings that break the contract.

    Each is 0 to 1 (units,). Readings that only repeat another's time, which no single reading decides, are
    not counted.

    Raises:
        Refusal: ``contract``: a column is missing.
    """
    for whole in readings:
        frame = usable(encoded(whole, task), task.contract)
        bad = bad_readings(frame, task.contract)
        yield np.array([bad[rows].mean() for rows in unit_rows(frame, task)], np.float64)


def intake_shares(intake: Mapping[str, Sequence[int]], task: Task) -> Iterator[NDArray[np.float64]]:
    """Yield in blocks by how much each unit of what came passes the share that may break the contract.

    Added up, they are more than 0 where more than ``strays`` of it did. A machine adds its own share of bad
    readings less ``strays``; where a unit is a window or a row, each reading adds its part of a window. So
    one unit adds -1 to 1. Readings are neighbours as the door took them: that one that is kept may make
    another late is not looked at, here as in the store. What names no machine is no machine's.

    Args:
        intake: See `interplant.data.snapshots.Snapshot.intake`.
        task: Contract, window, unit.
    """
    strays = task.contract.strays
    if task.privacy.unit == "unit":
        came = np.array([own for name, own in intake.items() if name and sum(own)], np.float64).reshape(-1, 2)
        yield came[:, 1] / came.sum(axis=1) - strays
        return
    for place, value in enumerate((-strays, 1.0 - strays)):
        count = sum(own[place] for own in intake.values())
        for first in range(0, count, _READINGS):
            yield np.full(min(_READINGS, count - first), value / task.window.length)


@dataclass(frozen=True)
class Bins:
    """Equal bins over what the contract accepts of each sensor, in each operating condition.

    Args:
        low: Lower end of what is accepted (conditions, sensors).
        high: Upper end.
        count: Bins between them.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, contract: Contract, count: int) -> "Bins":
        """Lay bins over the declared ranges and the `TOLERANCE` on either side of them."""
        own = {name: [column.low, column.high] for name, column in contract.sensors.items()}
        conditions = [own | one.ranges for one in contract.conditions] or [own]
        ends = np.array([[ranges[name] for name in own] for ranges in conditions], np.float64)
        beyond = TOLERANCE * (ends[..., 1] - ends[..., 0])
        return cls(ends[..., 0] - beyond, ends[..., 1] + beyond, count)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Conditions, sensors, bins."""
        conditions, sensors = self.low.shape
        return conditions, sensors, self.count

    @property
    def bound(self) -> float:
        """The most that one unit adds, as an L2 norm: of each sensor its shares add up to 1."""
        return math.sqrt(self.low.shape[1])

    def places(self, frame: "pd.DataFrame", contract: Contract) -> NDArray[np.intp]:
        """Return the bin of every value, counted through conditions, sensors and bins (readings, sensors).

        What is not finite gets the number past the last.
        """
        values = frame[list(contract.sensors)].to_numpy(dtype=np.float64)
        condition = np.zeros(len(values), np.intp)
        if contract.conditions:
            settings = frame[list(contract.settings)].to_numpy(dtype=np.float64)
            condition = condition_of(settings, contract)
        low, width = self.low[condition], (self.high - self.low)[condition]
        inside = np.floor(np.nan_to_num((values - low) / width, posinf=1.0, neginf=0.0) * self.count)
        place = (condition[:, None] * len(contract.sensors) + np.arange(len(contract.sensors))) * self.count
        place = place + inside.clip(0, self.count - 1).astype(np.intp)
        return np.where(np.isfinite(values), place, math.prod(self.shape))

    def shares(self, readings: "Iterable[pd.DataFrame]", task: Task) -> Iterator[NDArray[np.float64]]:
        """Yield in blocks what each unit of all `frames` adds: the share of its readings in each bin.

        Each block is (units, bins of all conditions and sensors).

        Raises:
            Refusal: ``contract``: a column is missing.
        """
        size = math.prod(self.shape)
        for whole in readings:
            frame = usable(encoded(whole, task), task.contract)
            places, block = self.places(frame, task.contract), []
            for rows in unit_rows(frame, task):
                block.append(np.bincount(places[rows].ravel(), minlength=size + 1)[:size] / len(rows))
                if len(block) == BLOCK:
                    yield np.stack(block)
                    block = []
            if block:
                yield np.stack(block)

    def quantiles(
        self, sums: NDArray[np.float64], deviation: float, tail: float
    ) -> list[list[tuple[float, float] | None]]:
        """Read ranges off noised sums; what noise alone may have made is left out.

        Args:
            sums: Noised, of all bins (conditions, sensors, bins).
            deviation: Standard deviation of the noise in each.
            tail: Share of the readings that may lie beyond either end.

        Returns:
            Low and high for each condition and sensor; None where there is too little to tell.
        """
        # So that of all bins together noise alone fills one in a thousand times.
        clear = NormalDist().inv_cdf(1.0 - 0.001 / sums.size)
        kept = np.where(sums > clear * deviation, sums, 0.0)
        width = (self.high - self.low) / self.count
        return [
            [_ends(kept[c, s], float(self.low[c, s]), float(width[c, s]), tail) for s in range(kept.shape[1])]
            for c in range(kept.shape[0])
        ]


def _ends(counts: NDArray[np.float64], low: float, width: float, tail: float) -> tuple[float, float] | None:
    """The edges of the bins between which all but a tail on either side lies."""
    total = counts.sum()
    if not total:
        return None
    first = int(np.argmax(np.cumsum(counts) > tail * total))
    last = len(counts) - 1 - int(np.argmax(np.cumsum(counts[::-1]) > tail * total))
    return low + first * width, low + (last + 1) * width
