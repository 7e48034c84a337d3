"""A plant's own store of readings: append-only Parquet, a file for each machine and day, each reading once.

Readings that come in small batches are written down at once in ``incoming/`` and moved to their partitions
together (`Store.settle`); a batch is safe, and its source may forget it, when `Store.add` returns. A kill
between the two steps is harmless: what is moved again is recognised by its key, machine and time. Where the
contract's clock counts, a "day" is a block of counts.

A reading that is there already is dropped; one that says something else for the same key goes to quarantine.
Readings of which each has only some values (``contract.hold``) complete each other. A label may come later
than its reading, by itself or with the reading again: it fills the empty one and overwrites nothing. What
comes without its reading waits for it (`interplant.data.late`), corrections by persons among them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.files import disk_errors, sync_folder, takes_turns
from interplant.core.schema import Source
from interplant.data import corrections, door, parquet_pieces
from interplant.data.door import Admitted
from interplant.data.held import HeldVersions
from interplant.data.incoming import Bundle, Incoming
from interplant.data.index import Index, Partition, versions_of
from interplant.data.late import Late, Waiting
from interplant.data.partitions import (
    Merged,
    fitted,
    merge_readings,
    moments,
    partition_name,
    span,
    write_partition,
)
from interplant.data.quarantine import Quarantine
from interplant.data.refused import Refused
from interplant.data.texts import remember

if TYPE_CHECKING:
    import pyarrow as pa

DIRECT: Final = 200_000
"""Readings from which on a batch goes to its partitions at once."""

MOST: Final = 2_000_000
"""Readings in ``incoming/`` from which on they are moved to their partitions."""

HELD_AGAIN: Final = "held-again"
"""Stands for the source of readings that were in the store when the contract changed."""

_MEND: Final = (
    "restore it from a snapshot (`interplant data log`), or move it away and bring its readings again"
)
_WRITERS: Final = 4
_FARTHEST: Final = 2**53
"""Days, or blocks, from 0, within which all readings lie."""


@dataclass(frozen=True)
class Added:
    """What became of a batch.

    Args:
        rows: Readings that are new.
        repeats: Readings that were there already, and are dropped.
        conflicts: Readings that went to quarantine, since others stand in their place.
    """

    rows: int = 0
    repeats: int = 0
    conflicts: int = 0

    def __add__(self, other: "Added") -> "Added":
        return Added(self.rows + other.rows, self.repeats + other.repeats, self.conflicts + other.conflicts)


@dataclass
class Store:
    """Readings at one plant.

    Args:
        path: Its folder; made where there is none.
        contract: What all readings in it keep.
    """

    path: Path
    contract: Contract

    def __post_init__(self) -> None:
        with disk_errors(self.path):
            for folder in (self.readings, self.path / "incoming"):
                folder.mkdir(parents=True, exist_ok=True)
        self.index = Index(self.path / "index.db")
        self.quarantine = Quarantine(self.path / "quarantine")
        self.texts = remember(self.path / "texts.json", self.contract.texts)
        self.refused = Refused(self.quarantine, self.index, self.contract, self.texts)
        self.incoming = Incoming(self.path / "incoming", self.contract)
        self.late = Waiting(self.path / "late.db")
        self.held = HeldVersions(self.path / "held.json", str(self.contract.version))

    @property
    def readings(self) -> Path:
        """Folder of the partitions: ``DAY/MACHINE.parquet``."""
        return self.path / "readings"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from adding or moving readings while the block runs."""
        with takes_turns(self.path / "store.lock"):
            yield

    def newest(self) -> Mapping[str, float]:
        """Return by machine the time of its newest settled reading."""
        return self.index.newest()

    def add(self, table: "pa.Table", origin: str = "", source: str = "") -> Added:
        """Keep readings; when this returns they are on disk.

        Args:
            table: In the contract's `interplant.data.door.layout`.
            origin: Where they were found, should another reading contradict them.
            source: Whose they are. `Index.note` has counted them: those that are not new are taken off again.

        Returns:
            What became of all readings that were moved to partitions by this; those that wait in
            ``incoming/`` are counted once they move.
        """
        if not len(table):
            return Added()
        with self.locked():
            self.held.add(self.is_empty())
            if len(table) >= DIRECT:
                return self._move([Bundle(table, origin, str(self.contract.version), source)])
            return self._settle() if self.incoming.put(table, origin, source) >= MOST else Added()

    def begin(self) -> None:
        """Note that readings may come that are held to this contract, whether or not any do."""
        with self.locked():
            self.held.add(self.is_empty())

    def is_empty(self) -> bool:
        """Whether there are no readings, and never were any."""
        return not (any(self.readings.iterdir()) or self.incoming.files())

    def tell(self, labels: "pa.Table", source: str, origin: str) -> None:
        """Keep labels that came without their readings; when this returns they are on disk.

        Args:
            labels: As `interplant.data.door.Admitted.labels`.
            source: The name of the source.
            origin: Where they were found.
        """
        if found := [one for _, one in self._labels(labels, source, origin)]:
            self.correct(lambda: found)

    def correct(self, take: Callable[[], Sequence[Late]]) -> None:
        """Keep labels that came without their readings; when this returns they are on disk.

        Args:
            take: Returns them. Nobody erases while it runs, so that what it reads has not been erased before.
        """
        with self.locked():
            self.late.put((self._part(one.machine, one.time), one) for one in take())

    def has(self, machines: Sequence[str], times: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which readings, by machine and time, are in the partitions (N,)."""
        import pyarrow.parquet as pq

        names = np.array([self._part(*key) for key in zip(machines, times.tolist(), strict=True)])
        found = np.zeros(len(names), np.bool_)
        for name in np.unique(names):
            path, own = self.readings / str(name), names == name
            if path.exists():
                table = pq.ParquetFile(path).read(columns=[self.contract.time])
                found[own] = np.isin(times[own], moments(table, self.contract))
        return found

    def hold(self, marked: "pa.Table") -> Counter[str]:
        """Put rows into quarantine, each once however often it comes; return how many are new, by machine.

        Rows that name no machine count under an empty name.
        """
        with self.locked():
            return self.refused.hold(marked)

    def take_back(self, admitted: Admitted, source: str, origin: str) -> dict[int, str]:
        """Take in what leaves quarantine, but for what contradicts what is there.

        The caller holds the lock (`locked`) since it looked into quarantine: nobody erases in between.

        Args:
            admitted: Rows of quarantine that were held to the contract again.
            source: The name of their source.
            origin: Where they were found.

        Returns:
            The column in which each row of the batch that contradicts does so.
        """
        self._settle()
        back: dict[int, str] = {}

        def contradicting(places: NDArray[np.intp]) -> None:
            back.update(dict.fromkeys(admitted.good_rows[places].tolist(), self.contract.time))

        if len(admitted.good):
            bundle = Bundle(admitted.good, origin, str(self.contract.version), source)
            counts = admitted.good.column(self.contract.machine).value_counts().to_pylist()
            self.index.note(source, {one["values"]: one["counts"] for one in counts})
            self._move([bundle], contradicting)
        labels = {one: row for row, one in self._labels(admitted.labels, source, origin)}
        self.late.put((self._part(one.machine, one.time), one) for one in labels)

        def refuse(one: Late) -> None:
            if one in labels:
                back[int(admitted.label_rows[labels[one]])] = one.column
            else:
                self.refused.label(one)

        self._join(refuse)
        return back

    def settle(self) -> Added:
        """Move all that waits in ``incoming/`` to its partitions."""
        with self.locked():
            return self._settle()

    def erase(self, machine: str | None, first: float | None = None, last: float | None = None) -> int:
        """Remove readings for good, those in quarantine too; return how many partitions changed.

        Args:
            machine: Whose; None: of all.
            first: The earliest time, microseconds since 1970 or a count; None: from the beginning.
            last: The latest, itself included; None: to the end.
        """
        import pyarrow as pa

        low, high = -math.inf if first is None else first, math.inf if last is None else last
        with self.locked():
            self._settle()
            # What a killed writer left.
            for left in (*self.readings.glob("*/.*"), *(self.path / "incoming").glob(".*")):
                left.unlink()
            changed = 0
            for one in self.partitions():
                if machine not in (None, one.machine) or one.last < low or one.first > high:
                    continue
                changed += 1
                table = self.read(one)
                times = moments(table, self.contract)
                left = table.take(pa.array(np.flatnonzero((times < low) | (times > high))))
                if len(left):
                    self.index.put([self._write(one.name, left, one.versions)])
                else:
                    (self.readings / one.name).unlink()
            self.index.partitions(self.readings, self.contract)
            self.late.erase(machine, low, high)
            self.refused.erase(machine, low, high)
            return changed

    def hold_again(self, partition: Partition) -> tuple[int, Counter[str]]:
        """Hold a partition's readings to the contract as it is now; what breaks it goes to quarantine.

        Corrections wait for the readings that stay, or come again. Done again after a kill, it completes what
        was begun.

        Returns:
            How many readings stay, and of each machine how many went.
        """
        with self.locked():
            contract = replace(self.contract, late=0.0)
            source = Source(name=HELD_AGAIN, kind="folder")
            whole = self.read(partition)
            said = corrections.late(whole, partition.machine, moments(whole, contract), contract, HELD_AGAIN)
            self.late.put((partition.name, one) for one in said)
            readings = whole.select([name for name in whole.column_names if name not in corrections.COLUMNS])
            readings = door.as_it_came(readings, contract, self.texts)
            origin = f"readings/{partition.name}"
            admitted = door.admit(readings, contract, source, origin, apart=False)
            gone = self.refused.hold(admitted.bad)
            table = merge_readings(admitted.good.slice(0, 0), admitted.good, contract).table
            if len(table):
                self.index.put([self._write(partition.name, table, str(contract.version))])
            else:
                (self.readings / partition.name).unlink()
            return len(table), gone

    def note_held_again(self) -> None:
        """Note that all readings were held to the contract as it is now, unless others came meanwhile."""
        with self.locked():
            self._settle()
            if all(one.versions == self.held.own for one in self.partitions()):
                self.held.settle()

    def partitions(self) -> list[Partition]:
        """Return all partitions by name; files that changed behind the index's back are looked at anew."""
        return self.index.partitions(self.readings, self.contract)

    def read(self, partition: Partition) -> "pa.Table":
        """Return a partition's readings in the order of their times."""
        return parquet_pieces.whole(self.readings / partition.name, _MEND)

    def waiting(self) -> int:
        """Return how many readings wait in ``incoming/``."""
        return self.incoming.rows()

    def _settle(self) -> Added:
        added = Added()
        paths = self.incoming.files()
        while paths:
            bundles: list[Bundle] = []
            while len(bundles) < len(paths) and sum(len(one.table) for one in bundles) < MOST:
                bundles.append(self.incoming.read(paths[len(bundles)]))
            added += self._move(bundles)
            for path in paths[: len(bundles)]:
                path.unlink()
            paths = paths[len(bundles) :]
        self.incoming.moved()
        return added + self._join()

    # --- partitions ----------------------------------------------------------------------------

    def _move(
        self, bundles: Sequence[Bundle], refuse: Callable[[NDArray[np.intp]], None] | None = None
    ) -> Added:
        """Part readings by machine and day, and merge each part into its partition.

        Args:
            bundles: The readings.
            refuse: Takes which of them, counted through all bundles, contradict others; by default they go to
                quarantine.
        """
        import pyarrow as pa

        table = pa.concat_tables([fitted(one.table, self.contract) for one in bundles])
        whence = np.repeat(np.arange(len(bundles)), [len(one.table) for one in bundles])
        coded = table.column(self.contract.machine).combine_chunks().dictionary_encode()
        machine = coded.indices.to_numpy(zero_copy_only=False)
        times = moments(table, self.contract)
        part = np.floor_divide(times, span(self.contract)).astype(np.int64)
        order = np.lexsort((times, part, machine))
        table = table.take(pa.array(order))
        machine, part = machine[order], part[order]
        starts = np.flatnonzero(np.r_[True, (machine[1:] != machine[:-1]) | (part[1:] != part[:-1])])
        ends = np.r_[starts[1:], len(table)]

        names = [
            partition_name(str(coded.dictionary[int(machine[first])]), int(part[first]), self.contract)
            for first in starts
        ]
        known = self.index.some(names)

        def merge(
            name: str, first: int, last: int
        ) -> "tuple[Partition, Added, NDArray[np.intp], NDArray[np.intp]]":
            fresh, rows = table.slice(first, last - first), order[first:last]
            versions = {bundles[one].version for one in np.unique(whence[rows])}
            partition, merged = self._merge(name, known.get(name), fresh, versions)
            wrong, again = rows[merged.conflicts], rows[merged.repeats]
            return partition, Added(partition.rows - merged.before, len(again), len(wrong)), wrong, again

        with disk_errors(self.readings), ThreadPoolExecutor(_WRITERS) as pool:
            done = list(pool.map(merge, names, starts, ends))
            for folder in {(self.readings / partition.name).parent for partition, *_ in done}:
                sync_folder(folder)
        if len(wrong := np.concatenate([own for *_, own, _ in done])):
            if refuse is None:
                found = [(bundles[one].source, bundles[one].origin) for one in whence[wrong]]
                self.refused.readings(table.take(pa.array(np.argsort(order)[wrong])), found)
            else:
                refuse(wrong)
        for partition, _, contradicting, again in done:
            whose = whence[np.r_[contradicting, again]]
            self._take_off(partition.machine, [bundles[one].source for one in whose])
        self.index.put([partition for partition, *_ in done])
        return sum((added for _, added, *_ in done), Added())

    def _take_off(self, machine: str, sources: Sequence[str]) -> None:
        """Count less of what sources brought of a machine: what they brought was not new."""
        for source, count in Counter(sources).items():
            if source:
                self.index.note(source, {machine: -count})

    def _merge(
        self, name: str, known: Partition | None, fresh: "pa.Table", versions: set[str]
    ) -> "tuple[Partition, Merged]":
        """Write one partition anew with what is new for it, held to these versions of the contract."""
        path = self.readings / name
        found = parquet_pieces.whole(path, _MEND) if path.exists() else fresh.slice(0, 0)
        old = fitted(found, self.contract)
        merged = merge_readings(old, fresh, self.contract)
        same = merged.table.equals(old)
        if known and same:
            return known, merged
        own = {*versions_of(found.schema).split(",")} if len(found) else set()
        every = sorted(own if same else own | versions, key=int)
        table = corrections.attach(merged.table, found, self.contract)
        return self._write(name, table, ",".join(every)), merged

    def _join(self, refuse: Callable[[Late], None] | None = None) -> Added:
        """Give the labels that wait to the readings that are there.

        A kill leaves a label waiting that has joined already: it then changes nothing.

        Args:
            refuse: Takes each label in whose place another stands; by default it goes to quarantine.
        """
        names = [name for name in self.late.parts() if (self.readings / name).exists()]
        added, known = Added(), self.index.some(names)
        if len(known) < len(names):  # the index was lost
            known = {one.name: one for one in self.partitions()}
        for name, waiting in self.late.unseen({one.name: one.sha256 for one in known.values()}):
            found, partition = parquet_pieces.whole(self.readings / name, _MEND), known[name]
            table = corrections.attach(fitted(found, self.contract), found, self.contract)
            joined = corrections.join(table, moments(table, self.contract), waiting, self.contract)
            if joined.corrected or joined.filled:
                partition = self._write(name, joined.table, versions_of(found.schema))
                sync_folder((self.readings / name).parent)
                self.index.put([partition])
                self.index.note_corrections(joined.new)
            for source, _ in {(one.source, one.time) for one in joined.filled if one.source}:
                self.index.note(source, {partition.machine: 1})
            for one in joined.refused:
                (refuse or self.refused.label)(one)
            self.late.looked(name, partition.sha256, joined.done)
            added += Added(conflicts=len(joined.refused))
        return added

    def _labels(self, labels: "pa.Table", source: str, origin: str) -> list[tuple[int, Late]]:
        """Labels that came without their readings, each with its row."""
        machines, times = labels.column(self.contract.machine).to_pylist(), moments(labels, self.contract)
        columns = {
            name: labels.column(name).to_pylist() for name in (self.contract.label, *self.contract.never)
        }
        return [
            (row, Late(machine, time, name, values[row], origin, source))
            for row, (machine, time) in enumerate(zip(machines, times.tolist(), strict=True))
            for name, values in columns.items()
            if values[row] is not None
        ]

    def _part(self, machine: str, time: float) -> str:
        """Name of the partition of a reading; of a time that none has, some name that a file may have."""
        part = min(max(int(time // span(self.contract)), -_FARTHEST), _FARTHEST)
        return partition_name(machine, part, self.contract)

    def _write(self, name: str, table: "pa.Table", versions: str) -> Partition:
        return write_partition(self.readings / name, name, table, self.contract, versions)
