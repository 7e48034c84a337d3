"""Labels that wait for the reading that they are about: in SQLite beside the store's partitions.

A label may come before its reading, from a table of labels or from a person who corrects a prediction, and
stays here until the reading is there. What is put here is on disk before anybody is told so, and it is there
once, however often it comes.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS late (
    number INTEGER PRIMARY KEY AUTOINCREMENT, part TEXT, looked TEXT, machine TEXT, time NUMERIC, label TEXT,
    value REAL, origin TEXT, source TEXT, horizon REAL, told REAL, prediction TEXT,
    UNIQUE (machine, time, label, value, told, prediction)
);
CREATE INDEX IF NOT EXISTS by_part ON late (part, number);
"""
_COLUMNS: Final = "machine, time, label, value, origin, source, horizon, told, prediction"


class Late(NamedTuple):
    """A label that came without its reading.

    Args:
        machine: Whose.
        time: Of the reading: microseconds since 1970, or a count.
        column: The label's, or one that tells it.
        value: What it is.
        origin: Where it was found.
        source: The source's name; empty of a correction that has not joined its reading before.
        horizon: Of a correction: how far after the reading it speaks of; 0: of the reading alone.
        told: Of a correction: when it was said, in seconds since 1970 (UTC).
        prediction: Of a correction: id of the prediction; else empty.
    """

    machine: str
    time: float
    column: str
    value: float
    origin: str
    source: str
    horizon: float = 0.0
    told: float = 0.0
    prediction: str = ""


@dataclass(frozen=True)
class Waiting:
    """The labels that wait in one store.

    Args:
        path: The database; made with the first label.
    """

    path: Path

    def put(self, labels: Iterable[tuple[str, Late]]) -> None:
        """Keep labels, each with the name of its reading's partition; on disk when this returns."""
        rows = [(part, *one) for part, one in labels]
        if rows:
            with self._connected() as database:
                database.executemany(
                    f"INSERT OR IGNORE INTO late (part, {_COLUMNS}) "  # noqa: S608 our own words
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def parts(self) -> list[str]:
        """Return the names of the partitions for whose readings labels wait."""
        if not self.path.exists():
            return []
        with self._connected() as database:
            return [row[0] for row in database.execute("SELECT DISTINCT part FROM late")]

    def unseen(self, partitions: dict[str, str]) -> Iterator[tuple[str, list[tuple[int, Late]]]]:
        """Yield the labels of each partition that was not looked at for all of them, in their order.

        Args:
            partitions: SHA-256 of those that are there, by name.
        """
        if not self.path.exists():
            return
        with self._connected() as database:
            asked = database.execute("SELECT DISTINCT part, looked FROM late ORDER BY part").fetchall()
        for name, states in groupby(asked, lambda row: row[0]):
            if name not in partitions or {state for _, state in states} == {partitions[name]}:
                continue
            with self._connected() as database:
                rows = database.execute(
                    f"SELECT number, {_COLUMNS} FROM late WHERE part = ? ORDER BY number",  # noqa: S608
                    (name,),
                ).fetchall()
            yield name, [(row[0], Late(*row[1:])) for row in rows]

    def looked(self, part: str, sha256: str, done: Iterable[int]) -> None:
        """Forget labels that have joined, and note that a partition has no readings for the others."""
        with self._connected() as database:
            database.executemany("DELETE FROM late WHERE number = ?", [(one,) for one in done])
            database.execute("UPDATE late SET looked = ? WHERE part = ?", (sha256, part))

    def erase(self, machine: str | None, low: float, high: float) -> None:
        """Remove the labels of a machine (None: of all) and of a time, both ends included, for good."""
        if self.path.exists():
            with self._connected() as database:
                database.execute(
                    "DELETE FROM late WHERE (?1 IS NULL OR machine = ?1) AND time >= ?2 AND time <= ?3",
                    (machine, low, high),
                )

    def count(self) -> int:
        """Return how many labels wait."""
        if not self.path.exists():
            return 0
        with self._connected() as database:
            return int(database.execute("SELECT count(*) FROM late").fetchone()[0])

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with disk_errors(self.path), closing(sqlite3.connect(self.path, timeout=30)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA secure_delete = ON")
                database.executescript(_TABLES)
                with database:
                    yield database
        except sqlite3.DatabaseError as error:
            raise InterplantError(
                f"{self.path}: the labels that wait cannot be used: {error}; free disk space if there is "
                "none, or move the file away: what waits in it is then lost"
            ) from None
