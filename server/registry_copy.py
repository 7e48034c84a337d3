"""Copy a registry while others write, and put a copy back.

SQLite has an online backup for it, which copies one state of the file. From another database the rows of all
tables are read in one transaction that sees one state, and written as lines of JSON.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, func, insert, inspect, select, text

from interplant.core.errors import InterplantError, UsageError
from interplant.server.database import connect, resolve, translated
from interplant.server.registry import Registry
from interplant.server.tables import SCHEMA_VERSION, Base, UtcTime

__all__ = ["FILE", "ROWS", "SCHEMA_VERSION", "copy", "put_back"]

FILE: Final = "registry.db"
ROWS: Final = "registry.jsonl"

_AT_ONCE = 1000
"""Rows that are in memory."""


def copy(registry: Registry, folder: Path) -> Path:
    """Copy a registry into ``folder``; return the copy, `FILE` or `ROWS`."""
    engine = registry.engine
    with translated(engine.url.render_as_string(hide_password=True)):
        if engine.dialect.name == "sqlite":
            return _copy_file(Path(str(engine.url.database)), folder / FILE)
        return _copy_rows(engine, folder / ROWS)


def put_back(url: str, staging: Path, target: Path) -> Registry:
    """Put the copy in ``staging`` to where ``url`` says, and open it.

    Args:
        url: ``database`` of the backup's ``federation.yaml``.
        staging: Where the backup's files lie now; what belongs elsewhere leaves it.
        target: The coordinator's directory to be, in which a relative SQLite path counts.

    Raises:
        UsageError: There is a registry there already.
        InterplantError: The copy is of another kind or version, or the database cannot be used.
    """
    parsed = resolve(url, staging)
    if parsed.get_backend_name() != "sqlite":
        return _put_rows(url, staging)
    if not (staging / FILE).is_file():
        raise InterplantError(f"the backup holds no {FILE}, which federation.yaml's database needs")
    place = Path(str(parsed.database))
    if place != staging / FILE:
        if place.exists():
            raise UsageError(f"{place}: there is a registry here already; move it away first")
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / FILE).rename(place)
    return Registry(connect(parsed))


def _copy_file(source: Path, copy: Path) -> Path:
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(copy)) as target:
        original.backup(target)
        # One file, without a log beside it.
        target.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = target.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise InterplantError(f"{source}: the registry is damaged: {verdict}; restore a backup")
    copy.chmod(0o600)
    return copy


def _copy_rows(engine: Engine, path: Path) -> Path:
    # One state, however long it takes, and no lock that others wait for.
    connection = engine.connect().execution_options(isolation_level="REPEATABLE READ")
    with connection, path.open("w", encoding="utf-8") as file:
        path.chmod(0o600)
        for table in Base.metadata.sorted_tables:
            query = select(table).order_by(*table.primary_key.columns)
            for row in connection.execution_options(yield_per=_AT_ONCE).execute(query).mappings():
                values = {name: _plain(value) for name, value in row.items()}
                file.write(json.dumps({"table": table.name, "row": values}) + "\n")
    return path


def _put_rows(url: str, staging: Path) -> Registry:
    if not (staging / ROWS).is_file():
        raise InterplantError(f"the backup holds no {ROWS}, which federation.yaml's database needs")
    parsed = resolve(url, staging)
    place = parsed.render_as_string(hide_password=True)
    registry = Registry(connect(parsed))
    try:
        with translated(place), registry.engine.begin() as connection:
            if connection.scalar(select(func.count()).select_from(Base.metadata.tables["events"])):
                raise UsageError(f"{place}: there is a registry here already; name an empty database")
            connection.execute(Base.metadata.tables["schema_version"].delete())
            _insert(connection, staging / ROWS)
            _go_on_counting(connection)
    except BaseException:
        registry.close()
        raise
    (staging / ROWS).unlink()
    return registry


def _insert(connection: Connection, path: Path) -> None:
    for table, rows in _batches(path):
        if table.name == "schema_version" and rows != [{"version": SCHEMA_VERSION}]:
            raise InterplantError(
                f"the backup's registry is of version {rows[0]['version']}, this Interplant's of "
                f"{SCHEMA_VERSION}: restore it with the Interplant that made it, then update"
            )
        connection.execute(insert(table), rows)


def _batches(path: Path) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Rows of one table at a time, in the order in which they were written."""
    table = ""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if rows and (entry["table"] != table or len(rows) == _AT_ONCE):
                yield Base.metadata.tables[table], rows
                rows = []
            table = entry["table"]
            rows.append(_typed(Base.metadata.tables[table], entry["row"]))
    if rows:
        yield Base.metadata.tables[table], rows


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    times = {column.name for column in table.columns if isinstance(column.type, UtcTime)}
    return {
        name: datetime.fromisoformat(value) if name in times and value is not None else value
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _go_on_counting(connection: Connection) -> None:
    """Have the database number the next event after the last one that was put back."""
    for table in inspect(connection).get_table_names():
        if table in ("events", "deployments"):
            query = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608
            connection.execute(text(query))
