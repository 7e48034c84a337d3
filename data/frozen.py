"""A store as a snapshot: its partitions and a manifest; and back, one machine after the other.

The manifest repeats the contract, so that a snapshot can be read by itself, and counts readings by day and
machine. Who brought the readings is no part of it: the same readings are the same snapshot.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.files import disk_errors, link_or_copy, write_atomic
from interplant.core.schema import Split
from interplant.data.contract import columns
from interplant.data.frames import Dataset
from interplant.data.index import Partition
from interplant.data.store import Store, file_name, fitted, moments
from interplant.data.tables import MANIFEST

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

VERSION: Final = 2
"""Of the manifest; version 1 is a dataset of two tables (`interplant.data.tables`)."""


@dataclass(frozen=True)
class Frozen:
    """What a snapshot of a store is made of.

    Args:
        source: Folder of the partitions.
        partitions: Them, by name.
        manifest: The manifest's bytes.
        simulated: Whether the plant simulator made the readings.
    """

    source: Path
    partitions: tuple[Partition, ...]
    manifest: bytes
    simulated: bool
    linked: Final = True

    @classmethod
    def of(cls, source: Path, partitions: list[Partition], contract: Contract, simulated: bool) -> "Frozen":
        """Describe a store's partitions as they are now.

        Raises:
            UsageError: There are none.
        """
        if not partitions:
            raise UsageError(
                f"{source}: expected readings in the store, found none; `interplant data ingest`"
            )
        days: dict[str, dict[str, int]] = {}
        for one in partitions:
            days.setdefault(one.day, {})[one.machine] = one.rows
        content = {
            "labelled": sum(one.labelled for one in partitions),
            "version": VERSION,
            "simulated": simulated,
            "contract": config.dump(contract),
            "days": days,
        }
        return cls(source, tuple(partitions), (json.dumps(content, indent=1) + "\n").encode(), simulated)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file by name, sorted."""
        own = {one.name: one.sha256 for one in self.partitions}
        return dict(sorted({**own, MANIFEST: hashlib.sha256(self.manifest).hexdigest()}.items()))

    @property
    def rows(self) -> int:
        """Readings."""
        return sum(one.rows for one in self.partitions)

    @property
    def machines(self) -> int:
        """Machines."""
        return len({one.machine for one in self.partitions})

    def place(self, folder: Path, present: Mapping[str, str]) -> set[str]:
        """Make ``folder`` hold these files; what is there and right is left alone.

        Args:
            folder: The snapshot's.
            present: SHA-256 of the files that are there.

        Returns:
            Names of the files that were put there.
        """
        wanted = self.hashes
        missing = {name for name, own in wanted.items() if present.get(name) != own}
        going = present.keys() - wanted.keys()
        with disk_errors(folder):
            for name in going:
                (folder / name).unlink(missing_ok=True)
            for inside in {(folder / name).parent for name in going} - {folder}:
                if inside.is_dir() and not any(inside.iterdir()):
                    inside.rmdir()
            for name in missing - {MANIFEST}:
                link_or_copy(self.source / name, folder / name)
        if MANIFEST in missing:
            # Replaced, not written into: DVC's cache may share the old one.
            write_atomic(folder / MANIFEST, self.manifest)
        return missing


