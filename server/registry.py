"""The coordinator's memory: plants, invitations, runs, rounds, releases and history.

Several processes use one database at once; each method is one transaction. What comes back are
plain frozen values of `interplant.server.records`.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from interplant.core.certificates import readable, utc_now
from interplant.core.errors import InterplantError
from interplant.server.database import (
    Base,
    CertificateRow,
    DeploymentRow,
    EventRow,
    InvitationRow,
    PlantRow,
    ReleaseRow,
    RoundRow,
    RunRow,
    connect,
    reading,
    resolve,
    writing,
)
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import (
    RUN_ENDS,
    RUN_STATES,
    Deployment,
    Dropped,
    Event,
    Invitation,
    Issued,
    Plant,
    Release,
    Round,
    Run,
    node_id,
)

__all__ = [
    "RUN_ENDS",
    "RUN_STATES",
    "Deployment",
    "Dropped",
    "Event",
    "Invitation",
    "Issued",
    "Plant",
    "Registry",
    "Release",
    "Round",
    "Run",
    "node_id",
]

T = TypeVar("T", Deployment, Event, Invitation, Plant, Release, Run)


class Registry:
    """An open registry; safe to share between threads, and between processes by opening it in each.

    Args:
        engine: See `Registry.open`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, where: CoordinatorDirectory | Path | str) -> "Registry":
        """Open the registry of a coordinator directory, or the one at a database URL.

        Raises:
            UsageError: The directory is none, or its ``federation.yaml`` is wrong.
            InterplantError: The database is missing, unreachable or of a newer version.
        """
        if isinstance(where, str) and "://" in where:
            return cls(connect(resolve(where, Path.cwd())))
        directory = where if isinstance(where, CoordinatorDirectory) else CoordinatorDirectory(Path(where))
        return cls(connect(resolve(directory.load().database, directory.path)))

    @classmethod
    def create(cls, url: str, directory: Path) -> "Registry":
        """Make an empty registry; a relative SQLite path counts from ``directory``."""
        return cls(connect(resolve(url, directory), create=True))

    def close(self) -> None:
        """Let go of the database's connections and files."""
        self._engine.dispose()

    # --- plants and their certificates -------------------------------------------------------------

    def plants(self) -> list[Plant]:
        """Return all plants by name, revoked ones too."""
        with reading(self._engine) as session:
            rows = session.scalars(select(PlantRow).order_by(PlantRow.name))
            return [_record(Plant, row) for row in rows]

    def plant(self, name: str) -> Plant | None:
        """Return one plant, or None if no such plant has ever enrolled."""
        with reading(self._engine) as session:
            row = session.get(PlantRow, name)
            return _record(Plant, row) if row else None

    def invite(self, name: str, serial: str, expires: datetime) -> Invitation:
        """Record a join file; earlier, unused ones for the same plant are withdrawn.

        Raises:
            InterplantError: The plant is enrolled already.
        """
        now = utc_now()
        with writing(self._engine) as session:
            _refuse_enrolled(session, name)
            _withdraw(session, name, now)
            row = InvitationRow(serial=serial, plant=name, created=now, expires=expires)
            session.add(row)
            _add_event(session, "plant.invited", name, f"join file until {readable(expires)}")
            return _record(Invitation, _flushed(session, row))

    def invitation(self, serial: str) -> Invitation:
        """Return the invitation of a bootstrap certificate.

        Raises:
            InterplantError: This coordinator has not written such a join file.
        """
        with reading(self._engine) as session:
            return _record(Invitation, _invitation(session, serial))

    def invitations(self) -> list[Invitation]:
        """Return all invitations, the newest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(InvitationRow).order_by(InvitationRow.created.desc()))
            return [_record(Invitation, row) for row in rows]

    def use_invitation(self, serial: str, issued: Issued, now: datetime | None = None) -> str:
        """Use an invitation up and enrol its plant, both or neither.

        A plant that lost the answer asks again with the same key and gets the same certificate; to
        anybody else a used invitation is worth nothing.

        Args:
            serial: Serial of the bootstrap certificate.
            issued: The certificate to hand out if the invitation is good.
            now: By default the clock.

        Returns:
            The plant's certificate as PEM: of ``issued``, or of the first call with the same key.

        Raises:
            InterplantError: It is unknown, expired, withdrawn or used, or the plant is enrolled.
        """
        now = now or utc_now()
        with writing(self._engine) as session:
            row = _invitation(session, serial)
            if row.used_at is not None:
                return _answer_again(session, row, issued.key, now)
            if row.withdrawn_at is not None or now >= row.expires:
                raise InterplantError(_why_useless(row))
            _refuse_enrolled(session, row.plant)
            # The condition decides between two that come at once on any database.
            changed = session.execute(
                update(InvitationRow)
                .where(InvitationRow.serial == serial, InvitationRow.used_at.is_(None))
                .values(used_at=now, key=issued.key, certificate=issued.pem)
            )
            if _count(changed) != 1:
                raise InterplantError(_why_useless(row))
            _enrol(session, row.plant, issued, now)
            return issued.pem

    def enrol(self, name: str, issued: Issued) -> Plant:
        """Enrol a plant without an invitation.

        Raises:
            InterplantError: It is enrolled already.
        """
        with writing(self._engine) as session:
            _refuse_enrolled(session, name)
            return _record(Plant, _enrol(session, name, issued, utc_now()))

    def add_certificate(self, name: str, issued: Issued) -> None:
        """Record a renewed certificate; the one before stays good until it expires.

        Raises:
            InterplantError: The plant is not enrolled, or was revoked meanwhile.
        """
        with writing(self._engine) as session:
            row = session.get(PlantRow, name)
            if row is None or row.state != "enrolled":
                raise InterplantError(f"plant {name!r} is not enrolled in this federation")
            _add_certificate(session, name, issued, utc_now())
            _add_event(session, "plant.renewed", name, f"until {readable(issued.expires)}")

    def revoke(self, name: str, reason: str = "") -> None:
        """Refuse all certificates and join files of a plant from now on; again does no harm.

        Raises:
            InterplantError: No plant of that name was ever invited or enrolled.
        """
        with writing(self._engine) as session:
            row = session.get(PlantRow, name)
            withdrawn = _withdraw(session, name, utc_now())
            if row is None and not withdrawn:
                raise InterplantError(
                    f"no plant {name!r} in this federation; see `interplant coordinator status`"
                )
            if row is not None:
                row.state = "revoked"
                session.execute(delete(CertificateRow).where(CertificateRow.plant == name))
            _add_event(session, "plant.revoked", name, reason)

    def is_allowed(self, name: str, serial: str, now: datetime | None = None) -> bool:
        """Tell whether a plant may speak under the certificate with this serial, at this moment."""
        query = (
            select(CertificateRow.serial)
            .join(PlantRow, PlantRow.name == CertificateRow.plant)
            .where(CertificateRow.serial == serial, PlantRow.name == name)
            .where(PlantRow.state == "enrolled", CertificateRow.expires > (now or utc_now()))
        )
        with reading(self._engine) as session:
            return session.scalar(query) is not None

    def seen(self, name: str, protocol: str | None = None) -> None:
        """Record that a plant was heard of just now, and which protocol version it speaks."""
        values: dict[str, Any] = {"last_seen": utc_now()}
        if protocol is not None:
            values["protocol"] = protocol
        with writing(self._engine) as session:
            session.execute(update(PlantRow).where(PlantRow.name == name).values(**values))

    # --- runs --------------------------------------------------------------------------------------

    def create_run(
        self,
        task_name: str,
        task: Mapping[str, Any],
        rounds: int,
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Queue a run.

        Args:
            task_name: Name of the task.
            task: The whole task as plain JSON values.
            rounds: How many rounds it shall have.
            config: What the run was started with beside the task.
            run_id: By default one made of the time and chance, fit for a folder's name.
        """
        now = utc_now()
        row = RunRow(
            id=run_id or _new_id(now),
            task_name=task_name,
            task=dict(task),
            config=dict(config or {}),
            state="queued",
            round=0,
            rounds=rounds,
            created=now,
            reason="",
        )
        with writing(self._engine) as session:
            session.add(row)
            _add_event(session, "run.queued", row.id, f"task {task_name}, {rounds} rounds")
            return _record(Run, _flushed(session, row))

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
            InterplantError: No such run, or it is in another state than expected.
        """
        with writing(self._engine) as session:
            row = _run(session, run_id)
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
            return _record(Run, _flushed(session, row))

    def claim_run(self) -> Run | None:
        """Take the oldest queued run and mark it running; None if there is none. One taker wins."""
        with writing(self._engine) as session:
            oldest = select(RunRow).where(RunRow.state == "queued").order_by(RunRow.created)
            row = session.scalars(oldest.limit(1).with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            _change_state(session, row, "running", "")
            return _record(Run, _flushed(session, row))

    def run(self, run_id: str) -> Run:
        """Return one run, or raise `InterplantError` if there is no such run."""
        with reading(self._engine) as session:
            return _record(Run, _run(session, run_id))

    def find_run(self, run_id: str) -> Run | None:
        """Return one run, or None if there is no such run."""
        with reading(self._engine) as session:
            row = session.get(RunRow, run_id)
            return _record(Run, row) if row else None

    def runs(self, states: Collection[str] = ()) -> list[Run]:
        """Return the runs in the given states (all by default), the newest first."""
        query = select(RunRow).order_by(RunRow.created.desc())
        if states:
            query = query.where(RunRow.state.in_(states))
        with reading(self._engine) as session:
            return [_record(Run, row) for row in session.scalars(query)]

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
            _run(session, run_id)
            session.merge(row)

    def rounds(self, run_id: str) -> list[Round]:
        """Return all attempts at all rounds of a run, in order."""
        query = select(RoundRow).where(RoundRow.run == run_id)
        with reading(self._engine) as session:
            rows = session.scalars(query.order_by(RoundRow.round, RoundRow.attempt))
            return [_round(row) for row in rows]

    # --- releases ----------------------------------------------------------------------------------

    def create_release(
        self,
        release_id: str,
        run_id: str | None,
        task: str,
        manifest_sha256: str,
        state: str = "ready",
    ) -> Release:
        """Record a signed release.

        Raises:
            InterplantError: There is another release of that name, or no such run.
        """
        row = ReleaseRow(
            id=release_id,
            run=run_id,
            task=task,
            manifest_sha256=manifest_sha256,
            created=utc_now(),
            state=state,
        )
        with writing(self._engine) as session:
            present = session.get(ReleaseRow, release_id)
            if present is not None:
                # A coordinator that was killed between signing and recording comes here again.
                if present.manifest_sha256 != manifest_sha256:
                    raise InterplantError(f"release {release_id} exists with other content")
                return _record(Release, present)
            if run_id is not None:
                _run(session, run_id)
            session.add(row)
            _add_event(session, "release.created", release_id, f"manifest {manifest_sha256}")
            return _record(Release, _flushed(session, row))

    def update_release(self, release_id: str, state: str) -> None:
        """Change a release's state."""
        with writing(self._engine) as session:
            _release(session, release_id).state = state
            _add_event(session, f"release.{state}", release_id, "")

    def release(self, release_id: str) -> Release:
        """Return one release, or raise `InterplantError` if there is no such release."""
        with reading(self._engine) as session:
            return _record(Release, _release(session, release_id))

    def releases(self) -> list[Release]:
        """Return all releases, the newest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.created.desc()))
            return [_record(Release, row) for row in rows]

    def newest_releases(self) -> list[Release]:
        """Return the newest release of each task, by task."""
        newest: dict[str, Release] = {}
        for release in self.releases():
            newest.setdefault(release.task, release)
        return [newest[task] for task in sorted(newest)]

    def record_deployment(self, release_id: str, plant: str, state: str, reason: str = "") -> Deployment:
        """Record what a plant says of a release; the latest word stands, history keeps all."""
        row = DeploymentRow(release=release_id, plant=plant, state=state, reason=reason, updated=utc_now())
        with writing(self._engine) as session:
            _release(session, release_id)
            if session.get(PlantRow, plant) is None:
                raise InterplantError(f"no plant {plant!r} in this federation")
            words = f"{release_id} {state}" + (f": {reason}" if reason else "")
            _add_event(session, "deployment", plant, words)
            return _record(Deployment, _flushed(session, session.merge(row)))

    def deployments(self, release_id: str | None = None) -> list[Deployment]:
        """Return the deployments of one release, or of all, by release and plant."""
        query = select(DeploymentRow).order_by(DeploymentRow.release, DeploymentRow.plant)
        if release_id is not None:
            query = query.where(DeploymentRow.release == release_id)
        with reading(self._engine) as session:
            return [_record(Deployment, row) for row in session.scalars(query)]

    # --- history -----------------------------------------------------------------------------------

    def add_event(self, kind: str, subject: str, text: str = "") -> Event:
        """Add one line to the history."""
        with writing(self._engine) as session:
            return _record(Event, _flushed(session, _add_event(session, kind, subject, text)))

    def events(self, subject: str | None = None, limit: int = 100) -> list[Event]:
        """Return the latest lines of the history, the newest first."""
        query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(EventRow.subject == subject)
        with reading(self._engine) as session:
            return [_record(Event, row) for row in session.scalars(query)]


def _record(kind: type[T], row: Base) -> T:
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


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


Row = TypeVar("Row", bound=Base)


def _flushed(session: Session, row: Row) -> Row:
    session.flush()
    return row


def _count(result: Any) -> int:
    assert isinstance(result, CursorResult)
    return result.rowcount


def _new_id(now: datetime) -> str:
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _add_event(session: Session, kind: str, subject: str, text: str) -> EventRow:
    row = EventRow(time=utc_now(), kind=kind, subject=subject, text=text)
    session.add(row)
    return row


def _refuse_enrolled(session: Session, name: str) -> None:
    row = session.get(PlantRow, name)
    if row is not None and row.state == "enrolled":
        raise InterplantError(
            f"plant {name!r} is enrolled already; to enrol it anew, first run "
            f"`interplant coordinator revoke {name}`"
        )


def _enrol(session: Session, name: str, issued: Issued, now: datetime) -> PlantRow:
    row = session.get(PlantRow, name)
    if row is None:
        row = PlantRow(name=name, node_id=node_id(name), state="enrolled", enrolled_at=now)
        session.add(row)
    row.state, row.enrolled_at = "enrolled", now
    session.flush()
    _add_certificate(session, name, issued, now)
    _add_event(session, "plant.enrolled", name, "")
    return row


def _add_certificate(session: Session, name: str, issued: Issued, now: datetime) -> None:
    old = (CertificateRow.plant == name) & (CertificateRow.expires <= now)
    session.execute(delete(CertificateRow).where(old))
    session.add(CertificateRow(serial=issued.serial, plant=name, expires=issued.expires))


def _withdraw(session: Session, name: str, now: datetime) -> int:
    open_ones = update(InvitationRow).where(
        InvitationRow.plant == name,
        InvitationRow.used_at.is_(None),
        InvitationRow.withdrawn_at.is_(None),
    )
    return _count(session.execute(open_ones.values(withdrawn_at=now)))


def _invitation(session: Session, serial: str) -> InvitationRow:
    row = session.get(InvitationRow, serial)
    if row is None:
        raise InterplantError("this coordinator has not written this join file; check the address")
    return row


def _answer_again(session: Session, row: InvitationRow, key: str, now: datetime) -> str:
    plant = session.get(PlantRow, row.plant)
    same = row.key is not None and secrets.compare_digest(row.key, key)
    good = plant is not None and plant.state == "enrolled" and now < row.expires
    if not (same and good) or row.certificate is None:
        raise InterplantError(_why_useless(row))
    return row.certificate


def _why_useless(row: InvitationRow) -> str:
    remedy = f"ask for a new one (`interplant coordinator enrol {row.plant}`)"
    if row.withdrawn_at is not None:
        return f"the join file for {row.plant} was withdrawn; {remedy}"
    if row.used_at is not None:
        return f"the join file for {row.plant} was used on {readable(row.used_at)}; {remedy}"
    return f"the join file for {row.plant} expired on {readable(row.expires)}; {remedy}"


def _run(session: Session, run_id: str) -> RunRow:
    row = session.get(RunRow, run_id)
    if row is None:
        raise InterplantError(f"no run {run_id!r}; see `interplant run list`")
    return row


def _release(session: Session, release_id: str) -> ReleaseRow:
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise InterplantError(f"no release {release_id!r}; see `interplant release list`")
    return row


def _change_state(session: Session, row: RunRow, state: str, reason: str) -> None:
    if state not in RUN_STATES:
        raise InterplantError(f"expected a state of {', '.join(RUN_STATES)}, found {state!r}")
    if state != row.state:
        _add_event(session, f"run.{state}", row.id, reason)
    now = utc_now()
    row.state, row.reason = state, reason
    if state == "running":
        row.started = row.started or now
    row.finished = now if state in RUN_ENDS else None
