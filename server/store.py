"""What all parts of the registry share: how it is opened, rows as plain values, and its history."""

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Engine, func, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from interplant.core.certificates import utc_now
from interplant.server.database import connect, reading, resolve, writing
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import CatalogueTask, Deployment, Event, Invitation, Plant, Release, Run
from interplant.server.tables import Base, EventRow

T = TypeVar("T", CatalogueTask, Deployment, Event, Invitation, Plant, Release, Run)
Row = TypeVar("Row", bound=Base)


class Store:
    """An open database and its history; safe to share between threads.

    Args:
        engine: See `open`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, where: CoordinatorDirectory | Path | str) -> Self:
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
    def create(cls, url: str, directory: Path) -> Self:
        """Make an empty registry; a relative SQLite path counts from ``directory``."""
        return cls(connect(resolve(url, directory), create=True))

    @property
    def engine(self) -> Engine:
        """The open database."""
        return self._engine

    def close(self) -> None:
        """Let go of the database's connections and files."""
        self._engine.dispose()

    def add_event(self, kind: str, subject: str, text: str = "") -> Event:
        """Add one line to the history."""
        with writing(self._engine) as session:
            return record(Event, flushed(session, add_event(session, kind, subject, text)))

    def events(
        self,
        subject: str | None = None,
        limit: int | None = 100,
        kinds: Collection[str] = (),
        after: datetime | None = None,
    ) -> list[Event]:
        """Return the latest lines of the history, the newest first.

        Args:
            subject: Of these alone.
            limit: How many at most; None for all.
            kinds: Of these alone; empty for all.
            after: None of this time or before it, with its zone.
        """
        query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(EventRow.subject == subject)
        if kinds:
            query = query.where(EventRow.kind.in_(kinds))
        if after is not None:
            query = query.where(EventRow.time > after)
        with reading(self._engine) as session:
            return [record(Event, row) for row in session.scalars(query)]

    def last_texts(self, subject: str, kind: str) -> list[str]:
        """Return the texts of a subject's lines of one kind, each once, in the order they came last."""
        query = select(EventRow.text).where(EventRow.subject == subject, EventRow.kind == kind)
        query = query.group_by(EventRow.text).order_by(func.max(EventRow.id))
        with reading(self._engine) as session:
            return list(session.scalars(query))


def record(kind: type[T], row: Base) -> T:
    """Return a row as a plain value."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


def flushed(session: Session, row: Row) -> Row:
    """Send what is pending to the database, and return the row as it is there."""
    session.flush()
    return row


def count(result: Any) -> int:
    """Return how many rows a statement has changed."""
    assert isinstance(result, CursorResult)
    return result.rowcount


def add_event(session: Session, kind: str, subject: str, text: str) -> EventRow:
    """Add a line to the history, in the transaction of what it tells of."""
    row = EventRow(time=utc_now(), kind=kind, subject=subject, text=text)
    session.add(row)
    return row