@dataclass(frozen=True)
class FrozenReader:
    """Reads a snapshot of a store; every file's bytes are checked as they are read.

    Args:
        folder: Of the snapshot.
        files: SHA-256 of each file by name.
    """

    folder: Path
    files: Mapping[str, str]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        content: dict[str, Any] = json.loads(self._content(MANIFEST))
        return content

    @cached_property
    def contract(self) -> Contract:
        """What the readings were held to."""
        return config.parse(self.manifest["contract"], Contract, str(self.folder / MANIFEST))

    def machines(self) -> list[list[str]]:
        """Return each machine's partitions in the order of time, machines by their files' names."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            if name != MANIFEST:
                found.setdefault(name.rpartition("/")[2], []).append(name)
        return [
            sorted(found[machine], key=lambda name: when(name.partition("/")[0])) for machine in sorted(found)
        ]

    def read(self, name: str) -> "pa.Table":
        """Return the readings of a partition.

        Raises:
            InterplantError: A file is not what the snapshot says.
        """
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self._content(name)))

    def _content(self, name: str) -> bytes:
        content = (self.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise InterplantError(
                f"{self.folder / name} is not what its snapshot holds; move {self.folder} away to have the "
                "snapshot restored from the plant's remote"
            )
        return content


def when(day: str) -> tuple[float, str]:
    """Return what sorts days as dates, and blocks of counts as numbers."""
    try:
        return float(day), ""
    except ValueError:
        return 0.0, day


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
        Refusal: ``contract``: no label is known, and the end of each record is to be held out: what is left
            then has no end that would tell one.
    """
    manifest = reader.manifest
    if split.by == "time" and not manifest["labelled"]:
        raise Refusal("contract", "split.by: time needs a label at each reading, found none in the snapshot")
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

    Each is a frame of machine, time (counts, or seconds since 1970), cycle, inputs, and the label if it is
    known of any reading of the snapshot.
    """
    import pandas as pd

    contract, labelled = reader.contract, bool(reader.manifest["labelled"])
    before, told = None, -np.inf
    for name in record.partitions:
        frame = _frame(reader.read(name), record.number, contract, labelled)
        if contract.hold:
            raw = frame if before is None else pd.concat([before, frame], ignore_index=True)
            end = raw[contract.time].iloc[-1]
            before = raw[raw[contract.time] >= end - contract.hold - contract.interval]
            frame = _held_over(raw, contract)
            frame = frame[frame[contract.time] > told]
            told = max(told, float(np.floor(end / contract.interval + 1e-6) * contract.interval))
        if len(frame):
            yield frame


def unseen(store: Store, known: Mapping[str, str]) -> "Iterator[pd.DataFrame]":
    """Yield what a store holds beside a snapshot: frames as of `pieces`, in the order in which it came about.

    Where time is a moment, the machines of a day stand together; where it counts, each has its own frames.

    Args:
        store: The plant's.
        known: SHA-256 of the snapshot's files by name.
    """
    import pandas as pd

    partitions, contract = store.partitions(), store.contract
    numbers = numbered({one.machine for one in partitions})
    fresh = [one for one in partitions if known.get(one.name) != one.sha256]
    stamped = contract.clock == "timestamp"
    groups: dict[str, list[Partition]] = {}
    for one in sorted(fresh, key=lambda one: one.day if stamped else (one.machine, one.first)):
        groups.setdefault(one.day if stamped else one.name, []).append(one)
    for group in groups.values():
        frames = [_frame(store.read(one), numbers[one.machine], contract, False) for one in group]
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


def _frame(table: "pa.Table", number: int, contract: Contract, labelled: bool) -> "pd.DataFrame":
    import pandas as pd

    table = fitted(table, contract)
    times = moments(table, contract)
    inputs = [*([contract.cycle] if contract.cycle else []), *columns(contract)]
    return pd.DataFrame(
        {
            contract.machine: np.full(len(table), number, np.int64),
            contract.time: times / 1e6 if contract.clock == "timestamp" else times,
            **{
                name: table.column(name).to_numpy()
                for name in [*inputs, *([contract.label] if labelled else [])]
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
    label = last[contract.label].to_numpy() if contract.label in names else None
    if label is not None:
        found[contract.label] = label
    inputs = [name for name in names if name != contract.label]
    return found[found[inputs].notna().all(axis=1)].reset_index(drop=True)


def _forward(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values with each NaN replaced by the last number before it in its column (N, columns)."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    filled: NDArray[np.float64] = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    return filled


def dataset_of(reader: FrozenReader, split: Split) -> Dataset:
    """Return a snapshot's readings as two tables, all in memory.

    Raises:
        Refusal: See `records`.
    """
    import pandas as pd

    train, holdout = [], []
    for record in records(reader, split):
        parts = list(pieces(reader, record))
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        trained = int(len(frame) * record.share)
        train.append(frame.iloc[:trained])
        holdout.append(frame.iloc[trained:])
    tables = [pd.concat(own, ignore_index=True) for own in (train, holdout)]
    return Dataset(tables[0], tables[1], bool(reader.manifest["simulated"]))
