"""The plant's ledger: a durable, append-only, hash-chained record of privacy spent.

A charge is on the disk before `Ledger.reserve` returns, and noise is drawn only after it. A crash can
therefore leave a charge without noise, never noise without a charge: nothing is ever refunded.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from interplant.core.errors import Refusal
from interplant.core.files import disk_errors, sync_folder
from interplant.privacy import accounting
from interplant.privacy.accounting import Spent
from interplant.privacy.history import End, Entry, History
from interplant.privacy.plan import Charged, Event, charged_from_dict

GENESIS = "0" * 64
"""What stands before the first entry of a chain."""

WAIT_SECONDS = 60.0
"""How long a writer waits for another process's transaction."""

_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
  seq INTEGER PRIMARY KEY, body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS never_changed BEFORE UPDATE ON entries
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS never_removed BEFORE DELETE ON entries
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class Eventful(Protocol):
    """Whatever names the events that it would be charged."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What is charged."""


@dataclass(frozen=True)
class Reservation:
    """A charge that is on the disk: noise for this plan may now be drawn, once."""

    id: str
    seq: int
    run: str
    round: int
    task: str
    lineage: str
    plan: Charged


@dataclass(frozen=True)
class Caps:
    """A plant's budgets for one dataset, and what they are counted with.

    Args:
        epsilon: For all tasks together; None for no cap.
        delta: The delta of both caps.
        task: For the task that is charged; None for no cap of its own.
        unit_windows: Declared windows that no machine passes; see `accounting.spent`.
    """

    epsilon: float | None
    delta: float
    task: float | None = None
    unit_windows: int = 0


@dataclass(frozen=True)
class Head:
    """The end of a verified chain: how many entries, and the last one's hash."""

    entries: int
    hash: str


