"""A snapshot of a store read machine by machine, one partition in memory at a time.

What is held out is parted from what is trained on by whole machines, chosen by their names alone, or by the
end of each machine's record. Values that hold over are brought to the contract's interval.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import Refusal
from interplant.core.schema import Split
from interplant.data import corrections
from interplant.data.contract import columns
from interplant.data.door import layout
from interplant.data.frames import Dataset
from interplant.data.frozen import FrozenReader
from interplant.data.index import Partition
from interplant.data.partitions import file_name, fitted, moments
from interplant.data.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Record:
    """One machine in a snapshot.

    Args:
        machine: Its name.
        number: What stands for it in tables: the name where all machines' are whole numbers, else its place.
        partitions: Names of its files in the order of time.
        share: Share of its readings, from the first on, that are trained on; the rest is held out.
    """

    machine: str
    number: int
    partitions: tuple[str, ...]
    share: float


def records(reader: FrozenReader, split: Split) -> list[Record]:
    """Return the machines of a snapshot, and what of each is held out.

    Raises:
        Refusal: ``contract``: no source told a label, and the end of each record is to be held out: what
            is left then has no end that would tell one.
    """
    manifest = reader.manifest
    if split.by == "time" and not manifest["labelled"]:
        raise Refusal(
            "contract",
            "split.by: time needs a label at each reading, from a source: found none in the snapshot",
        )
    names = {file_name(machine): machine for day in manifest["days"].values() for machine in day}
    numbers = numbered(set(names.values()))
    outside = held_out(set(names.values()), split.holdout) if split.by == "unit" else set()
    found = []
    for partitions in reader.machines():
        machine = names[partitions[0].rpartition("/")[2]]
        share = 1.0 - split.holdout if split.by == "time" else float(machine not in outside)
        found.append(Record(machine, numbers[machine], tuple(partitions), share))
    return found


def pieces(reader: FrozenReader, record: Record) -> "Iterator[pd.DataFrame]":
    """Yield one machine's readings in the order of time, one partition in memory at a time.

    Each is a frame of machine, time (counts, or seconds since 1970), cycle, inputs, and the label if a source
    told it of any reading of the snapshot; and if a person did, what was said: `interplant.data.corrections`.
    """
    import pandas as pd

    contract, told_of = reader.contract, _labels(reader)
    before, told = None, -np.inf
    for name in record.partitions:
        frame = _frame(reader.read(name), record.number, contract, told_of)
        if contract.hold:
            raw = frame if before is None else pd.concat([before, frame], ignore_index=True)
            end = raw[contract.time].iloc[-1]
            before = raw[raw[contract.time] >= end - contract.hold - contract.interval]
            frame = _held_over(raw, contract)
            frame = frame[frame[contract.time] > told]
            told = max(told, float(np.floor(end / contract.interval + 1e-6) * contract.interval))
        if len(frame):
            yield frame


def parted(
    reader: FrozenReader, split: Split, held: bool = False
) -> "Iterator[tuple[int, Iterator[pd.DataFrame]]]":
    """Yield of each machine the number, and as of `pieces` the readings to train on, or those held out.

    Raises:
        Refusal: See `records`.
    """
    for record in records(reader, split):
        if record.share in (0.0, 1.0):
            if held == (record.share == 0.0):
                yield record.number, pieces(reader, record)
        else:
            trained = int(_length(reader, record) * record.share)
            yield record.number, _between(pieces(reader, record), trained, held)


def _length(reader: FrozenReader, record: Record) -> int:
    """How many readings `pieces` has; where values are held over, they are looked at for that."""
    if reader.contract.hold:
        return sum(map(len, pieces(reader, record)))
    return sum(int(own.get(record.machine, 0)) for own in reader.manifest["days"].values())


def _between(parts: "Iterator[pd.DataFrame]", trained: int, held: bool) -> "Iterator[pd.DataFrame]":
    """The first ``trained`` readings, or the others."""
    passed = 0
    for part in parts:
        place = min(max(trained - passed, 0), len(part))
        passed += len(part)
        own = part.iloc[place:] if held else part.iloc[:place]
        if len(own):
            yield own.reset_index(drop=True)
        if not held and passed >= trained:
            return


def unseen(
    store: Store, known: Mapping[str, str], days: Mapping[str, Mapping[str, int]]
) -> "Iterator[pd.DataFrame]":
    """Yield what a store holds beside a snapshot: frames as of `pieces`, in the order in which it came about.

    Where time is a moment, the machines of a day stand together; where it counts, each has its own frames.

    Args:
        store: The plant's.
        known: SHA-256 of the snapshot's files by name.
        days: How many readings it has of each day and machine. As many as then: only labels came since.
    """
    import pandas as pd

    partitions, contract = store.partitions(), store.contract
    numbers = numbered({one.machine for one in partitions})
    fresh = [one for one in partitions if known.get(one.name) != one.sha256]
    if not contract.hold:  # else a reading may have been completed
        fresh = [one for one in fresh if days.get(one.day, {}).get(one.machine) != one.rows]
    stamped = contract.clock == "timestamp"
    groups: dict[str, list[Partition]] = {}
    for one in sorted(fresh, key=lambda one: one.day if stamped else (one.machine, one.first)):
        groups.setdefault(one.day if stamped else one.name, []).append(one)
    for group in groups.values():
        frames = [_frame(store.read(one), numbers[one.machine], contract, []) for one in group]
        frames = [_held_over(frame, contract) if contract.hold else frame for frame in frames]
        yield pd.concat(frames, ignore_index=True)


def numbered(names: set[str]) -> dict[str, int]:
    """Return the number that stands for each machine: its own where all have one, else its place."""
    if all(name.isascii() and name.isdigit() and str(int(name)) == name and len(name) < 18 for name in names):
        return {name: int(name) for name in names}
    return {name: place for place, name in enumerate(sorted(names), 1)}


def held_out(names: set[str], share: float) -> set[str]:
    """Return the machines that are held out, chosen by their names alone; of two or more, one at least."""
    if len(names) < 2:
        return set()
    place = {
        name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2.0**64 for name in names
    }
    found = {name for name in names if place[name] < share} or {min(names, key=place.__getitem__)}
    return found - {max(names, key=place.__getitem__)}


def _labels(reader: FrozenReader) -> list[str]:
    """Columns that tell labels of a snapshot's readings."""
    manifest = reader.manifest
    own = [reader.contract.label] if manifest["labelled"] else []
    return own + (list(corrections.NUMBERS) if manifest.get("corrected") else [])


