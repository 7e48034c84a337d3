"""How a registry of an earlier version becomes one of this version, without losing a row.

A step for each version, done in one transaction together with the number in ``schema_version``: a kill
leaves the old registry or the new one. The steps say tables in Alembic's words, as they were then;
`interplant.server.tables` says how they are now, and a test compares the two.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from interplant.server.tables import history_rules

_COUNTED = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade(connection: Connection, found: int) -> None:
    """Bring the tables along from version ``found``; the connection's transaction is the caller's."""
    operations = Operations(MigrationContext.configure(connection))
    for number, step in enumerate(_STEPS, start=1):
        if number >= found:
            step(connection, operations)
            text = f"from version {number} to {number + 1}"
            _tell(connection, "registry.upgraded", "registry", text)
    connection.execute(sa.text("UPDATE schema_version SET version = :now"), {"now": len(_STEPS) + 1})


def _to_2(connection: Connection, operations: Operations) -> None:
    """Tasks have a table, deployments a history, releases a life."""
    _catalogue_tasks(connection, operations)
    _keep_deployments(connection, operations)
    _give_releases_states(connection, operations)
    if connection.dialect.name != "sqlite":  # where events were guarded from the first version on
        _guard(connection, "events")


_STEPS: Final[tuple[Callable[[Connection, Operations], None], ...]] = (_to_2,)


def _catalogue_tasks(connection: Connection, operations: Operations) -> None:
    tasks = operations.create_table(
        "tasks",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False, index=True),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(), nullable=False),
    )
    column = sa.Column("task_digest", sa.String(), sa.ForeignKey("tasks.digest"))
    operations.add_column("runs", column, inline_references=True)
    runs = sa.table(
        "runs",
        *(sa.column(name) for name in ("id", "task_name", "task_digest")),
        sa.column("task", sa.JSON()),
        sa.column("created", sa.DateTime()),
    )
    known: set[str] = set()
    for run in connection.execute(sa.select(runs).order_by(runs.c.created)).all():
        # As `interplant.core.release.task_digest` wrote it then.
        digest = hashlib.sha256(json.dumps(run.task, separators=(",", ":")).encode()).hexdigest()
        if digest not in known:
            contract = str(run.task.get("contract", {}).get("version", ""))
            row = {"name": run.task_name, "contract": contract, "content": run.task, "created": run.created}
            connection.execute(sa.insert(tasks).values(digest=digest, **row))
            known.add(digest)
        connection.execute(sa.update(runs).where(runs.c.id == run.id).values(task_digest=digest))
    operations.drop_column("runs", "task")


def _keep_deployments(connection: Connection, operations: Operations) -> None:
    """The last word of each plant stood in a table of its own; the words before it are in the events."""
    names = ("release", "plant", "state", "reason")
    old = sa.table("deployments", *map(sa.column, names), sa.column("updated", sa.DateTime()))
    last = [dict(row._mapping) for row in connection.execute(sa.select(old).order_by(old.c.updated))]
    told = _told(connection)
    for word in last:
        mine = [one for one in told if (one["release"], one["plant"]) == (word["release"], word["plant"])]
        if not mine or any(mine[-1][name] != word[name] for name in names):
            told.append(word)
    operations.drop_table("deployments")
    new = operations.create_table(
        "deployments",
        sa.Column("id", _COUNTED, primary_key=True, autoincrement=True),
        sa.Column("release", sa.String(), sa.ForeignKey("releases.id"), nullable=False, index=True),
        sa.Column("plant", sa.String(), sa.ForeignKey("plants.name"), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("updated", sa.DateTime(), nullable=False),
    )
    if told:
        connection.execute(sa.insert(new), told)
    _guard(connection, "deployments")


def _told(connection: Connection) -> list[dict[str, Any]]:
    """What plants said of releases, in order, from events such as ``turbofan-1 refused: worse``."""
    query = "SELECT time, subject, text FROM events WHERE kind = 'deployment' ORDER BY id"
    found = sa.text(query).columns(sa.column("time", sa.DateTime()), sa.column("subject"), sa.column("text"))
    told = []
    for event in connection.execute(found).all():
        release, _, words = event.text.partition(" ")
        state, _, reason = words.partition(": ")
        word = {"release": release, "plant": event.subject, "state": state, "reason": reason}
        told.append(word | {"updated": event.time})
    return told


def _give_releases_states(connection: Connection, operations: Operations) -> None:
    """A task's newest good release was on offer; the ones before it were not any more."""
    operations.add_column("releases", sa.Column("back_to", sa.String()))
    serving = set(connection.scalars(sa.text("SELECT release FROM deployments WHERE state = 'active'")))
    offered: set[str] = set()
    query = sa.text("SELECT id, task, state FROM releases ORDER BY created DESC, id")
    for release in connection.execute(query).all():
        passed = ["rejected"]
        if release.state == "ready":
            passed = ["rolling_out"]
            passed += ["active"] if release.id in serving else []
            passed += ["superseded"] if release.task in offered else []
            offered.add(release.task)
        change = sa.text("UPDATE releases SET state = :state WHERE id = :id")
        connection.execute(change, {"state": passed[-1], "id": release.id})
        for state in passed:
            _tell(connection, f"release.{state}", release.id, f"was {release.state} in version 1")


def _guard(connection: Connection, table: str) -> None:
    for rule in history_rules(table, connection.dialect.name):
        connection.exec_driver_sql(rule)


def _tell(connection: Connection, kind: str, subject: str, text: str) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    events = sa.table(
        "events", *map(sa.column, ("kind", "subject", "text")), sa.column("time", sa.DateTime())
    )
    connection.execute(sa.insert(events).values(time=now, kind=kind, subject=subject, text=text))
