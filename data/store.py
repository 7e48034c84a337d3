"""A plant's own store of readings: append-only Parquet, a file for each machine and day, each reading once.

Readings that come in small batches are written down at once in ``incoming/`` and moved to their partitions
together (`Store.settle`); a batch is safe, and its source may forget it, when `Store.add` returns. A kill
between the two steps is harmless: what is moved again is recognised by its key, machine and time. Where the
contract's clock counts, a "day" is a block of `BLOCK` counts.

A reading that is there already is dropped; one that says something else for the same key goes to quarantine.
Readings of which each has only some values (``contract.hold``) complete each other.
"""

import hashlib
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sync_folder, takes_turns, write_atomic
from interplant.data import door
from interplant.data.index import Index, Partition
from interplant.data.quarantine import Quarantine

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK: Final = 100_000
"""Counts in a partition where the contract's clock counts."""

DIRECT: Final = 200_000
"""Readings from which on a batch goes to its partitions at once."""

MOST: Final = 2_000_000
"""Readings in ``incoming/`` from which on they are moved to their partitions."""

_DAY: Final = 86_400_000_000
_WRITERS: Final = 4


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
    _incoming: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with disk_errors(self.path):
            for folder in (self.readings, self.path / "incoming"):
                folder.mkdir(parents=True, exist_ok=True)
        self.index = Index(self.path / "index.db")
        self.quarantine = Quarantine(self.path / "quarantine")

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

    def add(self, table: "pa.Table", origin: str = "") -> Added:
        """Keep readings; when this returns they are on disk.

        Args:
            table: In the contract's `interplant.data.door.layout`.
            origin: Where they were found, should another reading contradict them.

        Returns:
            What became of all readings that were moved to partitions by this; those that wait in
            ``incoming/`` are counted once they move.
        """
        if not len(table):
            return Added()
        with self.locked():
            if len(table) >= DIRECT:
                return self._move([(table, origin)])
            self._write_down(table, origin)
            return self._settle() if sum(self._incoming.values()) >= MOST else Added()

    def hold(self, marked: "pa.Table") -> int:
        """Put rows into quarantine, each once however often it comes; return how many are new."""
        with self.locked():
            return self._hold(marked)

    def _hold(self, marked: "pa.Table") -> int:
        import pyarrow as pa

        if not len(marked):
            return 0
        lines = zip(*(column.to_pylist() for column in marked.columns), strict=True)
        hashes = [hashlib.sha256(repr((marked.column_names, line)).encode()).hexdigest() for line in lines]
        known = self.index.held(hashes)
        fresh = {one: place for place, one in reversed(list(enumerate(hashes))) if one not in known}
        self.quarantine.put(marked.take(pa.array(sorted(fresh.values()), pa.int64())))
        self.index.hold(fresh)
        return len(fresh)

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
                    self.index.put([write_partition(self.readings / one.name, one.name, left, self.contract)])
                else:
                    (self.readings / one.name).unlink()
            self.index.partitions(self.readings, self.contract)
            self.quarantine.erase(self.contract, machine, low, high)
            self.index.forget_held()
            return changed

    def partitions(self) -> list[Partition]:
        """Return all partitions by name; files that changed behind the index's back are looked at anew."""
        return self.index.partitions(self.readings, self.contract)

    def read(self, partition: Partition) -> "pa.Table":
        """Return a partition's readings in the order of their times."""
        return self._read(self.readings / partition.name)

    def waiting(self) -> int:
        """Return how many readings wait in ``incoming/``."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self._waiting())

    # --- incoming ------------------------------------------------------------------------------

    def _write_down(self, table: "pa.Table", origin: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"{max((int(path.stem) for path in self._waiting()), default=0) + 1:012d}.parquet"
        marked = table.replace_schema_metadata({"origin": origin})
        buffer = pa.BufferOutputStream()
        pq.write_table(marked, buffer, compression="lz4", use_dictionary=[self.contract.machine])
        write_atomic(self.path / "incoming" / name, buffer.getvalue().to_pybytes())
        self._incoming[name] = len(table)

    def _waiting(self) -> list[Path]:
        return sorted(path for path in (self.path / "incoming").glob("*.parquet") if path.stem.isdigit())

    def _settle(self) -> Added:
        import pyarrow.parquet as pq

        added = Added()
        paths = self._waiting()
        while paths:
            tables, rows = [], 0
            while paths and rows < MOST:
                table = pq.read_table(paths[0])
                tables.append(
                    (table, (table.schema.metadata or {}).get(b"origin", b"").decode(), paths.pop(0))
                )
                rows += len(table)
            added += self._move([(table, origin) for table, origin, _ in tables])
            for _, _, path in tables:
                path.unlink()
        self._incoming.clear()
        return added

    # --- partitions ----------------------------------------------------------------------------

    def _move(self, batches: "Sequence[tuple[pa.Table, str]]") -> Added:
        """Part readings by machine and day, and merge each part into its partition."""
        import pyarrow as pa

        layout = door.layout(self.contract)
        table = pa.concat_tables([batch.select(layout.names).cast(layout) for batch, _ in batches])
        origins = np.repeat(np.arange(len(batches)), [len(batch) for batch, _ in batches])
        coded = table.column(self.contract.machine).combine_chunks().dictionary_encode()
        machine = coded.indices.to_numpy(zero_copy_only=False)
        times = moments(table, self.contract)
        span = np.floor_divide(times, _DAY if self.contract.clock == "timestamp" else BLOCK).astype(np.int64)
        order = np.lexsort((times, span, machine))
        table, origins, machine, span = (
            table.take(pa.array(order)),
            origins[order],
            machine[order],
            span[order],
        )
        starts = np.flatnonzero(np.r_[True, (machine[1:] != machine[:-1]) | (span[1:] != span[:-1])])
        ends = np.r_[starts[1:], len(table)]

        def merge(first: int, last: int) -> tuple[Partition, Added, "pa.Table", NDArray[np.intp]]:
            name = partition_name(str(coded.dictionary[int(machine[first])]), int(span[first]), self.contract)
            return self._merge(name, table.slice(first, last - first), origins[first:last])

        with disk_errors(self.readings), ThreadPoolExecutor(_WRITERS) as pool:
            done = list(pool.map(merge, starts, ends))
            for folder in {(self.readings / partition.name).parent for partition, *_ in done}:
                sync_folder(folder)
        for _, _, contradicting, origin in done:
            if len(contradicting):
                self._refuse(contradicting, [batches[one][1] for one in origin])
        self.index.put([partition for partition, *_ in done])
        return sum((added for _, added, _, _ in done), Added())

    def _merge(
        self, name: str, fresh: "pa.Table", origins: NDArray[np.intp]
    ) -> "tuple[Partition, Added, pa.Table, NDArray[np.intp]]":
        """Write one partition anew with what is new for it; returns also what contradicts it."""
        import pyarrow as pa

        path = self.readings / name
        old = fitted(self._read(path), self.contract) if path.exists() else fresh.slice(0, 0)
        merged = merge_readings(old, fresh, self.contract)
        added = Added(len(merged.table) - len(old), merged.repeats, len(merged.conflicts))
        contradicting = fresh.take(pa.array(merged.conflicts))
        known = self.index.get(name)
        if known and merged.table.equals(old):
            return known, added, contradicting, origins[merged.conflicts]
        return (
            write_partition(path, name, merged.table, self.contract),
            added,
            contradicting,
            origins[merged.conflicts],
        )

    def _refuse(self, table: "pa.Table", origins: list[str]) -> None:
        time = self.contract.time
        values = [str(one) for one in table.column(time).to_pylist()]
        for origin in sorted(set(origins)):
            rows = [row for row, own in enumerate(origins) if own == origin]
            reasons = [("conflict", time)] * len(rows)
            marked = door.mark(table.take(rows), reasons, [values[row] for row in rows], "", origin)
            self._hold(marked)

    def _read(self, path: Path) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(path).read()
        except (pa.ArrowException, OSError) as error:
            raise InterplantError(
                f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}; restore it from a "
                "snapshot (`interplant data log`), or move it away and bring its readings again"
            ) from None


@dataclass(frozen=True)
class Merged:
    """Readings of one machine and day.

    Args:
        table: All, in the order of their times.
        repeats: How many of the new ones were there already.
        conflicts: Rows of the new ones that contradict one that was there.
    """

    table: "pa.Table"
    repeats: int
    conflicts: NDArray[np.intp]


def fitted(table: "pa.Table", contract: Contract) -> "pa.Table":
    """Return stored readings in a contract's layout: a column that is new in it has no value yet."""
    import pyarrow as pa

    layout = door.layout(contract)
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in layout
    ]
    return pa.Table.from_arrays(columns, schema=layout)