def _frame(table: "pa.Table", number: int, contract: Contract, labels: list[str]) -> "pd.DataFrame":
    import pandas as pd

    known = fitted(table, contract)
    times = moments(known, contract)
    inputs = [*([contract.cycle] if contract.cycle else []), *columns(contract)]
    said = table if corrections.VALUE in table.column_names else None
    nothing = np.full(len(table), np.nan)
    return pd.DataFrame(
        {
            contract.machine: np.full(len(table), number, np.int64),
            contract.time: times / 1e6 if contract.clock == "timestamp" else times,
            **{name: known.column(name).to_numpy() for name in inputs},
            **{
                name: known.column(name).to_numpy()
                if name == contract.label
                else said.column(name).to_numpy()
                if said is not None
                else nothing
                for name in labels
            },
        }
    )


def _held_over(frame: "pd.DataFrame", contract: Contract) -> "pd.DataFrame":
    """Bring partial readings to the contract's interval: the last value of each input, as long as it holds.

    A tick at which an input has no value is left out: what a window may bridge, ``gap`` decides.
    """
    ticks = np.floor(frame[contract.time].to_numpy() / contract.interval + 1e-6)
    names = [name for name in frame.columns if name not in (contract.machine, contract.time)]
    last = frame.groupby(ticks)[names].last()
    known = np.where(last.notna(), last.index.to_numpy()[:, None], np.nan)
    when = _forward(known)
    values = _forward(last.to_numpy(np.float64))
    age = (last.index.to_numpy()[:, None] - when) * contract.interval
    values = np.where(age <= contract.hold + 1e-9, values, np.nan)
    found = frame.iloc[: len(last)].copy()
    found[contract.time] = last.index.to_numpy() * contract.interval
    found[names] = values
    # What is said of one reading is said of no other.
    labels = [name for name in names if name in (contract.label, *corrections.NUMBERS)]
    for name in labels:
        found[name] = last[name].to_numpy()
    inputs = [name for name in names if name not in labels]
    return found[found[inputs].notna().all(axis=1)].reset_index(drop=True)


def _forward(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values with each NaN replaced by the last number before it in its column (N, columns)."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    filled: NDArray[np.float64] = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    return filled


def _nothing(reader: FrozenReader) -> "pd.DataFrame":
    return _frame(layout(reader.contract).empty_table(), 0, reader.contract, _labels(reader))


def dataset_of(reader: FrozenReader, split: Split) -> Dataset:
    """Return a snapshot's readings as two tables, all in memory.

    Raises:
        Refusal: See `records`.
    """
    import pandas as pd

    tables = []
    for held in (False, True):
        parts = [part for _, own in parted(reader, split, held) for part in own]
        tables.append(pd.concat(parts, ignore_index=True) if parts else _nothing(reader))
    return Dataset(tables[0], tables[1], bool(reader.manifest["simulated"]))
