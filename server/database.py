"""How the registry's database is opened, and how its transactions read and write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from interplant.core.errors import InterplantError, UsageError
from interplant.server.tables import SCHEMA_VERSION, Base, SchemaRow

BUSY_SECONDS: Final = 15.0
"""How long a process waits for another one's write."""


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
    try:
        with translated(place):
            _prepare(engine, place)
    except BaseException:
        engine.dispose()
        raise
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
        _writing(engine) as connection,
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


def _prepare(engine: Engine, place: str) -> None:
    """Make the tables of an empty database, or bring those of an earlier version along."""
    with engine.connect() as connection:
        if _version(connection, place) == SCHEMA_VERSION:
            return
    with _writing(engine) as connection, connection.begin():
        found = _version(connection, place, wait=True)  # another process may have been here meanwhile
        if found is None:
            Base.metadata.create_all(connection)
            connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
        elif found < SCHEMA_VERSION:
            from interplant.server.migrations import upgrade

            upgrade(connection, found)


def _version(connection: Connection, place: str, wait: bool = False) -> int | None:
    """Version of the tables that are there; None if there are none.

    Raises:
        InterplantError: It is newer than this code.
    """
    if not inspect(connection).has_table(SchemaRow.__tablename__):
        return None
    query = select(SchemaRow.version)
    version = connection.execute(query.with_for_update() if wait else query).scalar_one()
    if version > SCHEMA_VERSION:
        raise InterplantError(
            f"the registry {place} was written by a newer Interplant (registry version {version}, "
            f"this one knows {SCHEMA_VERSION}); update Interplant on this machine"
        )
    return version


def _writing(engine: Engine) -> Connection:
    """A connection whose transactions write: SQLite takes the lock at their start; see `_tune_sqlite`."""
    return engine.connect().execution_options(interplant_writes=True)
