"""Small batches of readings on their way into a store: written down at once, moved to partitions together."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.core.contract import Contract
from interplant.core.files import write_atomic
from interplant.data.index import VERSIONS, versions_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Bundle:
    """Readings on their way, from where, and the version of the contract that they were held to.

    Without a source nobody counts them.
    """

    table: "pa.Table"
    origin: str
    version: str
    source: str = ""


@dataclass(frozen=True)
class Incoming:
    """What waits to be moved.

    Args:
        path: Its folder.
        contract: The store's.
    """

    path: Path
    contract: Contract
    _rows: dict[str, int] = field(default_factory=dict)

    def put(self, table: "pa.Table", origin: str, source: str = "") -> int:
        """Write readings down; return how many this process has put here since they were moved last."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"{max((int(path.stem) for path in self.files()), default=0) + 1:012d}.parquet"
        own = {
            "origin": origin.encode(),
            "source": source.encode(),
            VERSIONS: str(self.contract.version).encode(),
        }
        marked = table.replace_schema_metadata(own)
        buffer = pa.BufferOutputStream()
        pq.write_table(marked, buffer, compression="lz4", use_dictionary=[self.contract.machine])
        write_atomic(self.path / name, buffer.getvalue().to_pybytes())
        self._rows[name] = len(table)
        return sum(self._rows.values())

    def files(self) -> list[Path]:
        """Return the files that wait, the oldest first."""
        return sorted(path for path in self.path.glob("*.parquet") if path.stem.isdigit())

    def rows(self) -> int:
        """Return how many readings wait."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.files())

    def read(self, path: Path) -> Bundle:
        """Read what `put` has written."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        own = table.schema.metadata or {}
        origin, source = (own.get(name, b"").decode() for name in (b"origin", b"source"))
        return Bundle(table, origin, versions_of(table.schema), source)

    def moved(self) -> None:
        """Nothing waits any more."""
        self._rows.clear()
