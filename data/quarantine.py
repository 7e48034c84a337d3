"""Readings that broke the contract: kept as they came, each with its reason, until they are released.

One Parquet file a batch: each row as it came, all columns as text, behind what `interplant.data.reasons.mark`
says of it.
"""

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, write_atomic
from interplant.data import parquet_pieces
from interplant.data.reasons import REASONS

if TYPE_CHECKING:
    import pyarrow as pa


_FIRST: Final = [f"_{name}" for name in REASONS]
_MEND: Final = "move it away, remove index.db beside its folder, and bring its readings again"


@dataclass(frozen=True)
class Quarantine:
    """A store's quarantine.

    Args:
        path: Its folder; made where there is none.
    """

    path: Path

    def __post_init__(self) -> None:
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def put(self, marked: "pa.Table") -> None:
        """Keep rows; when this returns they are on disk."""
        if len(marked):
            # In the order in which they came: names sort by time.
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            write_atomic(self.path / name, _content(marked))

    def files(self) -> list[Path]:
        """Return the file of each batch, the oldest first."""
        return sorted(self.path.glob("*.parquet"))

    def tables(self) -> "Iterator[tuple[Path, pa.Table]]":
        """Yield each batch, the oldest first; as `read` does."""
        for path in self.files():
            yield path, self.read(path)

    def read(self, path: Path) -> "pa.Table":
        """Return a batch.

        Raises:
            InterplantError: The file is damaged, or of another version.
        """
        table = parquet_pieces.whole(path, _MEND)
        names = table.column_names
        if names[: len(_FIRST)] != _FIRST:
            raise InterplantError(
                f"{path}: expected the columns {', '.join(_FIRST)} and a row's own, found "
                f"{', '.join(names[:6])}, as another version may have written it; {_MEND}"
            )
        return table

    def rows(self) -> int:
        """Return how many readings are here."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.path.glob("*.parquet"))

    def summary(self) -> list[tuple[str, str, str, int, str]]:
        """Return source, rule, column, number of rows and one value of them, the most rows first."""
        import pandas as pd

        parts = [
            table.select([f"_{name}" for name in ("source", "rule", "column", "value")]).to_pandas()
            for _, table in self.tables()
        ]
        if not parts:
            return []
        keys = ["_source", "_rule", "_column"]
        found = pd.concat(parts).fillna("").groupby(keys, as_index=False)["_value"].agg(["size", "first"])
        found = found.sort_values(["size", *keys], ascending=[False, True, True, True])
        return [
            (str(source), str(rule), str(column), int(size), str(value))
            for source, rule, column, size, value in found.itertuples(index=False, name=None)
        ]

    def replace(self, path: Path, staying: "pa.Table") -> None:
        """Put what stays of a batch in its place."""
        if len(staying):
            write_atomic(path, _content(staying))
        else:
            path.unlink()

    def erase(self, contract: Contract, machine: str | None, low: float, high: float) -> None:
        """Remove a machine's rows, or a period's.

        A row that names no machine may be of any, and one whose time cannot be read of any time: it goes too.

        Args:
            contract: Says what times are.
            machine: Whose; None: of all.
            low: The earliest time, microseconds since 1970 or a count.
            high: The latest.
        """
        import pyarrow as pa

        for path, table in self.tables():
            going = np.ones(len(table), np.bool_)
            if machine is not None:
                going &= [one in (None, machine) for one in table.column("_machine").to_pylist()]
            if low > -math.inf or high < math.inf:
                times = _times(table, contract)
                going &= np.isnan(times) | ((times >= low) & (times <= high))
            if going.any():
                self.replace(path, table.take(pa.array(np.flatnonzero(~going))))


def _times(table: "pa.Table", contract: Contract) -> NDArray[np.float64]:
    """When each row was, NaN where nobody knows: none was read, or the contract's clock was another (N,)."""
    import pyarrow as pa

    column = table.column("_time")
    if pa.types.is_timestamp(column.type) != (contract.clock == "timestamp"):
        return np.full(len(table), np.nan)
    column = column.cast(pa.int64()) if contract.clock == "timestamp" else column
    found: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return found


def _content(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content
