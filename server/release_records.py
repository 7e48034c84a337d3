"""The registry's releases: what state each is in, and what plants said of it.

Each change of state is checked against `interplant.server.records.RELEASE_MOVES` and leaves an event.
"""

from collections.abc import Collection

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from interplant.core.certificates import utc_now
from interplant.core.errors import InterplantError, UsageError
from interplant.server.database import reading, writing
from interplant.server.records import OFFERED, RELEASE_MOVES, Deployment, Release
from interplant.server.run_records import run_row
from interplant.server.store import Store, add_event, flushed, record
from interplant.server.tables import DeploymentRow, EventRow, PlantRow, ReleaseRow


class ReleaseRecords(Store):
    """Releases, and their deployments at plants."""

    def create_release(self, release_id: str, run_id: str | None, task: str, manifest_sha256: str) -> Release:
        """Record a signed release as a candidate; recorded again, it stays as it is.

        Raises:
            UsageError: There is no such run.
            InterplantError: There is another release of that name.
        """
        with writing(self._engine) as session:
            present = session.get(ReleaseRow, release_id)
            if present is not None:
                # A coordinator that was killed between signing and recording comes here again.
                if present.manifest_sha256 != manifest_sha256:
                    raise InterplantError(f"release {release_id} exists with other content")
                return record(Release, present)
            if run_id is not None:
                run_row(session, run_id)
            row = ReleaseRow(id=release_id, run=run_id, task=task, manifest_sha256=manifest_sha256)
            row.created, row.state = utc_now(), "candidate"
            session.add(row)
            add_event(session, "release.candidate", release_id, f"manifest {manifest_sha256}")
            return record(Release, flushed(session, row))

    def approve_release(self, release_id: str, text: str) -> Release:
        """Let plants be told of a candidate; ``text`` says who approved it, or what."""
        return self._move(release_id, "approved", text)

    def reject_release(self, release_id: str, text: str) -> Release:
        """Keep a release from plants for good; ``text`` says who and why."""
        return self._move(release_id, "rejected", text)

    def roll_out_release(self, release_id: str) -> Release:
        """Record that plants are told of an approved release; older ones of its task are superseded."""
        with writing(self._engine) as session:
            row = _release(session, release_id)
            _move(session, row, "rolling_out", "plants are told of it")
            older = select(ReleaseRow).where(
                ReleaseRow.task == row.task, ReleaseRow.id != row.id, ReleaseRow.created <= row.created
            )
            for other in session.scalars(older):
                if "superseded" in RELEASE_MOVES[other.state]:
                    _move(session, other, "superseded", f"by {row.id}")
            return record(Release, flushed(session, row))

    def earlier_releases(self, release_id: str) -> list[Release]:
        """Return the releases of a release's task to which one may go back from it, the newest first."""
        with reading(self._engine) as session:
            row = _release(session, release_id, lock=False)
            return [record(Release, one) for one in session.scalars(_earlier(row))]

    def roll_back_release(
        self, release_id: str, to: str | None, text: str, passed_over: Collection[str] = ()
    ) -> tuple[Release, Release | None]:
        """Take a release back that plants were told of; the one before it is offered again.

        Args:
            release_id: Which.
            to: The release to go back to; by default the latest of `earlier_releases`.
            text: Who takes it back, and why.
            passed_over: Releases to which one does not go back by default.

        Returns:
            The release, and the one that is offered instead; None if there is none to go back to.

        Raises:
            UsageError: There is no such release.
            InterplantError: It is not on offer, or ``to`` was never on offer for its task.
        """
        with writing(self._engine) as session:
            row = _release(session, release_id)
            earlier = _earlier(row).where(ReleaseRow.id.not_in(passed_over)).limit(1)
            back = _release(session, to) if to else session.scalars(earlier).first()
            if back is not None and (back.task != row.task or back.state != "superseded"):
                raise InterplantError(
                    f"release {back.id} is {back.state}, of task {back.task}; expected a superseded one of "
                    f"{row.task} to go back to"
                )
            row.back_to = back.id if back else None
            _move(session, row, "rolled_back", text)
            if back is not None:
                _move(session, back, "rolling_out", f"again: {row.id} was rolled back")
            session.flush()
            return record(Release, row), record(Release, back) if back else None

    def release(self, release_id: str) -> Release:
        """Return one release, or raise `UsageError` if there is no such release."""
        with reading(self._engine) as session:
            return record(Release, _release(session, release_id, lock=False))

    def releases(self) -> list[Release]:
        """Return all releases, the newest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.created.desc()))
            return [record(Release, row) for row in rows]

    def offered_releases(self) -> list[Release]:
        """Return the release of each task that plants are or shall be told of, by task."""
        newest: dict[str, Release] = {}
        for release in self.releases():
            if release.state in OFFERED:
                newest.setdefault(release.task, release)
        return [newest[task] for task in sorted(newest)]

    def rollbacks(self) -> list[tuple[str, str]]:
        """Return the releases that were rolled back, each with the one to go back to now, or an empty id."""
        known = {release.id: release for release in self.releases()}

        def target(release: Release) -> str:
            while release.state == "rolled_back" and release.back_to:
                release = known[release.back_to]
            return "" if release.state == "rolled_back" else release.id

        return [(one.id, target(one)) for one in known.values() if one.state == "rolled_back"]

    def record_deployment(
        self, release_id: str, plant: str, state: str, reason: str = "", score: float | None = None
    ) -> Deployment:
        """Record what a plant says of a release; the latest word stands, all are kept.

        A release that rolls out is active once every enrolled plant has answered and one says that it serves
        it.

        Args:
            release_id: The release.
            plant: The plant.
            state: Of the release there.
            reason: A code.
            score: The release's noised loss on its hold-out, if the plant has one told; in the history.
        """
        with writing(self._engine) as session:
            release = _release(session, release_id)
            if session.get(PlantRow, plant) is None:
                raise UsageError(f"no plant {plant!r} in this federation")
            row = DeploymentRow(
                release=release_id, plant=plant, state=state, reason=reason, updated=utc_now()
            )
            session.add(row)
            words = f"{release_id} {state}" + (f": {reason}" if reason else "")
            words += "" if score is None else f", score {score:.6g}"
            add_event(session, "deployment", plant, words)
            session.flush()
            if release.state == "rolling_out" and _has_arrived(session, release_id):
                _move(session, release, "active", "every enrolled plant has answered")
            return record(Deployment, row)

    def deployments(self, release_id: str | None = None) -> list[Deployment]:
        """Return each plant's latest word on one release, or on all, by release and plant."""
        latest = func.max(DeploymentRow.id)
        last = select(latest).group_by(DeploymentRow.release, DeploymentRow.plant)
        query = select(DeploymentRow).where(DeploymentRow.id.in_(last))
        return self._deployments(query.order_by(DeploymentRow.release, DeploymentRow.plant), release_id)

    def deployment_history(self, release_id: str | None = None) -> list[Deployment]:
        """Return all that plants ever said of one release, or of all, in order."""
        return self._deployments(select(DeploymentRow).order_by(DeploymentRow.id), release_id)

    def _deployments(self, query: Select[DeploymentRow], release_id: str | None) -> list[Deployment]:
        if release_id is not None:
            query = query.where(DeploymentRow.release == release_id)
        with reading(self._engine) as session:
            return [record(Deployment, row) for row in session.scalars(query)]

    def _move(self, release_id: str, state: str, text: str) -> Release:
        with writing(self._engine) as session:
            row = _release(session, release_id)
            _move(session, row, state, text)
            return record(Release, flushed(session, row))