class Ledger:
    """A plant's ledger in one SQLite file. Safe to use from several processes and threads.

    Args:
        path: The file; it is made with mode 0600 if missing.

    Raises:
        Refusal: The file is damaged, is no ledger or cannot be written (``ledger``), or the disk is
            full (``disk_full``).
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._looked = False
        self._history = History()
        self._connection: sqlite3.Connection | None = None
        self._left: tuple[int, ...] = ()
        new = not self.path.exists()
        with self._errors(), disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._connected() as connection:
                if not connection.execute("PRAGMA table_list(entries)").fetchall():
                    connection.executescript(f"BEGIN IMMEDIATE; {_TABLE} COMMIT;")
                self._wrote()
                self._catch_up(connection)
            if new:
                sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; whatever is asked next opens it again, and what was read is still known."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def reserve(
        self,
        plan: Charged,
        *,
        run: str,
        round: int,
        task: str,
        lineage: str,
        caps: Caps | None = None,
    ) -> Reservation:
        """Charge one run of ``plan``, durably, before this returns.

        The same round reserved again is charged again: after a crash it draws new noise.

        Args:
            plan: What will be run.
            run: The run.
            round: The round in it.
            task: The task's name.
            lineage: Names the dataset over all its snapshots.
            caps: The budgets: if the history of ``lineage`` and this charge passes one of them, nothing is
                written.

        Raises:
            Refusal: ``budget_spent``, ``ledger`` or ``disk_full``.
        """
        where = {"run": run, "round": round, "task": task, "plan": plan.as_dict()}
        body = _body("reserve", lineage) | where
        with self._writing() as connection:
            if caps is not None:
                self._within(plan, task, lineage, caps)
            entry = self._append(connection, body)
        return Reservation(entry.id, entry.seq, run, round, task, lineage, plan)

    def require(self, plan: Eventful, *, task: str, lineage: str, caps: Caps) -> None:
        """Refuse what `reserve` would refuse now; nothing is charged and no data needs to be read.

        Raises:
            Refusal: ``budget_spent`` or ``ledger``.
        """
        with self._reading():
            self._within(plan, task, lineage, caps)

    def require_receipt(self, entries: int, head: str) -> None:
        """Refuse a ledger that does not hold what a receipt of this plant says it held.

        Args:
            entries: How many entries it had.
            head: The last one's hash.

        Raises:
            Refusal: ``ledger_behind``: a backup was restored, or the disk cloned.
        """
        with self._reading():
            if not self._history.holds(entries, head):
                raise Refusal(
                    "ledger_behind",
                    f"{self.path}: a receipt that this plant has signed names {entries} entries, the last "
                    f"{head[:12]}, which this ledger does not hold: an older copy was put back, or the disk "
                    "was cloned. `interplant privacy ledger --repair` charges what is missing",
                )

    def repair(self, end: End) -> bool:
        """Charge what a receipt says was charged and this ledger does not hold; never less.

        Charges of this ledger's own stay. See `History.missing`.

        Args:
            end: What the receipt tells.

        Returns:
            Whether anything was written; a receipt that is covered changes nothing.
        """
        with self._writing() as connection:
            if self._history.holds(end.entries, end.hash):
                return False
            for lineage, missing in sorted(self._history.missing(end).items()):
                body = _body("repair", lineage) | {
                    "covers": end.hash,
                    "missing": [asdict(event) for event in missing],
                    "account": [asdict(event) for event in end.account[lineage]],
                }
                self._append(connection, body)
            return True

    def alias(self, lineage: str, former: str) -> None:
        """Have charges under ``former`` count for ``lineage`` too, from now on; again changes nothing."""
        with self._writing() as connection:
            if not self._history.has_former(lineage, former):
                self._append(connection, _body("alias", lineage) | {"former": former})

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Answer what is asked within the block from one look at the file, taken as the block begins."""
        with self._lock:
            with self._reading():
                pass
            self._looked = True
            try:
                yield
            finally:
                self._looked = False

    def lineages(self) -> list[str]:
        """Return every name that was ever charged."""
        with self._reading():
            return self._history.lineages()

    def end(self) -> End:
        """Return the end of the chain and the account as this object has last seen them.

        All that it has charged itself is in it; what others have charged since its last look is not.
        """
        with self._lock:
            return self._history.end(GENESIS)

    def commit(self, reservation: Reservation) -> None:
        """Record that the round came to its end. It changes no figure; twice is as good as once.

        Raises:
            Refusal: ``ledger`` (this ledger does not hold the reservation) or ``disk_full``.
        """
        with self._writing() as connection:
            if reservation.id not in self._history.reserved:
                raise self._broken(f"reservation {reservation.id} is not in it")
            if reservation.id not in self._history.committed:
                body = {**asdict(reservation), "kind": "commit", "time": _now(), "plan": None}
                del body["seq"]
                self._append(connection, body)

    def entries(self) -> list[Entry]:
        """Return every entry, oldest first, the chain checked as far as it was not before."""
        with self._reading():
            return list(self._history.entries)

    def events(self, lineage: str | None = None, task: str | None = None) -> list[Event]:
        """Return every charge of ``lineage`` and ``task`` (all if None), committed or not.

        Steps of one kind are added up. Charges under former names of the lineage count too.
        """
        with self._reading():
            return self._history.events(lineage, task)

    def spent(self, lineage: str | None, delta: float, unit_windows: int = 0) -> Spent:
        """Return what the whole history of ``lineage`` (all if None) costs; see `accounting.spent`."""
        return accounting.spent(self.events(lineage), delta, unit_windows)

    def spent_after(self, plan: Charged, lineage: str | None, delta: float, unit_windows: int = 0) -> Spent:
        """Return what the history would cost if ``plan`` were run once more."""
        return accounting.spent([*self.events(lineage), *plan.events], delta, unit_windows)

    def verify(self) -> Head:
        """Check the whole chain anew.

        Raises:
            Refusal: ``ledger``, naming the first broken entry.
        """
        with self._lock:
            self.close()  # what is checked comes from the disk
            remembered, self._history = self._history, History()
        with self._reading():
            known = remembered.entries
            if self._history.entries[: len(known)] != known:
                # Go on refusing: what was remembered is the newer state.
                self._history = remembered
                raise self._broken(f"it no longer holds the {len(known)} entries it held")
            return self._head()

    def _within(self, plan: Eventful, task: str, lineage: str, caps: Caps) -> None:
        for cap, of, history in (
            (caps.epsilon, "policy.privacy.epsilon", self._history.events(lineage)),
            (caps.task, f"policy.privacy.tasks.{task}", self._history.events(lineage, task)),
        ):
            if cap is None:
                continue
            after = accounting.spent([*history, *plan.events], caps.delta, caps.unit_windows, cap)
            if not after.epsilon <= cap:
                raise Refusal(
                    "budget_spent",
                    f"this round would bring epsilon ({after.unit}, delta {caps.delta:g}) to "
                    f"{after.epsilon:.3f}, the budget is {cap:g}; raise {of} in plant.yaml, or take part "
                    "no more",
                )

    def _head(self) -> Head:
        entries = self._history.entries
        return Head(len(entries), entries[-1].hash if entries else GENESIS)

    def _append(self, connection: sqlite3.Connection, body: dict[str, Any]) -> Entry:
        head = self._head()
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        row = (head.entries + 1, text, head.hash, _digest(head.hash, text))
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        entry = self._checked(row, head)
        self._history.add(entry)
        return entry

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Read and check what other processes appended since this one last looked."""
        known = self._head()
        if known.entries:
            last = connection.execute("SELECT hash FROM entries WHERE seq = ?", (known.entries,)).fetchone()
            if last != (known.hash,):
                raise self._broken(f"entry {known.entries} is not what it was before")
        rows = connection.execute(
            "SELECT seq, body, previous, hash FROM entries WHERE seq > ? ORDER BY seq",
            (known.entries,),
        )
        for row in rows:
            self._history.add(self._checked(row, self._head()))

    def _checked(self, row: tuple[int, str, str, str], head: Head) -> Entry:
        seq, text, previous, digest = row
        expected = head.entries + 1
        if seq != expected:
            raise self._broken(f"entry {expected} is missing")
        if previous != head.hash or digest != _digest(previous, text):
            raise self._broken(f"entry {seq} was changed after it was written")
        try:
            fields = json.loads(text)
            plan = fields.pop("plan")
            for name in ("missing", "account"):
                fields[name] = tuple(Event(**one) for one in fields.get(name, ()))
            return Entry(seq=seq, hash=digest, plan=plan and charged_from_dict(plan), **fields)
        except (ValueError, TypeError, KeyError) as error:
            raise self._broken(f"entry {seq} cannot be read") from error

    def _broken(self, what: str) -> Refusal:
        return Refusal(
            "ledger",
            f"{self.path}: {what}; no more budget can be spent from it. Keep the file as evidence "
            "and restore the newest backup that holds every round this plant took part in",
        )

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Open the file, or go on where it still is as this object has left it.

        One that was put in its place, or written over, is opened anew: nothing of it is taken from memory.
        """
        found = self._stamp()
        if found != self._left:
            self.close()
        try:
            self._connection, self._left = self._connection or self._opened(), found
            yield self._connection
        except BaseException:
            self.close()
            raise

    def _opened(self) -> sqlite3.Connection:
        # Any thread may use it: whoever does holds the lock.
        connection = sqlite3.connect(
            self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # A rollback journal leaves one file to back up. EXTRA is FULL and syncs the folder too,
        # without which a power cut could bring the journal back and undo a finished charge.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
        return connection

    def _wrote(self) -> None:
        """What this object has written itself is no reason to open the file anew; another file is."""
        found = self._stamp()
        if found[:2] == self._left[:2]:
            self._left = found

    def _stamp(self) -> tuple[int, ...]:
        """What tells the file from another (the first two), and from itself after a change."""
        found = os.stat(self.path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            if not self._looked:
                with self._errors(), self._connected() as connection:
                    self._catch_up(connection)
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other process can come between; undone if anything is raised."""
        with self._lock, self._errors(), self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            known = len(self._history.entries)
            try:
                self._catch_up(connection)
                known = len(self._history.entries)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Whatever it was, Ctrl-C too: neither file nor memory keeps a half-done write.
                self._history = self._history.first(known)
                connection.rollback()
                raise
            self._wrote()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise Refusal("disk_full", f"{self.path} cannot grow; free some space") from error
            raise Refusal("ledger", f"{self.path}: {error}; {_way_out(error)}") from error


def _way_out(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, sqlite3.OperationalError | OSError):
        return "check that this user can write there and that the disk is sound, then try again"
    return "this is not a ledger, or it is damaged; restore it from the newest backup"


def _body(kind: str, lineage: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": secrets.token_hex(16),
        "time": _now(),
        "run": "",
        "round": 0,
        "task": "",
        "lineage": lineage,
        "plan": None,
    }


def _digest(previous: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
