"""The registry's plants: who is enrolled, under which certificates, and who was invited."""

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from interplant.core.certificates import readable, utc_now
from interplant.core.errors import InterplantError, UsageError
from interplant.server.database import reading, writing
from interplant.server.records import Invitation, Issued, Plant, node_id
from interplant.server.store import Store, add_event, count, flushed, record
from interplant.server.tables import CertificateRow, InvitationRow, PlantRow


class Enrolments(Store):
    """Plants, their certificates and their join files."""

    def plants(self) -> list[Plant]:
        """Return all plants by name, revoked ones too."""
        with reading(self._engine) as session:
            rows = session.scalars(select(PlantRow).order_by(PlantRow.name))
            return [record(Plant, row) for row in rows]

    def plant(self, name: str) -> Plant | None:
        """Return one plant, or None if no such plant has ever enrolled."""
        with reading(self._engine) as session:
            row = session.get(PlantRow, name)
            return record(Plant, row) if row else None

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
            add_event(session, "plant.invited", name, f"join file until {readable(expires)}")
            return record(Invitation, flushed(session, row))

    def invitation(self, serial: str) -> Invitation:
        """Return the invitation of a bootstrap certificate.

        Raises:
            InterplantError: This coordinator has not written such a join file.
        """
        with reading(self._engine) as session:
            return record(Invitation, _invitation(session, serial))

    def invitations(self) -> list[Invitation]:
        """Return all invitations, the newest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(InvitationRow).order_by(InvitationRow.created.desc()))
            return [record(Invitation, row) for row in rows]

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
            # Of two that come at once the second waits here, and finds what the first has done.
            row = _invitation(session, serial, alone=True)
            if row.used_at is not None:
                return _answer_again(session, row, issued.key, now)
            if row.withdrawn_at is not None or now >= row.expires:
                raise InterplantError(_why_useless(row))
            _refuse_enrolled(session, row.plant)
            row.used_at, row.key, row.certificate = now, issued.key, issued.pem
            _enrol(session, row.plant, issued, now)
            return issued.pem

    def enrol(self, name: str, issued: Issued) -> Plant:
        """Enrol a plant without an invitation.

        Raises:
            InterplantError: It is enrolled already.
        """
        with writing(self._engine) as session:
            _refuse_enrolled(session, name)
            return record(Plant, _enrol(session, name, issued, utc_now()))

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
            add_event(session, "plant.renewed", name, f"until {readable(issued.expires)}")

    def revoke(self, name: str, reason: str = "") -> None:
        """Refuse all certificates and join files of a plant from now on; again does no harm.

        Raises:
            UsageError: No plant of that name was ever invited or enrolled.
        """
        with writing(self._engine) as session:
            row = session.get(PlantRow, name)
            withdrawn = _withdraw(session, name, utc_now())
            if row is None and not withdrawn:
                raise UsageError(f"no plant {name!r} in this federation; see `interplant coordinator status`")
            if row is not None:
                row.state = "revoked"
                session.execute(delete(CertificateRow).where(CertificateRow.plant == name))
            add_event(session, "plant.revoked", name, reason)

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
    add_event(session, "plant.enrolled", name, "")
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
    return count(session.execute(open_ones.values(withdrawn_at=now)))


def _invitation(session: Session, serial: str, alone: bool = False) -> InvitationRow:
    row = session.get(InvitationRow, serial, with_for_update=alone)
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
