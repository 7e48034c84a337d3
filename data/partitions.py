"""A partition of a store: one machine's readings of one day, merged, and written as Parquet."""

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.data import corrections, door
from interplant.data.index import VERSIONS, Partition

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK: Final = 100_000
"""Counts in a partition where the contract's clock counts."""

DAY: Final = 86_400_000_000
"""Microseconds in a partition where it tells moments."""


@dataclass(frozen=True)
class Merged:
    """Readings of one machine and day.

    Args:
        table: All, in the order of their times.
        before: How many were there before.
        repeats: Rows of the new ones that were there already.
        conflicts: Rows of the new ones that contradict one that was there.
    """

    table: "pa.Table"
    before: int
    repeats: NDArray[np.intp]
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
        contract: With ``hold``, a reading that has only other values than one of its time completes it. Its
            label and what tells it are taken where there is none, whatever else it says.
    """
    import pyarrow as pa

    table, none = pa.concat_tables([old, fresh]), np.empty(0, np.intp)
    times = moments(table, contract)
    if len(times) < 2 or (times[1:] > times[:-1]).all():
        return Merged(table.combine_chunks(), len(old), none, none)
    order = np.argsort(times, kind="stable")
    again = np.r_[False, times[order][1:] == times[order][:-1]]
    group = np.cumsum(~again) - 1
    if not again.any():
        return Merged(table.take(pa.array(order)), len(old), none, none)
    names = [name for name in table.column_names if name not in (contract.machine, contract.time)]
    values = np.column_stack([table.column(name).to_numpy() for name in names])[order]
    first = np.flatnonzero(~again)
    known, wrong, adds = values[first].copy(), np.zeros(len(order), np.bool_), np.zeros(len(order), np.bool_)
    # A label may come later than the values that it is about.
    told = np.array([name in (contract.label, *contract.never) for name in names])
    late = told | bool(contract.hold)
    same = (np.isnan(values) | (values == known[group])).all(axis=1)
    for row in np.flatnonzero(again & ~same):
        place, there = group[row], ~np.isnan(values[row])
        empty = np.isnan(known[place])
        wrong[row] = (known[place] != values[row])[there & ~empty].any() or (there & empty & ~late).any()
        fills = there & empty & (told if wrong[row] else late)
        adds[row] = fills.any()
        known[place] = np.where(fills, values[row], known[place])
    columns = {name: pa.array(known[:, place], from_pandas=True) for place, name in enumerate(names)}
    kept = table.take(pa.array(order[first]))
    for place, name in enumerate(kept.column_names):
        if name in columns:
            kept = kept.set_column(place, kept.schema.field(name), columns[name])
    new = order >= len(old)
    conflicts, repeats = (order[rows & new] - len(old) for rows in (wrong, again & ~wrong & ~adds))
    return Merged(kept, len(old), np.sort(repeats), np.sort(conflicts))


def span(contract: Contract) -> int:
    """How much time a partition spans."""
    return DAY if contract.clock == "timestamp" else BLOCK


def partition_name(machine: str, part: int, contract: Contract) -> str:
    """Return ``DAY/MACHINE.parquet``, where the contract's clock counts ``BLOCK'S FIRST/MACHINE.parquet``."""
    day = str(part * BLOCK) if contract.clock == "count" else str(np.datetime64(part, "D"))
    return f"{day}/{file_name(machine)}"


def file_name(machine: str) -> str:
    """Return a machine's file; its name is percent-encoded where a file's cannot hold it."""
    own = quote(machine, safe=" +=@,")
    if len(own) > 200 or own.startswith("."):
        own = f"%{uuid.uuid5(uuid.NAMESPACE_OID, machine).hex}"
    return f"{own}.parquet"


def write_partition(path: Path, name: str, table: "pa.Table", contract: Contract, versions: str) -> Partition:
    """Write a partition durably in place of what stood there.

    The same readings, held to the same versions of the contract, give the same bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    marked = corrections.kept(table).replace_schema_metadata({VERSIONS: versions.encode()})
    pq.write_table(
        marked,
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
    return Partition.of(path, name, marked, contract, hashlib.sha256(content).hexdigest())
