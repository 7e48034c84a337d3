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
CREATE TABLE IF NOT EXISTS held (
    hash TEXT PRIMARY KEY, source TEXT, machine TEXT, number INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_since ON held (source, machine, number) WHERE number > 0;
CREATE TABLE IF NOT EXISTS came (
    source TEXT, machine TEXT, rows INTEGER, PRIMARY KEY (source, machine)
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
        rows: Readings that kept the contract and were not there before.
        bad: Rows that went to quarantine and are still there.
        last: The newest of the numbers that `Held` has of these.
    """

    source: str
    machine: str
    rows: int
    bad: int
    last: int = 0


class Held(NamedTuple):
    """A row that is in quarantine.

    Args:
        hash: What it is told by.
        source: Whose it is.
        machine: The machine's; empty where it names none.
        number: Grows with each batch that goes to quarantine; 0: a snapshot has the row on record.
    """

    hash: str
    source: str
    machine: str
    number: int = 0


_FIELDS: Final = {
    "part": Partition._fields,
    "held": Held._fields,
    "came": ("source", "machine", "rows"),
}
"""Columns of the tables that are made anew where they have others."""


@dataclass(frozen=True)
class Index:
    """The index of one store.

    Args:
        path: The database; made where there is none.
    """

    path: Path

    def __post_init__(self) -> None:
        with self._connected() as database:
            for name, fields in _FIELDS.items():
                columns = tuple(row[1] for row in database.execute(f"PRAGMA table_info({name})"))
                if columns and columns != fields:
                    database.execute(f"DROP TABLE {name}")  # another version's
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

    def note(self, source: str, rows: Mapping[str, int]) -> None:
        """Count the readings that a source brought, by machine; less than 0 of what turned out to be none."""
        with self._connected() as database:
            database.executemany(
                "INSERT INTO came VALUES (?, ?, ?) ON CONFLICT (source, machine) DO UPDATE SET "
                "rows = rows + excluded.rows",
                [(source, name, count) for name, count in rows.items()],
            )

    def intake(self) -> list[Intake]:
        """Return what was counted since it was last forgotten, by source and machine."""
        with self._connected() as database:
            found = database.execute(
                "SELECT source, machine, SUM(rows), SUM(bad), MAX(last) FROM ("
                "SELECT source, machine, rows, 0 AS bad, 0 AS last FROM came UNION ALL "
                "SELECT source, machine, 0, COUNT(*), MAX(number) FROM held WHERE number > 0 "
                "GROUP BY source, machine) GROUP BY source, machine HAVING SUM(rows) <> 0 OR SUM(bad) > 0 "
                "ORDER BY source, machine"
            )
            return [Intake(*row) for row in found]

    def forget_intake(self, counted: Iterable[Intake]) -> None:
        """Take off what a snapshot has on record."""
        counted = list(counted)
        with self._connected() as database:
            database.executemany(
                "UPDATE came SET rows = rows - ? WHERE source = ? AND machine = ?",
                [(one.rows, one.source, one.machine) for one in counted],
            )
            database.execute("DELETE FROM came WHERE rows = 0")
            database.executemany(
                "UPDATE held SET number = 0 WHERE source = ? AND machine = ? AND number > 0 AND number <= ?",
                [(one.source, one.machine, one.last) for one in counted],
            )

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

    def held(self, hashes: list[str]) -> dict[str, int]:
        """Return the numbers of those of these rows that are in quarantine, by hash; see `Held`."""
        known: dict[str, int] = {}
        with self._connected() as database:
            for first in range(0, len(hashes), _ASKED):
                asked = hashes[first : first + _ASKED]
                marks = ", ".join("?" * len(asked))
                rows = database.execute(f"SELECT hash, number FROM held WHERE hash IN ({marks})", asked)  # noqa: S608
                known |= dict(rows)
        return known

    def hold(self, rows: Iterable[Held]) -> None:
        """Note a batch of rows that went to quarantine, under a number of its own."""
        with self._connected() as database:
            database.execute(
                "INSERT INTO told VALUES ('held', 1) ON CONFLICT DO UPDATE SET number = number + 1"
            )
            ((number,),) = database.execute("SELECT number FROM told WHERE what = 'held'")
            _hold(database, (one._replace(number=number) for one in rows))

    def swap(self, hashes: Iterable[str], staying: Iterable[Held]) -> None:
        """Note that rows left quarantine, but for some that stay, as they are now."""
        with self._connected() as database:
            database.executemany("DELETE FROM held WHERE hash = ?", [(one,) for one in hashes])
            _hold(database, staying)

    def keep_held(self, hashes: Iterable[str]) -> None:
        """Forget all rows in quarantine but these: a hash tells of data, too."""
        with self._connected() as database:
            database.execute("PRAGMA secure_delete = ON")
            database.execute("CREATE TEMP TABLE kept (hash TEXT PRIMARY KEY)")
            database.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((one,) for one in hashes))
            database.execute("DELETE FROM held WHERE hash NOT IN (SELECT hash FROM kept)")

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


def _hold(database: sqlite3.Connection, rows: Iterable[Held]) -> None:
    database.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?)", rows)


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
