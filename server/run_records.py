"""The registry's runs and their rounds."""

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from interplant.core import config
from interplant.core.certificates import utc_now
from interplant.core.errors import InterplantError, UsageError
from interplant.server.database import reading, writing
from interplant.server.records import RUN_ENDS, RUN_STATES, CatalogueTask, Dropped, Round, Run
from interplant.server.store import Store, add_event, flushed, record
from interplant.server.tables import RoundRow, RunRow, TaskRow


class RunRecords(Store):
    """Runs, and the attempts at each of their rounds."""

    def create_run(
        self,
        task_name: str,
        task: Mapping[str, Any],
        rounds: int,
        settings: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Queue a run.

        Args:
            task_name: Name of the task.
            task: The whole task as plain JSON values.
            rounds: How many rounds it shall have.
            settings: What the run was started with beside the task.
            run_id: By default one made of the time and chance, fit for a folder's name.
        """
        now = utc_now()
        row = RunRow(
            id=run_id or _new_id(now),
            task_name=task_name,
            task_digest=hashlib.sha256(config.text_of(dict(task)).encode()).hexdigest(),
            config=dict(settings or {}),
            state="queued",
            round=0,
            rounds=rounds,
            created=now,
            reason="",
        )
        with writing(self._engine) as session:
            _catalogue(session, row, dict(task))
            session.add(row)
            add_event(session, "run.queued", row.id, f"task {task_name}, {rounds} rounds")
            return record(Run, flushed(session, row))

    def update_run(
        self,
        run_id: str,
        state: str | None = None,
        round: int | None = None,
        reason: str | None = None,
        expected: Collection[str] = (),
    ) -> Run:
        """Change a run; what is None stays as it is.

        ``started`` is set when it first runs, ``finished`` when it ends, and taken back on resuming.

        Args:
            run_id: Which run.
            state: One of `RUN_STATES`.
            round: Last finished round.
            reason: One sentence; a new state without a reason clears the old one.
            expected: States in which the change is allowed, checked in the same transaction; any
                by default.

        Raises:
            UsageError: No such run.
            InterplantError: It is in another state than expected.
        """
        with writing(self._engine) as session:
            row = run_row(session, run_id)
            if expected and row.state not in expected:
                raise InterplantError(
                    f"run {run_id} is {row.state}; expected {' or '.join(sorted(expected))}"
                )
            if round is not None:
                row.round = round
            if state is not None:
                _change_state(session, row, state, reason or "")
            if reason is not None:
                row.reason = reason
            return record(Run, flushed(session, row))

    def claim_run(self) -> Run | None:
        """Take the oldest queued run and mark it running; None if there is none. One taker wins."""
        with writing(self._engine) as session:
            oldest = select(RunRow).where(RunRow.state == "queued").order_by(RunRow.created)
            row = session.scalars(oldest.limit(1).with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            _change_state(session, row, "running", "")
            return record(Run, flushed(session, row))

    def run(self, run_id: str) -> Run:
        """Return one run, or raise `UsageError` if there is no such run."""
        with reading(self._engine) as session:
            return record(Run, run_row(session, run_id))

    def find_run(self, run_id: str) -> Run | None:
        """Return one run, or None if there is no such run."""
        with reading(self._engine) as session:
            row = session.get(RunRow, run_id)
            return record(Run, row) if row else None

    def runs(self, states: Collection[str] = ()) -> list[Run]:
        """Return the runs in the given states (all by default), the newest first."""
        query = select(RunRow).order_by(RunRow.created.desc())
        if states:
            query = query.where(RunRow.state.in_(states))
        with reading(self._engine) as session:
            return [record(Run, row) for row in session.scalars(query)]

    def tasks(self) -> list[CatalogueTask]:
        """Return every task that a run ever had, by name, the newest of a name first."""
        query = select(TaskRow).order_by(TaskRow.name, TaskRow.created.desc())
        with reading(self._engine) as session:
            return [record(CatalogueTask, row) for row in session.scalars(query)]

    def record_round(
        self,
        run_id: str,
        round: int,
        attempt: int,
        participants: Sequence[str],
        *,
        dropped: Sequence[Dropped] = (),
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Record one attempt at a round; recording it again replaces it."""
        row = RoundRow(
            run=run_id,
            round=round,
            attempt=attempt,
            participants=list(participants),
            dropped=[asdict(one) for one in dropped],
            seconds=dict(seconds or {}),
            recorded=utc_now(),
        )
        with writing(self._engine) as session:
            run_row(session, run_id)
            session.merge(row)

    def rounds(self, run_id: str) -> list[Round]:
        """Return all attempts at all rounds of a run, in order."""
        query = select(RoundRow).where(RoundRow.run == run_id)
        with reading(self._engine) as session:
            rows = session.scalars(query.order_by(RoundRow.round, RoundRow.attempt))
            return [_round(row) for row in rows]


def _catalogue(session: Session, run: RunRow, task: dict[str, Any]) -> None:
    """Keep a task once, however many runs have it."""
    assert run.task_digest is not None
    if session.get(TaskRow, run.task_digest) is None:
        contract = str(task.get("contract", {}).get("version", ""))
        values = {"contract": contract, "content": task, "created": run.created}
        session.add(TaskRow(digest=run.task_digest, name=run.task_name, **values))
        session.flush()


def _round(row: RoundRow) -> Round:
    return Round(
        row.run,
        row.round,
        row.attempt,
        tuple(row.participants),
        tuple(Dropped(**one) for one in row.dropped),
        row.seconds,
        row.recorded,
    )


def _new_id(now: datetime) -> str:
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_row(session: Session, run_id: str) -> RunRow:
    """Return a run's row, or raise `UsageError` if there is no such run."""
    row = session.get(RunRow, run_id)
    if row is None:
        raise UsageError(f"no run {run_id!r}; see `interplant run list`")
    return row


def _change_state(session: Session, row: RunRow, state: str, reason: str) -> None:
    if state not in RUN_STATES:
        raise InterplantError(f"expected a state of {', '.join(RUN_STATES)}, found {state!r}")
    if state != row.state:
        add_event(session, f"run.{state}", row.id, reason)
    now = utc_now()
    row.state, row.reason = state, reason
    if state == "running":
        row.started = row.started or now
    row.finished = now if state in RUN_ENDS else None
