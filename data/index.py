"""What a store's partitions hold, in SQLite beside them; lost or outdated, it is made anew from the files."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from interplant.core.contract import Contract
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sha256_file
from interplant.data.corrections import VALUE as CORRECTED
from interplant.data.hashes import State, files_in

if TYPE_CHECKING:
    import pyarrow as pa

VERSIONS: Final = b"contract"
"""Key of a partition's own metadata."""

_ASKED: Final = 500
"""Names asked for in one statement."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS part (
    name TEXT PRIMARY KEY, sha256 TEXT, size INTEGER, changed INTEGER,
    rows INTEGER, machine TEXT, first NUMERIC, last NUMERIC, labelled INTEGER, versions TEXT,
    corrected INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest_of ON part (machine, last);
CREATE TABLE IF NOT EXISTS held (hash TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS came (
    source TEXT, machine TEXT, rows INTEGER, bad INTEGER, PRIMARY KEY (source, machine)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (what TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""


class Partition(NamedTuple):
    """One machine's readings of one day.

    Args:
        name: ``DAY/MACHINE.parquet``.
        sha256: Of the file.
        size: Of the file, in bytes.
        changed: When it was, in nanoseconds.
        rows: Readings.
        machine: Whose.
        first: Time of the first reading: microseconds since 1970, or a count.
        last: Of the last.
        labelled: Readings whose label a source told.
        versions: Versions of the contract that its readings were held to as they came, ``1`` or ``1,2``;
            ``0`` where the file does not say.
        corrected: Readings whose label a person told.
    """

    name: str
    sha256: str
    size: int
    changed: int
    rows: int
    machine: str
    first: float
    last: float
    labelled: int
    versions: str
    corrected: int = 0

    @property
    def day(self) -> str:
        """The day, or the block of counts."""
        return self.name.partition("/")[0]

    @classmethod
    def of(cls, path: Path, name: str, table: "pa.Table", contract: Contract, sha256: str) -> "Partition":
        """Describe the file at ``path``, which holds ``table``."""
        import pyarrow as pa

        times = table.column(contract.time)
        times = times.cast(pa.int64()) if contract.clock == "timestamp" else times
        state = path.stat()
        machine = str(table.column(contract.machine)[0])
        ends = (times[0].as_py(), times[-1].as_py())
        known = contract.label in table.column_names
        labelled = len(table) - table.column(contract.label).null_count if known else 0
        versions = versions_of(table.schema)
        own = len(table) - table.column(CORRECTED).null_count if CORRECTED in table.column_names else 0
        size, changed = state.st_size, state.st_mtime_ns
        return cls(name, sha256, size, changed, len(table), machine, *ends, labelled, versions, own)


def versions_of(schema: "pa.Schema") -> str:
    """Return the versions of the contract that a file's readings were held to; see `Partition.versions`."""
    found: bytes = (schema.metadata or {}).get(VERSIONS, b"0")
    return found.decode()


@dataclass(frozen=True)
class Intake:
    """What a source brought of a machine since the last snapshot.

    Args:
        source: Its name.
        machine: The machine's; empty where a reading named none.
        rows: Readings that kept the contract.
        bad: Readings that went to quarantine.
    """

    source: str
    machine: str
    rows: int
    bad: int


