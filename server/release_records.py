"""The registry's releases, and what became of each at each plant."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from interplant.core.certificates import utc_now
from interplant.core.errors import InterplantError
from interplant.server.database import DeploymentRow, PlantRow, ReleaseRow, reading, writing
from interplant.server.records import Deployment, Release
from interplant.server.run_records import run_row
from interplant.server.store import Store, add_event, flushed, record


class ReleaseRecords(Store):
    """Releases, and their deployments at plants."""

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
                return record(Release, present)
            if run_id is not None:
                run_row(session, run_id)
            session.add(row)
            add_event(session, "release.created", release_id, f"manifest {manifest_sha256}")
            return record(Release, flushed(session, row))

    def update_release(self, release_id: str, state: str) -> None:
        """Change a release's state."""
        with writing(self._engine) as session:
            _release(session, release_id).state = state
            add_event(session, f"release.{state}", release_id, "")

    def release(self, release_id: str) -> Release:
        """Return one release, or raise `InterplantError` if there is no such release."""
        with reading(self._engine) as session:
            return record(Release, _release(session, release_id))

    def releases(self) -> list[Release]:
        """Return all releases, the newest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(ReleaseRow).order_by(ReleaseRow.created.desc()))
            return [record(Release, row) for row in rows]

    def newest_releases(self) -> list[Release]:
        """Return the newest release of each task, by task."""
        newest: dict[str, Release] = {}
        for release in self.releases():
            newest.setdefault(release.task, release)
        return [newest[task] for task in sorted(newest)]

    def record_deployment(
        self, release_id: str, plant: str, state: str, reason: str = "", score: float | None = None
    ) -> Deployment:
        """Record what a plant says of a release; the latest word stands, history keeps all.

        Args:
            release_id: The release.
            plant: The plant.
            state: Of the release there.
            reason: A code.
            score: Noised loss on its hold-out, if the plant has one told; history keeps it.
        """
        row = DeploymentRow(release=release_id, plant=plant, state=state, reason=reason, updated=utc_now())
        with writing(self._engine) as session:
            _release(session, release_id)
            if session.get(PlantRow, plant) is None:
                raise InterplantError(f"no plant {plant!r} in this federation")
            words = f"{release_id} {state}" + (f": {reason}" if reason else "")
            words += "" if score is None else f", score {score:.6g}"
            add_event(session, "deployment", plant, words)
            return record(Deployment, flushed(session, session.merge(row)))

    def deployments(self, release_id: str | None = None) -> list[Deployment]:
        """Return the deployments of one release, or of all, by release and plant."""
        query = select(DeploymentRow).order_by(DeploymentRow.release, DeploymentRow.plant)
        if release_id is not None:
            query = query.where(DeploymentRow.release == release_id)
        with reading(self._engine) as session:
            return [record(Deployment, row) for row in session.scalars(query)]


def _release(session: Session, release_id: str) -> ReleaseRow:
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise InterplantError(f"no release {release_id!r}; see `interplant release list`")
    return row
