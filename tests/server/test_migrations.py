"""A registry of an earlier version, written by the code of that version, comes along without loss."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from interplant.core import config
from interplant.core.errors import InterplantError
from interplant.core.schema import Task
from interplant.server import migrations
from interplant.server.registry import Registry
from interplant.server.tables import SCHEMA_VERSION, Base

FIRST = (Path(__file__).parent / "registry-1.sql").read_text()
"""A registry that the code of version 1 has written, as SQLite prints it: three plants, runs, releases."""

A, B = "turbofan-20261001-080000-aaaa", "turbofan-20261002-080000-bbbb"


def fill_postgres(url):
    """Put the same rows into tables as version 1 made them in PostgreSQL."""
    engine = create_engine(url, poolclass=NullPool)
    tables = re.findall(r"^CREATE TABLE .*?\n\);", FIRST, re.M | re.S)
    rows = re.findall(r"^INSERT INTO \"\w+\" VALUES\(.*?\);$", FIRST, re.M | re.S)
    order = [
        "schema_version",
        "plants",
        "certificates",
        "invitations",
        "runs",
        "rounds",
        "releases",
        "deployments",
        "events",
    ]

    def place(statement):
        return order.index(re.search(r"(?:TABLE|INTO) \"?(\w+)", statement)[1])

    with engine.begin() as connection:
        for table in sorted(tables, key=place):
            made = table.replace("DATETIME", "TIMESTAMP").replace("id INTEGER", "id BIGSERIAL")
            connection.exec_driver_sql(made)
        for index in re.findall(r"^CREATE INDEX .*;", FIRST, re.M):
            connection.exec_driver_sql(index)
        for row in sorted(rows, key=place):
            connection.exec_driver_sql(row.replace("%", "%%"))
        connection.exec_driver_sql("SELECT setval('events_id_seq', (SELECT max(id) FROM events))")


@pytest.fixture
def old_url(registry_url, tmp_path):
    """A registry of version 1 in each kind of database."""
    if registry_url.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "registry.db") as link:
            link.executescript(FIRST)
        link.close()
    else:
        fill_postgres(registry_url)
    return registry_url


@pytest.fixture
def upgraded(old_url):
    registry = Registry.open(old_url)
    yield registry
    registry.close()


def test_nothing_of_the_first_version_is_lost(upgraded):
    assert {one.name: one.state for one in upgraded.plants()} == {
        "aachen": "enrolled",
        "brno": "enrolled",
        "cadiz": "revoked",
    }
    assert upgraded.is_allowed("brno", "b1")
    assert not upgraded.is_allowed("cadiz", "a2")
    assert len(upgraded.invitations()) == 4
    runs = {run.id[-4:]: run for run in upgraded.runs()}
    assert {name: (run.state, run.round, run.rounds) for name, run in runs.items()} == {
        "aaaa": ("finished", 2, 2),
        "bbbb": ("finished", 7, 7),
        "cccc": ("paused", 0, 2),
    }
    assert [(one.round, one.attempt, one.participants) for one in upgraded.rounds(runs["aaaa"].id)] == [
        (1, 1, ("aachen",)),
        (1, 2, ("aachen", "brno")),
        (2, 1, ("aachen", "brno")),
    ]
    assert upgraded.rounds(runs["aaaa"].id)[0].dropped[0].code == "deadline"
    before = re.findall(r"^INSERT INTO \"events\"", FIRST, re.M)
    kept = [event for event in upgraded.events(limit=1000) if "version" not in event.text]
    assert len(kept) == len(before) > 20


def test_runs_find_their_tasks_in_the_catalogue(upgraded):
    tasks, runs = upgraded.tasks(), {run.id[-4:]: run for run in upgraded.runs()}
    assert [(task.name, task.contract) for task in tasks] == [("turbofan", "1")] * 2
    assert runs["aaaa"].task_digest == runs["cccc"].task_digest != runs["bbbb"].task_digest
    task = config.parse(runs["bbbb"].task, Task, "task")
    assert task.rounds == 7
    again = upgraded.create_run("turbofan", runs["bbbb"].task, 7)
    assert again.task_digest == runs["bbbb"].task_digest
    assert len(upgraded.tasks()) == 2


def test_releases_are_where_they_were(upgraded):
    assert {one.id: one.state for one in upgraded.releases()} == {A: "superseded", B: "rolling_out"}
    assert [one.id for one in upgraded.offered_releases()] == [B]
    gone, back = upgraded.roll_back_release(B, None, "it alarms at night")
    assert (gone.state, back.id) == ("rolled_back", A)


def test_what_plants_said_becomes_a_history(upgraded):
    assert [(one.release, one.plant, one.state, one.reason) for one in upgraded.deployment_history()] == [
        (A, "aachen", "received", ""),
        (A, "brno", "refused", "worse"),
        (A, "aachen", "active", ""),
        (B, "brno", "received", ""),
    ]
    last = [(one.plant, one.state) for one in upgraded.deployments(A)]
    assert last == [("aachen", "active"), ("brno", "refused")]


def test_a_last_word_that_no_event_tells_of_is_kept(old_url, tmp_path):
    engine = create_engine(old_url, poolclass=NullPool)
    with engine.begin() as connection:
        word = "UPDATE deployments SET state = 'waiting', reason = '' WHERE plant = 'brno'"
        connection.execute(text(f"{word} AND release = '{A}'"))
    registry = Registry.open(old_url)
    assert [one.state for one in registry.deployments(A)] == ["active", "waiting"]
    registry.close()


def test_its_tables_are_those_of_a_new_registry(upgraded):
    with upgraded._engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).all() == [(SCHEMA_VERSION,)]
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_there_is_a_step_for_each_version():
    assert len(migrations._STEPS) == SCHEMA_VERSION - 1


@pytest.mark.parametrize("change", ["UPDATE {} SET id = 99", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["events", "deployments"])
def test_its_history_is_guarded(upgraded, table, change):
    with pytest.raises(DBAPIError, match="never changed"), upgraded._engine.begin() as connection:
        connection.execute(text(change.format(table)))


def test_a_step_that_fails_leaves_the_old_registry(old_url, monkeypatch):
    def fail(*_):
        raise InterplantError("the plug was pulled")

    whole = migrations._STEPS
    monkeypatch.setattr(migrations, "_STEPS", (lambda *given: (whole[0](*given), fail()),))
    with pytest.raises(InterplantError, match="plug"):
        Registry.open(old_url)
    monkeypatch.setattr(migrations, "_STEPS", whole)
    registry = Registry.open(old_url)
    assert len(registry.deployment_history()) == 4
    registry.close()


OPEN = """
import json, sys
from interplant.server.registry import Registry
sys.stdin.readline()
print(json.dumps(len(Registry.open(sys.argv[1]).events(limit=1000))))
"""


def test_processes_that_open_it_at_once_bring_it_along_once(old_url):
    command = [sys.executable, "-c", OPEN, old_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    counts = {json.loads(worker.communicate(timeout=60)[0]) for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4
    registry = Registry.open(old_url)
    assert counts == {len(registry.events(limit=1000))}
    assert len([one for one in registry.events(limit=1000) if one.kind == "registry.upgraded"]) == 1
    registry.close()
