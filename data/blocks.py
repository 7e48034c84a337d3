"""Readings in pieces, so that a plant with 100 GB of them is compared in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Split
from interplant.data import readings, tables
from interplant.data.contract import Floats, columns, condition_of, usable
from interplant.data.pieces import pieces, records, unseen
from interplant.data.snapshots import Snapshot, reader_of
from interplant.data.store import Store

if TYPE_CHECKING:
    import pandas as pd

ROWS: Final = 1 << 18
"""Readings of a snapshot that are read at a time."""

LARGEST: Final = 1e100
"""What is larger is no measurement, and missing as NaN and infinity are; its square would overflow."""

_WINDOWS: Final = 64
"""Windows that `cut` hands over at a time."""


@dataclass(frozen=True)
class Block:
    """Readings one after the other.

    Args:
        machine: The machine of each reading, int64 (N,).
        time: When, in the contract's unit; of timestamps, seconds since 1970 (N,).
        values: Settings, then sensors, in the contract's units (N, columns); NaN where one is missing.
        condition: Operating condition of each reading, an index into the contract's; else 0 (N,).
    """

    machine: NDArray[np.int64]
    time: Floats
    values: Floats
    condition: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, part: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Block":
        return Block(self.machine[part], self.time[part], self.values[part], self.condition[part])


def of_series(values: Floats, time: Floats | None = None) -> Block:
    """Return numbers that come one after the other, such as predictions or errors, as readings.

    Args:
        values: (N,) of one kind, or (N, columns).
        time: When (N,); by default they are counted.
    """
    table = np.asarray(values, dtype=np.float64).reshape(len(values), 1 if np.ndim(values) == 1 else -1)
    nothing = np.zeros(len(table), np.int64)
    when = np.arange(len(table), dtype=np.float64) if time is None else np.asarray(time, np.float64)
    return Block(nothing, when, _measured(table), nothing.astype(np.intp))


def of_frame(frame: "pd.DataFrame", contract: Contract) -> Block:
    """Return a table's readings in the order in which they are compared.

    That is the order of time where time is a moment, and each machine's life after the other where it
    counts. A cell that is no number is missing; a reading without a machine or a time is left out.

    Raises:
        UsageError: A column is not there.
    """
    for name in (contract.machine, contract.time, *columns(contract)):
        if name not in frame.columns:
            raise UsageError(f"column {name!r}: expected by the contract, not in the readings")
    good = usable(_with_numbers_for_times(frame, contract), contract)
    values = _measured(good[columns(contract)].to_numpy(dtype=np.float64))
    machine = good[contract.machine].to_numpy(dtype=np.int64)
    time = good[contract.time].to_numpy(dtype=np.float64)
    settings = values[:, : len(contract.settings)]
    condition = condition_of(settings, contract) if contract.conditions else np.zeros(len(time), np.intp)
    keys = (machine, time) if contract.clock == "timestamp" else (time, machine)
    return Block(machine, time, values, condition)[np.lexsort(keys)]


def of_snapshot(snapshot: Snapshot, contract: Contract, split: Split) -> Iterator[Block]:
    """Yield the readings to train on of an opened snapshot, some at a time, each part sorted in itself.

    Of a store that is split by time, what is held out is among them: it came before the live readings, too.
    """
    import pyarrow.parquet as pq

    assert snapshot.folder is not None
    if reader := reader_of(snapshot):
        for record in records(reader, split):
            for piece in pieces(reader, record) if record.share else ():
                yield of_frame(piece, contract)
        return
    for batch in pq.ParquetFile(snapshot.folder / tables.TRAIN).iter_batches(ROWS):
        yield of_frame(batch.to_pandas(), contract)


def of_store(store: Store, snapshot: Snapshot, contract: Contract) -> Iterator[Block]:
    """Yield the readings of a store's partitions that a snapshot does not hold as they are, oldest first."""
    reader = reader_of(snapshot)
    for frame in unseen(store, snapshot.files, reader.manifest["days"] if reader else {}):
        yield of_frame(frame, contract)


def of_path(path: Path, contract: Contract) -> Iterator[Block]:
    """Yield the readings of a table, or of each table of a folder by name.

    Raises:
        UsageError: There is none, or one cannot be read or lacks a column.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in readings.ENDINGS)
        if not files:
            raise UsageError(f"{path}: expected .parquet or .csv tables here, found none")
    for file in files:
        frame = readings.read_table(file)
        try:
            yield of_frame(frame, contract)
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from None


def cut(blocks: Iterable[Block], window: int) -> Iterator[Block]:
    """Yield whole windows, some at a time, across the borders of blocks; the last part of one is dropped.

    Args:
        blocks: In order.
        window: Readings of a window.
    """
    step, rest = window * _WINDOWS, None
    for block in blocks:
        held = block if rest is None else joined([rest, block])
        whole = len(held) // window * window
        for begin in range(0, whole, step):
            yield held[begin : min(begin + step, whole)]
        rest = held[whole:]


def joined(parts: Sequence[Block]) -> Block:
    """Return the readings of several blocks, one after the other."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Block(*(np.concatenate(column) for column in columns))


def _measured(values: Floats) -> Floats:
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def _with_numbers_for_times(frame: "pd.DataFrame", contract: Contract) -> "pd.DataFrame":
    if contract.clock != "timestamp" or frame[contract.time].dtype.kind in "iuf":
        return frame
    import pandas as pd

    when = pd.to_datetime(frame[contract.time], utc=True, errors="coerce", format="mixed")
    seconds = (when - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return frame.assign(**{contract.time: seconds})
