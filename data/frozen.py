"""A store as a snapshot: its partitions and a manifest; and back, one machine after the other.

The manifest repeats the contract, so that a snapshot can be read by itself, and counts readings by day and
machine. Who brought the readings is no part of it: the same readings are the same snapshot.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, link_or_copy, write_atomic
from interplant.core.schema import Split
from interplant.data.contract import columns
from interplant.data.frames import Dataset
from interplant.data.index import Partition
from interplant.data.store import moments
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
            "version": VERSION,
            "simulated": simulated,
            "contract": config.dump(contract),
            "days": days,
        }
        return cls(source, tuple(partitions), (json.dumps(content, indent=1) + "\n").encode(), simulated)

    @property
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

    def place(self, folder: Path, present: Mapping[str, str]) -> None:
        """Make ``folder`` hold these files; what is there and right is left alone.

        Args:
            folder: The snapshot's.
            present: SHA-256 of the files that are there.
        """
        wanted = self.hashes
        with disk_errors(folder):
            for name in present.keys() - wanted.keys():
                (folder / name).unlink(missing_ok=True)
            for one in self.partitions:
                if present.get(one.name) != one.sha256:
                    link_or_copy(self.source / one.name, folder / one.name)
            for inside in folder.glob("*/"):
                if not any(inside.iterdir()):
                    inside.rmdir()
        if present.get(MANIFEST) != wanted[MANIFEST]:
            # Replaced, not written into: DVC's cache may share the old one.
            write_atomic(folder / MANIFEST, self.manifest)


@dataclass(frozen=True)
class FrozenReader:
    """Reads a snapshot of a store; every file's bytes are checked as they are read.

    Args:
        folder: Of the snapshot.
        files: SHA-256 of each file by name.
    """

    folder: Path
    files: Mapping[str, str]

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        content: dict[str, Any] = json.loads(self._content(MANIFEST))
        return content

    def machines(self) -> list[list[str]]:
        """Return each machine's partitions in the order of time, machines by their files' names."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            if name != MANIFEST:
                found.setdefault(name.rpartition("/")[2], []).append(name)
        return [sorted(found[machine], key=_when) for machine in sorted(found)]

    def read(self, names: list[str]) -> "pa.Table":
        """Return the readings of partitions, one after the other.

        Raises:
            InterplantError: A file is not what the snapshot says.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables([pq.read_table(io.BytesIO(self._content(name))) for name in names])

    def _content(self, name: str) -> bytes:
        content = (self.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.files[name]:
            raise InterplantError(
                f"{self.folder / name} is not what its snapshot holds; move {self.folder} away to have the "
                "snapshot restored from the plant's remote"
            )
        return content


def _when(name: str) -> tuple[int, str]:
    """Days sort as text, blocks of counts as numbers."""
    day = name.partition("/")[0]
    return (int(day), "") if day.lstrip("-").isdigit() else (0, day)


@dataclass(frozen=True)
class Stretch:
    """One machine's readings in the order of time.

    Args:
        machine: Its name.
        number: What stands for it in tables: the name where all machines' are whole numbers, else its place.
        frame: Machine, time (counts, or seconds since 1970), cycle, inputs and label.
        held_out: First reading that is held out; as many as there are if none is.
    """

    machine: str
    number: int
    frame: "pd.DataFrame"
    held_out: int


def stretches(reader: FrozenReader, split: Split) -> Iterator[Stretch]:
    """Yield the readings of each machine of a snapshot, one machine in memory at a time."""
    manifest = reader.manifest
    contract = config.parse(manifest["contract"], Contract, str(reader.folder / MANIFEST))
    names = {machine for day in manifest["days"].values() for machine in day}
    numbers = numbered(names)
    outside = held_out(names, split.holdout) if split.by == "unit" else set()
    for partitions in reader.machines():
        table = reader.read(partitions)
        machine = str(table.column(contract.machine)[0])
        frame = _frame(table, numbers[machine], contract)
        rows = len(frame)
        if split.by == "time":
            rows = int(rows * (1.0 - split.holdout))
        elif machine in outside:
            rows = 0
        yield Stretch(machine, numbers[machine], frame, rows)


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


def _frame(table: "pa.Table", number: int, contract: Contract) -> "pd.DataFrame":
    import pandas as pd

    times = moments(table, contract)
    inputs = [*([contract.cycle] if contract.cycle else []), *columns(contract)]
    frame = pd.DataFrame(
        {
            contract.machine: np.full(len(table), number, np.int64),
            contract.time: times / 1e6 if contract.clock == "timestamp" else times,
            **{name: table.column(name).to_numpy() for name in inputs},
        }
    )
    if table.column(contract.label).null_count < len(table):
        frame[contract.label] = table.column(contract.label).to_numpy()
    return _held_over(frame, contract) if contract.hold else frame


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


def dataset_of(reader: FrozenReader, split: Split) -> "Dataset":
    """Return a snapshot's readings as two tables, all in memory."""
    import pandas as pd

    train, holdout = [], []
    for stretch in stretches(reader, split):
        train.append(stretch.frame.iloc[: stretch.held_out])
        holdout.append(stretch.frame.iloc[stretch.held_out :])
    tables = [pd.concat(own, ignore_index=True) for own in (train, holdout)]
    return Dataset(tables[0], tables[1], bool(reader.manifest["simulated"]))
