"""Readings that broke the contract: kept as they came, each with its reason, until they are released.

One Parquet file a batch, all columns as text, behind the reasons that `interplant.data.reasons.mark` wrote.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interplant.core.contract import Contract
from interplant.core.files import disk_errors, write_atomic
from interplant.data import parsing

if TYPE_CHECKING:
    import pyarrow as pa


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

    def tables(self) -> Iterator[tuple[Path, "pa.Table"]]:
        """Yield each batch, the oldest first."""
        import pyarrow.parquet as pq

        for path in sorted(self.path.glob("*.parquet")):
            yield path, pq.ParquetFile(path).read()

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

    def erase(self, contract: Contract, machine: str | None, low: float, high: float) -> None:
        """Remove a machine's rows, or a period's; a row whose machine or time cannot be read goes too.

        Args:
            contract: Names the columns.
            machine: Whose; None: of all.
            low: The earliest time, microseconds since 1970 or a count.
            high: The latest.
        """
        import pyarrow as pa

        for path, table in list(self.tables()):
            going = np.ones(len(table), np.bool_)
            if machine is not None and contract.machine in table.column_names:
                own, unknown = parsing.names(table.column(contract.machine))
                going &= np.array([name == machine for name in own.to_pylist()], np.bool_) | unknown
            if (low > -math.inf or high < math.inf) and contract.time in table.column_names:
                when = parsing.times(table.column(contract.time), contract)
                unread = when.missing | when.wrong | when.shifted
                going &= unread | ((when.values >= low) & (when.values <= high))
            if going.any():
                left = table.take(pa.array(np.flatnonzero(~going)))
                self.put(left)
                path.unlink()

    def release(self, again: "Callable[[pa.Table], pa.Table]") -> int:
        """Try every batch anew; what still breaks the contract stays.

        Args:
            again: Takes rows of one source and origin as they are here, keeps what is good now, and returns
                what is to stay. Done twice after a kill, it must do no harm.

        Returns:
            How many readings were released.
        """
        released = 0
        for path, table in list(self.tables()):
            staying = again(table)
            released += len(table) - len(staying)
            if len(staying) < len(table):
                self.put(staying)
                path.unlink()
        return released


def _content(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content
