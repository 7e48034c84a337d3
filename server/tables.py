"""The tables of the registry.

A change here needs a step in `interplant.server.migrations` and a higher `SCHEMA_VERSION`.
"""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import DDL, JSON, BigInteger, DateTime, Dialect, ForeignKey, Integer, TypeDecorator, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION: Final = 2
"""Raised with every change of the tables below."""

HISTORY: Final = ("events", "deployments")
"""Tables whose rows are added and never changed; the database itself sees to it."""


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone: SQLite keeps none, so UTC goes in and comes out."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store as UTC without zone."""
        return value.astimezone(UTC).replace(tzinfo=None) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return as UTC with zone."""
        return value.replace(tzinfo=UTC) if value else None


class Base(DeclarativeBase):
    """What all tables share: how Python types are stored."""

    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it as a plain dict
        datetime: UtcTime,
        dict[str, Any]: JSON,
        dict[str, float]: JSON,
        list[str]: JSON,
        list[dict[str, str]]: JSON,
    }


class SchemaRow(Base):
    """One row: which version of Interplant's tables this is."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class PlantRow(Base):
    """A plant that is or was enrolled."""

    __tablename__ = "plants"
    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    node_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    enrolled_at: Mapped[datetime]
    last_seen: Mapped[datetime | None]
    protocol: Mapped[str | None]


class CertificateRow(Base):
    """A certificate that a plant may show; a revoked plant has none."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(primary_key=True)
    plant: Mapped[str] = mapped_column(ForeignKey("plants.name"), index=True)
    expires: Mapped[datetime]


class InvitationRow(Base):
    """A join file. ``key`` and ``certificate`` say who used it and what they got for it."""

    __tablename__ = "invitations"
    serial: Mapped[str] = mapped_column(primary_key=True)
    plant: Mapped[str] = mapped_column(index=True)
    created: Mapped[datetime]
    expires: Mapped[datetime]
    used_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    key: Mapped[str | None]
    certificate: Mapped[str | None]


class TaskRow(Base):
    """A task as a run once had it; ``digest`` is `interplant.core.release.task_digest`."""

    __tablename__ = "tasks"
    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    contract: Mapped[str]
    content: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class RunRow(Base):
    """One federated training."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    task_name: Mapped[str]
    task_digest: Mapped[str | None] = mapped_column(ForeignKey("tasks.digest"))
    config: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    round: Mapped[int]
    rounds: Mapped[int]
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    reason: Mapped[str]
    kept: Mapped[TaskRow] = relationship()

    @property
    def task(self) -> dict[str, Any]:
        """The whole task, as plain JSON values."""
        return self.kept.content


class RoundRow(Base):
    """One attempt at one round."""

    __tablename__ = "rounds"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    participants: Mapped[list[str]]
    dropped: Mapped[list[dict[str, str]]]
    seconds: Mapped[dict[str, float]]
    recorded: Mapped[datetime]


class ReleaseRow(Base):
    """A signed model version."""

    __tablename__ = "releases"
    id: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    task: Mapped[str]
    manifest_sha256: Mapped[str]
    created: Mapped[datetime]
    state: Mapped[str]
    back_to: Mapped[str | None]
    """The release that a rollback leads to, if there was one to go back to."""


_COUNTED = BigInteger().with_variant(Integer, "sqlite")
"""Numbers that the database gives: SQLite counts only plain integers by itself."""


class DeploymentRow(Base):
    """What a plant said of a release. Rows are added, never changed."""

    __tablename__ = "deployments"
    id: Mapped[int] = mapped_column(_COUNTED, primary_key=True, autoincrement=True)
    release: Mapped[str] = mapped_column(ForeignKey("releases.id"), index=True)
    plant: Mapped[str] = mapped_column(ForeignKey("plants.name"))
    state: Mapped[str]
    reason: Mapped[str]
    updated: Mapped[datetime]


class EventRow(Base):
    """History. Rows are added, never changed."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(_COUNTED, primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


def history_rules(table: str, dialect: str) -> list[str]:
    """Return the statements that make a database refuse to change or remove a table's rows.

    Args:
        table: One of `HISTORY`.
        dialect: ``sqlite`` or ``postgresql``.
    """
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} are never changed'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    refuse = (
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} are never changed'; END $$"
    )
    rule = "CREATE TRIGGER {0}_no_{1} BEFORE {2} ON {0} FOR EACH STATEMENT EXECUTE FUNCTION {0}_refuse()"
    return [
        refuse,
        rule.format(table, "change", "UPDATE OR DELETE"),
        rule.format(table, "truncate", "TRUNCATE"),
    ]


for _table in HISTORY:
    for _dialect in ("sqlite", "postgresql"):
        for _rule in history_rules(_table, _dialect):
            _ddl = DDL(_rule).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
            event.listen(Base.metadata.tables[_table], "after_create", _ddl)
