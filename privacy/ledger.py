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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interplant.core.errors import Refusal
from interplant.core.files import disk_errors, sync_folder
from interplant.privacy import accounting
from interplant.privacy.accounting import Spent
from interplant.privacy.plan import Event, Plan

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


@dataclass(frozen=True)
class Reservation:
    """A charge that is on the disk: noise for this plan may now be drawn, once."""

    id: str
    seq: int
    run: str
    round: int
    task: str
    lineage: str
    plan: Plan


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Args:
        seq: Position, from 1.
        kind: ``reserve`` (this is what is charged), ``commit`` (the round came to its end), ``repair``
            (what an older copy of the ledger lacked) or ``alias``.
        id: The reservation's random name; a commit repeats it.
        time: The plant's clock when it was written, for people; it decides nothing.
        run: The run.
        round: The round.
        task: The task.
        lineage: The dataset's lineage, the same over all its snapshots.
        plan: What a round is charged; None elsewhere.
        hash: SHA-256 over the entry before and this one.
        missing: What a repair charges: (unit, q, noise, steps).
        covers: Head of the receipt that a repair makes good; empty elsewhere.
        account: All that this receipt says was ever charged to the lineage.
        former: Another name of the lineage, whose charges count for it too (an ``alias``); empty elsewhere.
    """

    seq: int
    kind: str
    id: str
    time: str
    run: str
    round: int
    task: str
    lineage: str
    plan: Plan | None
    hash: str
    missing: tuple[Event, ...] = ()
    covers: str = ""
    account: tuple[Event, ...] = ()
    former: str = ""

    @property
    def events(self) -> tuple[Event, ...]:
        """What this entry charges."""
        return self.plan.events if self.plan else self.missing


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


Kinds = dict[tuple[str, float, float], int]
"""Steps charged, by (unit, q, noise)."""

TRAIL = (*range(1, 33), *(2**power for power in range(6, 24)))
"""How far before its end a ledger shows its hashes in a receipt, so that a copy finds where it parted."""

SHOWN = 16
"""Digits of each hash that are shown there."""


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
        self._lock = threading.Lock()
        self._clear()
        new = not self.path.exists()
        with self._errors(), disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._connected() as connection:
                if not connection.execute("PRAGMA table_list(entries)").fetchall():
                    connection.executescript(f"BEGIN IMMEDIATE; {_TABLE} COMMIT;")
                self._catch_up(connection)
            if new:
                sync_folder(self.path.parent)

    def reserve(
        self,
        plan: Plan,
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
        body = {
            "kind": "reserve",
            "id": secrets.token_hex(16),
            "time": _now(),
            "run": run,
            "round": round,
            "task": task,
            "lineage": lineage,
            "plan": plan.as_dict(),
        }
        with self._writing() as connection:
            if caps is not None:
                self._within(plan, task, lineage, caps)
            entry = self._append(connection, body)
        return Reservation(entry.id, entry.seq, run, round, task, lineage, plan)

    def require(self, plan: Plan, *, task: str, lineage: str, caps: Caps) -> None:
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
            if not self._holds(entries, head):
                raise Refusal(
                    "ledger_behind",
                    f"{self.path}: a receipt that this plant has signed names {entries} entries, the last "
                    f"{head[:12]}, which this ledger does not hold: an older copy was put back, or the disk "
                    "was cloned. `interplant privacy ledger --repair` charges what is missing",
                )

    def repair(
        self, entries: int, head: str, account: Mapping[str, Iterable[Event]], trail: str = ""
    ) -> bool:
        """Charge what a receipt says was charged and this ledger does not hold; never less.

        A copy may have charges of its own since it parted from the ledger that signed. So what is missing
        is counted from the last entry that both are known to hold, and own charges after it stay.

        Args:
            entries: How many entries the ledger had when the receipt was signed.
            head: The last one's hash.
            account: All charges until then, by lineage.
            trail: From `trail`, then. Without it nothing is known to be held by both.

        Returns:
            Whether anything was written; a receipt that is covered changes nothing.
        """
        with self._writing() as connection:
            if self._holds(entries, head):
                return False
            before = self._common(entries, trail)
            for lineage, events in sorted(account.items()):
                everything = list(events)
                body = {
                    "kind": "repair",
                    "id": secrets.token_hex(16),
                    "time": _now(),
                    "run": "",
                    "round": 0,
                    "task": "",
                    "lineage": lineage,
                    "plan": None,
                    "missing": [asdict(event) for event in _beyond(everything, before.get(lineage, {}))],
                    "covers": head,
                    "account": [asdict(event) for event in everything],
                }
                self._append(connection, body)
            return True

    def alias(self, lineage: str, former: str) -> None:
        """Have the charges under ``former`` count for ``lineage`` too, from now on; twice is as good as once."""
        with self._writing() as connection:
            if former != lineage and former not in self._former.get(lineage, ()):
                body = {
                    "kind": "alias",
                    "id": secrets.token_hex(16),
                    "time": _now(),
                    "run": "",
                    "round": 0,
                    "task": "",
                    "lineage": lineage,
                    "plan": None,
                    "former": former,
                }
                self._append(connection, body)

    def lineages(self) -> list[str]:
        """Return every name that was ever charged."""
        with self._reading():
            return sorted({lineage for lineage, _ in self._totals})

    def trail(self) -> str:
        """Return the first digits of the hashes at `TRAIL` before the end, the nearest first."""
        with self._reading():
            end = len(self._read)
            return " ".join(self._read[end - back - 1].hash[:SHOWN] for back in TRAIL if back < end)

    def account(self) -> dict[str, list[Event]]:
        """Return all charges by lineage, steps of one kind added up."""
        with self._reading():
            lineages = sorted({lineage for lineage, _ in self._totals})
            return {lineage: _listed(self._kinds({lineage})) for lineage in lineages}

    def head(self) -> Head:
        """Return the end of the chain."""
        with self._reading():
            return self._head()

    def commit(self, reservation: Reservation) -> None:
        """Record that the round came to its end. It changes no figure; twice is as good as once.

        Raises:
            Refusal: ``ledger`` (this ledger does not hold the reservation) or ``disk_full``.
        """
        with self._writing() as connection:
            if reservation.id not in self._reserved:
                raise self._broken(f"reservation {reservation.id} is not in it")
            if reservation.id not in self._committed:
                body = {**asdict(reservation), "kind": "commit", "time": _now(), "plan": None}
                del body["seq"]
                self._append(connection, body)

    def entries(self) -> list[Entry]:
        """Return every entry, oldest first, the chain checked as far as it was not before."""
        with self._reading():
            return list(self._read)

    def events(self, lineage: str | None = None, task: str | None = None) -> list[Event]:
        """Return every charge of ``lineage`` and ``task`` (all if None), committed or not.

        Steps of one kind are added up. Charges under former names of the lineage count too.
        """
        with self._reading():
            return self._events(lineage, task)

    def spent(self, lineage: str | None, delta: float, unit_windows: int = 0) -> Spent:
        """Return what the whole history of ``lineage`` (all if None) costs; see `accounting.spent`."""
        return accounting.spent(self.events(lineage), delta, unit_windows)

    def spent_after(self, plan: Plan, lineage: str | None, delta: float, unit_windows: int = 0) -> Spent:
        """Return what the history would cost if ``plan`` were run once more."""
        return accounting.spent([*self.events(lineage), *plan.events], delta, unit_windows)

    def verify(self) -> Head:
        """Check the whole chain anew.

        Raises:
            Refusal: ``ledger``, naming the first broken entry.
        """
        with self._lock:
            remembered = self._read
            self._forget(0)
        with self._reading():
            same = self._read[: len(remembered)] == remembered
            if not same:
                # Go on refusing: what was remembered is the newer state.
                self._forget(0)
                for entry in remembered:
                    self._remember(entry)
                raise self._broken(f"it no longer holds the {len(remembered)} entries it held")
            return self._head()

    def _within(self, plan: Plan, task: str, lineage: str, caps: Caps) -> None:
        for cap, of, history in (
            (caps.epsilon, "policy.privacy.epsilon", self._events(lineage)),
            (caps.task, f"policy.privacy.tasks.{task}", self._events(lineage, task)),
        ):
            if cap is None:
                continue
            after = accounting.spent([*history, *plan.events], caps.delta, caps.unit_windows)
            if not after.epsilon <= cap:
                raise Refusal(
                    "budget_spent",
                    f"this round would bring epsilon ({after.unit}, delta {caps.delta:g}) to "
                    f"{after.epsilon:.3f}, the budget is {cap:g}; raise {of} in plant.yaml, or take part "
                    "no more",
                )

    def _events(self, lineage: str | None, task: str | None = None) -> list[Event]:
        if lineage is None:
            names = {name for name, _ in self._totals}
        else:
            names = {lineage, *self._former.get(lineage, ())}
        return _listed(self._kinds(names, task))

    def _kinds(self, lineages: set[str], task: str | None = None) -> Kinds:
        found: Kinds = {}
        for (where, what), kinds in self._totals.items():
            # What a repair charges may have been any task's.
            if where in lineages and (task is None or what in (task, "")):
                for key, steps in kinds.items():
                    found[key] = found.get(key, 0) + steps
        return found

    def _holds(self, entries: int, head: str) -> bool:
        if entries == 0 or head in self._covered:
            return True
        return entries <= len(self._read) and self._read[entries - 1].hash == head

    def _common(self, entries: int, trail: str) -> dict[str, Kinds]:
        """What was charged, by lineage, up to the last entry that this ledger and a trail both name."""
        covered = {head[:SHOWN]: accounts for head, accounts in self._covered.items()}
        for back, shown in zip(TRAIL, trail.split(), strict=False):
            place = entries - back
            if shown in covered:
                return covered[shown]
            if 0 < place <= len(self._read) and self._read[place - 1].hash[:SHOWN] == shown:
                found: dict[str, Kinds] = {}
                for entry in self._read[:place]:
                    _add(found.setdefault(entry.lineage, {}), entry.events)
                return found
        return {}

    def _remember(self, entry: Entry) -> None:
        self._read.append(entry)
        if entry.kind == "reserve":
            self._reserved.add(entry.id)
        elif entry.kind == "commit":
            self._committed.add(entry.id)
        elif entry.kind == "repair":
            _add(self._covered.setdefault(entry.covers, {}).setdefault(entry.lineage, {}), entry.account)
        elif entry.kind == "alias":
            self._former.setdefault(entry.lineage, set()).add(entry.former)
        if entry.events:
            _add(self._totals.setdefault((entry.lineage, entry.task), {}), entry.events)

    def _forget(self, known: int) -> None:
        """Keep only the first ``known`` entries in memory."""
        kept = self._read[:known]
        if len(kept) < len(self._read):
            self._clear()
            for entry in kept:
                self._remember(entry)

    def _clear(self) -> None:
        self._read: list[Entry] = []
        self._reserved: set[str] = set()
        self._committed: set[str] = set()
        self._totals: dict[tuple[str, str], Kinds] = {}
        self._covered: dict[str, dict[str, Kinds]] = {}
        self._former: dict[str, set[str]] = {}

    def _head(self) -> Head:
        return Head(len(self._read), self._read[-1].hash if self._read else GENESIS)

    def _append(self, connection: sqlite3.Connection, body: dict[str, Any]) -> Entry:
        head = self._head()
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        row = (head.entries + 1, text, head.hash, _digest(head.hash, text))
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        entry = self._checked(row, head)
        self._remember(entry)
        return entry

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Read and check what other processes appended since this one last looked."""
        known = self._head()
        if self._read:
            last = connection.execute("SELECT hash FROM entries WHERE seq = ?", (known.entries,)).fetchone()
            if last != (known.hash,):
                raise self._broken(f"entry {known.entries} is not what it was before")
        rows = connection.execute(
            "SELECT seq, body, previous, hash FROM entries WHERE seq > ? ORDER BY seq",
            (known.entries,),
        )
        for row in rows:
            self._remember(self._checked(row, self._head()))

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
            return Entry(seq=seq, hash=digest, plan=plan and Plan.from_dict(plan), **fields)
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
        with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
            # A rollback journal leaves one file to back up. EXTRA is FULL and syncs the folder too,
            # without which a power cut could bring the journal back and undo a finished charge.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._errors(), self._connected() as connection:
            self._catch_up(connection)
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other process can come between; undone if anything is raised."""
        with self._lock, self._errors(), self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            known = len(self._read)
            try:
                self._catch_up(connection)
                known = len(self._read)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Whatever it was, Ctrl-C too: neither file nor memory keeps a half-done write.
                self._forget(known)
                connection.rollback()
                raise

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


def _add(kinds: Kinds, events: Iterable[Event]) -> None:
    for one in events:
        key = (one.unit, one.q, one.noise)
        kinds[key] = kinds.get(key, 0) + one.steps


def _listed(kinds: Kinds) -> list[Event]:
    return [Event(*key, steps) for key, steps in sorted(kinds.items())]


def _beyond(events: Iterable[Event], before: Kinds) -> list[Event]:
    """What of ``events`` is not in ``before``."""
    gaps = (replace(one, steps=one.steps - before.get((one.unit, one.q, one.noise), 0)) for one in events)
    return [gap for gap in gaps if gap.steps > 0]


def _digest(previous: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