@dataclass(frozen=True)
class Index:
    """The index of one store.

    Args:
        path: The database; made where there is none.
    """

    path: Path

    def __post_init__(self) -> None:
        with self._connected() as database:
            columns = [row[1] for row in database.execute("PRAGMA table_info(part)")]
            if columns and tuple(columns) != Partition._fields:
                database.execute("DROP TABLE part")  # another version's; it is made anew from the files
            database.executescript(_TABLES)

    def put(self, partitions: Iterable[Partition]) -> None:
        """Note what partitions hold now."""
        with self._connected() as database:
            _put(database, partitions)

    def some(self, names: Sequence[str]) -> dict[str, Partition]:
        """Return what is known of some partitions, by name."""
        found: dict[str, Partition] = {}
        with self._connected() as database:
            for first in range(0, len(names), _ASKED):
                asked = names[first : first + _ASKED]
                marks = ", ".join("?" * len(asked))
                rows = database.execute(f"SELECT * FROM part WHERE name IN ({marks})", asked)  # noqa: S608
                found |= {row[0]: Partition(*row) for row in rows}
        return found

    def known(self) -> dict[str, Partition]:
        """Return what is known of all partitions, by name, without a look at the files."""
        with self._connected() as database:
            return _all(database)

    def newest(self) -> dict[str, float]:
        """Return by machine the time of its newest reading."""
        with self._connected() as database:
            return dict(database.execute("SELECT machine, MAX(last) FROM part GROUP BY machine"))

    def partitions(self, readings: Path, contract: Contract) -> list[Partition]:
        """Return all partitions by name, as the files in ``readings`` are now."""
        with self._connected() as database:
            known = _all(database)
            files = {name: state for name, state in files_in(readings).items() if _is_partition(name)}
            stale = [name for name, state in files.items() if not _is_as_known(state, known.get(name))]
            fresh = {name: _look(readings / name, name, contract) for name in stale}
            _put(database, fresh.values())
            gone = [(name,) for name in known if name not in files]
            database.executemany("DELETE FROM part WHERE name = ?", gone)
        return [fresh.get(name) or known[name] for name in files]

    def note(self, source: str, rows: Mapping[str, int], bad: Mapping[str, int]) -> None:
        """Count what a source brought, by machine: readings that are good, and that went to quarantine."""
        with self._connected() as database:
            database.executemany(
                "INSERT INTO came VALUES (?, ?, ?, ?) ON CONFLICT (source, machine) DO UPDATE SET "
                "rows = rows + excluded.rows, bad = MAX(0, bad + excluded.bad)",
                [(source, name, rows.get(name, 0), bad.get(name, 0)) for name in rows.keys() | bad.keys()],
            )

    def intake(self) -> list[Intake]:
        """Return what was counted since it was last forgotten, by source and machine."""
        with self._connected() as database:
            return [Intake(*row) for row in database.execute("SELECT * FROM came ORDER BY source, machine")]

    def forget_intake(self, counted: Iterable[Intake]) -> None:
        """Take off what a snapshot has on record."""
        with self._connected() as database:
            database.executemany(
                "UPDATE came SET rows = rows - ?, bad = bad - ? WHERE source = ? AND machine = ?",
                [(one.rows, one.bad, one.source, one.machine) for one in counted],
            )
            database.execute("DELETE FROM came WHERE rows <= 0 AND bad <= 0")

    def note_corrections(self, number: int) -> None:
        """Count corrections of persons that changed what readings' labels are."""
        with self._connected() as database:
            database.execute(
                "INSERT INTO told VALUES ('corrections', ?1) ON CONFLICT DO UPDATE SET number = number + ?1",
                (number,),
            )

    def corrections(self) -> int:
        """Return how many were counted since they were last forgotten."""
        with self._connected() as database:
            row = database.execute("SELECT number FROM told WHERE what = 'corrections'").fetchone()
        return int(row[0]) if row else 0

    def forget_corrections(self, counted: int) -> None:
        """Take off what a snapshot has on record."""
        self.note_corrections(-counted)

    def held(self, hashes: list[str]) -> set[str]:
        """Return which of these rows, by their hashes, went to quarantine before."""
        known: set[str] = set()
        with self._connected() as database:
            for first in range(0, len(hashes), _ASKED):
                asked = hashes[first : first + _ASKED]
                marks = ", ".join("?" * len(asked))
                rows = database.execute(f"SELECT hash FROM held WHERE hash IN ({marks})", asked)  # noqa: S608
                known |= {row[0] for row in rows}
        return known

    def hold(self, hashes: Iterable[str]) -> None:
        """Note rows that went to quarantine."""
        with self._connected() as database:
            database.executemany("INSERT OR IGNORE INTO held VALUES (?)", [(one,) for one in hashes])

    def let_go(self, hashes: Iterable[str]) -> None:
        """Forget rows that leave quarantine."""
        with self._connected() as database:
            database.executemany("DELETE FROM held WHERE hash = ?", [(one,) for one in hashes])

    def forget_held(self) -> None:
        """Forget which rows went to quarantine: a hash tells of data, too."""
        with self._connected() as database:
            database.execute("DELETE FROM held")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with (
                disk_errors(self.path),
                closing(sqlite3.connect(self.path, timeout=30)) as database,
                database,
            ):
                database.execute("PRAGMA synchronous = NORMAL")
                yield database
        except sqlite3.DatabaseError as error:
            raise InterplantError(
                f"{self.path}: the store's index cannot be used: {error}; remove it, it is made anew from "
                "the readings"
            ) from None


def _all(database: sqlite3.Connection) -> dict[str, Partition]:
    return {row[0]: Partition(*row) for row in database.execute("SELECT * FROM part")}


def _put(database: sqlite3.Connection, partitions: Iterable[Partition]) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", list(partitions)
    )


def _is_partition(name: str) -> bool:
    day, _, file = name.partition("/")
    return bool(day) and file.endswith(".parquet") and not file.startswith(".") and "/" not in file


def _is_as_known(state: State, known: Partition | None) -> bool:
    size, changed, _ = state
    return known is not None and (size, changed) == (known.size, known.changed)


def _look(path: Path, name: str, contract: Contract) -> Partition:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = [contract.machine, contract.time, contract.label, CORRECTED]
        table = pq.ParquetFile(path).read(columns=names)  # a name that is not there is passed over
        return Partition.of(path, name, table, contract, sha256_file(path))
    except (pa.ArrowException, UnicodeDecodeError, OSError, KeyError, IndexError):
        raise InterplantError(
            f"{path}: expected readings with {contract.machine} and {contract.time}, found something else; "
            "restore it from a snapshot, or move it away and bring its readings again"
        ) from None
