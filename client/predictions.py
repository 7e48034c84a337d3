"""The plant's log of predictions: what was answered, by which release, and the label where one came.

Labels that the plant's store is still to take stand in a table of their own until they are carried there.

A bounded SQLite file in the plant's directory. Monitoring, trials and late labels read and join it;
numbers in it are numbers about data, which stay in the plant.
"""

import json
import math
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from time import time as now
from typing import Any, Final, Self

from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors

WAIT_SECONDS: Final = 10.0
"""How long one process waits for another's transaction."""

_COLUMNS: Final = (
    "id, time, release, machine, at, prediction, challenger, challenger_prediction, drifting, label"
    ", labelled_at"
)
_CORRECTION: Final = "prediction, release, machine, at, clock, label, value, horizon, told"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS predictions (
  row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, release TEXT NOT NULL,
  machine TEXT, at REAL, prediction TEXT NOT NULL, challenger TEXT, challenger_prediction TEXT,
  drifting INTEGER NOT NULL, label TEXT, labelled_at REAL
) STRICT;
CREATE TABLE IF NOT EXISTS corrections (
  row INTEGER PRIMARY KEY AUTOINCREMENT, prediction TEXT NOT NULL UNIQUE, release TEXT NOT NULL,
  machine TEXT NOT NULL, at REAL NOT NULL, clock TEXT NOT NULL, label TEXT NOT NULL, value REAL NOT NULL,
  horizon REAL NOT NULL, told REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_time ON predictions (time);
CREATE INDEX IF NOT EXISTS by_label ON predictions (labelled_at) WHERE label IS NOT NULL;
"""
_LABELLED: Final = """
UPDATE predictions SET label = ?1, labelled_at = CASE WHEN label IS ?1 THEN labelled_at
  ELSE max(?2, coalesce((SELECT max(labelled_at) FROM predictions WHERE label IS NOT NULL) + 1e-6, 0)) END
WHERE id = ?3
"""

Label = float | str


@dataclass(frozen=True)
class Prediction:
    """One window's prediction.

    Args:
        id: Unguessable: whoever has it was answered with it, and may label it.
        time: When it was answered, in seconds since 1970 (UTC).
        release: Which release answered.
        prediction: In the target's units: one number, or the score of each class.
        machine: As the caller named it, or None.
        at: Time of the window's last reading, in the contract's time (seconds since 1970 for timestamps), or
            None where the caller did not say.
        challenger: Release that answered beside it without being heard, or None.
        challenger_prediction: What that said.
        drifting: Whether the plant's inputs were drifting.
        label: What turned out to be true; None until it is known.
        labelled_at: When that was told, in seconds since 1970 (UTC).
        row: Number in the log, increasing; 0 before it is there.
    """

    id: str
    time: float
    release: str
    prediction: tuple[float, ...]
    machine: str | None = None
    at: float | None = None
    challenger: str | None = None
    challenger_prediction: tuple[float, ...] | None = None
    drifting: bool = False
    label: Label | None = None
    labelled_at: float | None = None
    row: int = 0


@dataclass(frozen=True)
class Correction:
    """A label that is still to be carried into the plant's store; see `interplant.client.feedback`.

    Args:
        prediction: The id.
        release: Which release answered.
        machine: As the store names it.
        at: Time of the window's last reading, as of a `Prediction`.
        clock: The contract's.
        label: Column that the value is of.
        value: What it is.
        horizon: How far after ``at`` it speaks of, in the contract's time; 0: of that reading alone.
        told: When it was told, in seconds since 1970 (UTC); noted with it.
        row: Number, increasing; 0 before it is noted.
    """

    prediction: str
    release: str
    machine: str
    at: float
    clock: str
    label: str
    value: float
    horizon: float
    told: float = 0.0
    row: int = 0


def new_id() -> str:
    """Return a prediction's id: 128 bits from the operating system, as 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Predictions:
    """The log in one SQLite file; safe to use from several processes and threads.

    What is added is safe from a killed process once `add` has returned, a label also from a power cut.

    Args:
        path: The file; made with mode 0600 if missing.
        keep: Predictions kept; the oldest go first.

    Raises:
        InterplantError: The file is damaged, is no log, or cannot be written.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self._lock = threading.Lock()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._file = os.fstat(descriptor).st_ino
            os.close(descriptor)
        with self._errors():
            self._database = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            except BaseException:
                self._database.close()
                raise

    @classmethod
    def open(cls, plant: PlantDirectory) -> Self:
        """Open a plant's log, made if missing.

        Args:
            plant: Its ``plant.yaml`` says how many predictions are kept (``serving.keep``).
        """
        return cls(plant.predictions, plant.load().serving.keep)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Append predictions in one transaction, and drop the oldest beyond what is kept."""
        rows = [_row(one) for one in predictions]
        if not rows:
            return
        with self._transaction() as database:
            database.executemany(
                f"INSERT INTO predictions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                rows,
            )
            database.execute(
                "DELETE FROM predictions WHERE row <= (SELECT max(row) FROM predictions) - ?", (self.keep,)
            )

    def label(self, prediction: str, value: Label, correction: Correction | None = None) -> bool:
        """Note what turned out to be true of a prediction; a later word replaces an earlier one.

        The same word again changes nothing. Labels are in the order of their times, each with another, also
        where the clock is put back.

        Args:
            prediction: Its id.
            value: The label, in the label's own units or words.
            correction: The same as the plant's store takes it; None if it does not. Noted together with it.

        Returns:
            Whether there is such a prediction; it may have left the log.

        Raises:
            InterplantError: The value is no finite number and no text.
        """
        text = _label(value)
        with self._transaction("FULL") as database:
            told = now()
            changed = database.execute(_LABELLED, (text, told, prediction))
            database.execute("DELETE FROM corrections WHERE prediction = ?", (prediction,))
            if correction is not None and changed.rowcount:
                values = astuple(replace(correction, told=told))[:-1]
                database.execute(
                    f"INSERT INTO corrections ({_CORRECTION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                    values,
                )
                database.execute(
                    "DELETE FROM corrections WHERE row <= (SELECT max(row) FROM corrections) - ?",
                    (self.keep,),
                )
            return changed.rowcount == 1

    def corrections(self) -> list[Correction]:
        """Return what is still to be carried into the plant's store, in the order in which it came."""
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {_CORRECTION}, row FROM corrections ORDER BY row"  # noqa: S608 our own words
            ).fetchall()
        return [Correction(*row) for row in rows]

    def carried(self, corrections: Iterable[Correction]) -> None:
        """Forget corrections that the store has on disk."""
        with self._transaction("FULL") as database:
            database.executemany("DELETE FROM corrections WHERE row = ?", [(one.row,) for one in corrections])

    def find(self, prediction: str) -> Prediction | None:
        """Return the prediction of an id."""
        found = self._select("WHERE id = ?", (prediction,))
        return found[0] if found else None

    def since(self, row: int = 0, limit: int = 1000) -> list[Prediction]:
        """Return at most ``limit`` predictions after a row, the oldest first; 0 begins at the first kept."""
        return self._select("WHERE row > ? ORDER BY row LIMIT ?", (row, limit))

    def row_before(self, time: float) -> int:
        """Return the last row answered before a time (seconds since 1970), or 0: where `since` begins."""
        with self._reading() as database:
            row = database.execute(
                "SELECT row FROM predictions WHERE time < ? ORDER BY time DESC, row DESC LIMIT 1", (time,)
            ).fetchone()
        return int(row[0]) if row else 0

    def labelled(
        self, release: str | None = None, since: float = 0.0, limit: int = 100_000
    ) -> list[Prediction]:
        """Return predictions whose label is known, in the order in which labels came.

        Args:
            release: Only of this release.
            since: Only labels that came at this time (seconds since 1970) or later.
            limit: At most so many.
        """
        return self._select(
            "WHERE label IS NOT NULL AND labelled_at >= ? AND (? IS NULL OR release = ?) "
            "ORDER BY labelled_at, row LIMIT ?",
            (since, release, release, limit),
        )

    def erase(self, machine: str | None, first: float | None, last: float | None) -> int:
        """Remove predictions for good; one that may be meant, as its caller did not say, goes too.

        Args:
            machine: Whose; None: of all machines.
            first: The earliest time of a window's last reading; None: from the beginning.
            last: The latest; None: to the end.

        Returns:
            How many went.

        Raises:
            InterplantError: Somebody who reads the file keeps what went in its log; erasing again removes it.
        """
        with self._transaction("FULL") as database:
            database.execute("PRAGMA secure_delete = ON")
            gone = database.execute(
                "DELETE FROM predictions WHERE (?1 IS NULL OR machine IS NULL OR machine = ?1) "
                "AND (?2 IS NULL OR at IS NULL OR at >= ?2) AND (?3 IS NULL OR at IS NULL OR at <= ?3)",
                (machine, first, last),
            ).rowcount
            database.execute(
                "DELETE FROM corrections WHERE (?1 IS NULL OR machine = ?1) "
                "AND (?2 IS NULL OR at >= ?2) AND (?3 IS NULL OR at <= ?3)",
                (machine, first, last),
            )
        with self._reading() as database:
            busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise InterplantError(
                f"{self.path}: another process reads it and keeps what was erased in {self.path.name}-wal; "
                "let it end, then erase again"
            )
        return gone

    def count(self) -> int:
        """Return how many predictions are kept now."""
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM predictions").fetchone()[0])

    @property
    def is_gone(self) -> bool:
        """Whether the file was moved away, or another lies in its place: nobody finds what is added."""
        try:
            return self.path.stat().st_ino != self._file
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self.is_gone:
                # SQLite would leave what is not in the file yet, to be lost or taken for another's.
                with suppress(sqlite3.Error):
                    self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, where: str, values: Sequence[Any]) -> list[Prediction]:
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {_COLUMNS}, row FROM predictions {where}",  # noqa: S608 our own words
                values,
            ).fetchall()
        return [_prediction(row) for row in rows]

    @contextmanager
    def _transaction(self, synchronous: str = "NORMAL") -> Iterator[sqlite3.Connection]:
        with self._reading() as database:
            database.execute(f"PRAGMA synchronous = {synchronous}")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            yield self._database

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InterplantError(
                f"{self.path}: the prediction log cannot be used: {error}; free disk space if there is none, "
                "or move the file away, and a new one is made"
            ) from error


def _row(one: Prediction) -> tuple[Any, ...]:
    said, label = one.challenger_prediction, one.label
    return (
        one.id,
        one.time,
        one.release,
        one.machine,
        one.at,
        json.dumps(one.prediction),
        one.challenger,
        None if said is None else json.dumps(said),
        int(one.drifting),
        None if label is None else _label(label),
        one.labelled_at,
    )


def _prediction(row: Sequence[Any]) -> Prediction:
    said, label = row[7], row[9]
    return Prediction(
        id=row[0],
        time=row[1],
        release=row[2],
        machine=row[3],
        at=row[4],
        prediction=tuple(json.loads(row[5])),
        challenger=row[6],
        challenger_prediction=None if said is None else tuple(json.loads(said)),
        drifting=bool(row[8]),
        label=None if label is None else json.loads(label),
        labelled_at=row[10],
        row=row[11],
    )


def is_finite(value: float) -> bool:
    """Tell whether a number is finite, also as a float: a whole number of 400 digits is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _label(value: Label) -> str:
    text = isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)
    if not (text or number):
        raise InterplantError(f"label: expected a finite number or text, found {value!r}")
    return json.dumps(value)