def _release(session: Session, release_id: str, lock: bool = True) -> ReleaseRow:
    row = session.get(ReleaseRow, release_id, with_for_update=lock or None)
    if row is None:
        raise UsageError(f"no release {release_id!r}; see `interplant release list`")
    return row


def _move(session: Session, row: ReleaseRow, state: str, text: str) -> None:
    if state not in RELEASE_MOVES[row.state]:
        froms = " or ".join(one for one, moves in RELEASE_MOVES.items() if state in moves)
        raise InterplantError(f"release {row.id} is {row.state}; expected {froms} for it to be {state}")
    row.state = state
    add_event(session, f"release.{state}", row.id, text)


def _earlier(row: ReleaseRow) -> Select[ReleaseRow]:
    """The releases of the same task that plants were told of before this one, the newest first."""
    query = select(ReleaseRow).where(
        ReleaseRow.task == row.task,
        ReleaseRow.id != row.id,
        ReleaseRow.state == "superseded",
        ReleaseRow.created <= row.created,
        ReleaseRow.id.in_(select(EventRow.subject).where(EventRow.kind == "release.rolling_out")),
    )
    return query.order_by(ReleaseRow.created.desc())


def _has_arrived(session: Session, release_id: str) -> bool:
    """Whether every enrolled plant has said something of a release, and the latest word of one is active."""
    words = select(DeploymentRow).where(DeploymentRow.release == release_id).order_by(DeploymentRow.id)
    latest = {word.plant: word.state for word in session.scalars(words)}
    enrolled = set(session.scalars(select(PlantRow.name).where(PlantRow.state == "enrolled")))
    return "active" in latest.values() and enrolled <= set(latest)
