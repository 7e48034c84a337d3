"""The tables of the registry, and how a database is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Integer,
    TypeDecorator,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from interplant.core.errors import InterplantError, UsageError

SCHEMA_VERSION: Final = 1
"""Raised with every change of the tables below."""

BUSY_SECONDS: Final = 15.0
"""How long a process waits for another one's write."""


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


class RunRow(Base):
    """One federated training."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    task_name: Mapped[str]
    task: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    round: Mapped[int]
    rounds: Mapped[int]
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    reason: Mapped[str]


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


class DeploymentRow(Base):
    """What became of a release at a plant."""

    __tablename__ = "deployments"
    release: Mapped[str] = mapped_column(ForeignKey("releases.id"), primary_key=True)
    plant: Mapped[str] = mapped_column(ForeignKey("plants.name"), primary_key=True)
    state: Mapped[str]
    reason: Mapped[str]
    updated: Mapped[datetime]


class EventRow(Base):
    """History. Rows are added, never changed."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    time: Mapped[datetime]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


for verb in ("UPDATE", "DELETE"):
    event.listen(
        EventRow.__table__,
        "after_create",
        DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
        ).execute_if(dialect="sqlite"),
    )


def resolve(url: str, directory: Path) -> URL:
    """Read a database URL; a relative SQLite path counts from ``directory``."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError(f"database: expected a URL such as sqlite:///registry.db, found {url!r}") from None
    if parsed.get_backend_name() != "sqlite":
        return parsed
    if parsed.database in (None, "", ":memory:"):
        raise UsageError("database: expected a file, because several processes share the registry")
    return parsed.set(database=str(directory / str(parsed.database)))


def connect(url: URL, create: bool = False) -> Engine:
    """Open a database.

    Args:
        url: See `resolve`.
        create: Make the tables. An SQLite file that is missing is otherwise an error: an empty
            registry in its place would forget every plant. A server database is filled when empty.

    Raises:
        InterplantError: It is missing, cannot be reached, or is of a newer version.
    """
    place = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not create and not Path(str(url.database)).is_file():
        raise InterplantError(
            f"{url.database}: expected the coordinator's registry here, found none; restore a "
            "backup, or make a new federation with `interplant coordinator init`"
        )
    try:
        engine = create_engine(url)
    except ImportError as error:
        raise UsageError(f"database: {place} needs a driver: {error}; install it") from None
    if url.get_backend_name() == "sqlite":
        _tune_sqlite(engine)
    with translated(place), engine.begin() as connection:
        if not inspect(connection).has_table(SchemaRow.__tablename__):
            Base.metadata.create_all(connection)
            connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
        _check_version(connection, place)
    return engine


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn a fault of the database into one sentence."""
    try:
        yield
    except DBAPIError as error:
        raise InterplantError(
            f"the registry {place} cannot be used: {error.orig}; check the disk and the address"
        ) from error


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """One transaction that writes: whole or not at all, one writer at a time on SQLite."""
    with (
        translated(engine.url.render_as_string(hide_password=True)),
        engine.connect().execution_options(interplant_writes=True) as connection,
        Session(connection, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """One transaction that reads a consistent state and waits for no writer."""
    with translated(engine.url.render_as_string(hide_password=True)), Session(engine) as session:
        yield session


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(link: Any, _record: Any) -> None:
        # SQLAlchemy, not the driver, says when a transaction begins: see below.
        link.isolation_level = None
        link.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        link.execute("PRAGMA journal_mode = WAL")
        link.execute("PRAGMA foreign_keys = ON")
        # An invitation that was used stays used after a power cut.
        link.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once, without waiting, when
        # another process has written in between; one that takes the write lock first waits.
        writes = connection.get_execution_options().get("interplant_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_version(connection: Connection, place: str) -> None:
    version = connection.execute(select(SchemaRow.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise InterplantError(
            f"the registry {place} was written by a newer Interplant (registry version {version}, "
            f"this one knows {SCHEMA_VERSION}); update Interplant on this machine"
        )