def moments(table: "pa.Table", contract: Contract) -> NDArray[Any]:
    """Return the times of readings: int64 microseconds since 1970 (UTC), or float64 counts (N,)."""
    import pyarrow as pa

    column = table.column(contract.time)
    found: NDArray[Any] = (column.cast(pa.int64()) if contract.clock == "timestamp" else column).to_numpy()
    return found


def merge_readings(old: "pa.Table", fresh: "pa.Table", contract: Contract) -> Merged:
    """Merge readings of one machine; ``old`` ones stand, of ``fresh`` ones the first of a time does.

    Args:
        old: In the order of their times, each once.
        fresh: In the order of their times.
        contract: With ``hold``, a reading that has only other values than one of its time completes it.
    """
    import pyarrow as pa

    table = pa.concat_tables([old, fresh])
    times = moments(table, contract)
    if len(times) < 2 or (times[1:] > times[:-1]).all():
        return Merged(table.combine_chunks(), 0, np.empty(0, np.intp))
    order = np.argsort(times, kind="stable")
    again = np.r_[False, times[order][1:] == times[order][:-1]]
    group = np.cumsum(~again) - 1
    if not again.any():
        return Merged(table.take(pa.array(order)), 0, np.empty(0, np.intp))
    names = [name for name in table.column_names if name not in (contract.machine, contract.time)]
    values = np.column_stack([table.column(name).to_numpy() for name in names])[order]
    first = np.flatnonzero(~again)
    known, wrong, adds = values[first].copy(), np.zeros(len(order), np.bool_), np.zeros(len(order), np.bool_)
    # A label may come later than the values that it is about.
    late = np.array([bool(contract.hold) or name in (contract.label, *contract.never) for name in names])
    same = (np.isnan(values) | (values == known[group])).all(axis=1)
    for row in np.flatnonzero(again & ~same):
        place, there = group[row], ~np.isnan(values[row])
        empty = np.isnan(known[place])
        wrong[row] = (known[place] != values[row])[there & ~empty].any() or (there & empty & ~late).any()
        if not wrong[row]:
            adds[row] = (there & empty).any()
            known[place] = np.where(empty, values[row], known[place])
    columns = {name: pa.array(known[:, place], from_pandas=True) for place, name in enumerate(names)}
    kept = table.take(pa.array(order[first]))
    for place, name in enumerate(kept.column_names):
        if name in columns:
            kept = kept.set_column(place, kept.schema.field(name), columns[name])
    conflicts = order[wrong & (order >= len(old))] - len(old)
    return Merged(kept, int((again & ~wrong & ~adds).sum()), np.sort(conflicts))


def partition_name(machine: str, span: int, contract: Contract) -> str:
    """Return ``DAY/MACHINE.parquet``, where the contract's clock counts ``BLOCK'S FIRST/MACHINE.parquet``."""
    day = str(span * BLOCK) if contract.clock == "count" else str(np.datetime64(span, "D"))
    return f"{day}/{file_name(machine)}"


def file_name(machine: str) -> str:
    """Return a machine's file; its name is percent-encoded where a file's cannot hold it."""
    own = quote(machine, safe=" +=@,")
    if len(own) > 200 or own.startswith("."):
        own = f"%{uuid.uuid5(uuid.NAMESPACE_OID, machine).hex}"
    return f"{own}.parquet"


def write_partition(path: Path, name: str, table: "pa.Table", contract: Contract) -> Partition:
    """Write a partition durably in place of what stood there; the same readings give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None)
    pq.write_table(
        plain,
        buffer,
        compression="zstd",
        compression_level=1,
        version="2.6",
        use_dictionary=[contract.machine],
    )
    content = memoryview(buffer.getvalue())
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())
        # A snapshot may share the old file; the new one is another.
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    return Partition.of(path, name, table, contract, hashlib.sha256(content).hexdigest())
