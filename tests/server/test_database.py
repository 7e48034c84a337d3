"""Opening the registry's database: what is refused, how SQLite is set, and history that stays."""

import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from interplant.core.errors import InterplantError, UsageError
from interplant.server.records import Issued
from interplant.server.registry import Registry
from interplant.server.tables import HISTORY

SOON = datetime.now(UTC) + timedelta(hours=1)


def issued(serial):
    return Issued(serial, SOON, f"certificate {serial}", "k1")


# --- any database ----------------------------------------------------------------------------------


def test_history_is_listed_by_subject_the_newest_first(registry):
    registry.add_event("test", "a", "first")
    registry.add_event("test", "b", "second")
    assert [event.text for event in registry.events()] == ["second", "first"]
    assert [event.text for event in registry.events("a")] == ["first"]
    assert len(registry.events(limit=1)) == 1


@pytest.mark.parametrize("table", HISTORY)
def test_history_is_never_rewritten(registry, table):
    registry.enrol("north", issued("aa"))
    registry.create_release("r1", None, "wear", "00")
    registry.record_deployment("r1", "north", "received")
    changes = [f"UPDATE {table} SET id = 99", f"DELETE FROM {table}"]
    changes += [f"TRUNCATE {table}"] if registry._engine.dialect.name == "postgresql" else []
    for change in changes:
        with (
            pytest.raises(DBAPIError, match=f"{table} are never changed"),
            registry._engine.begin() as connection,
        ):
            connection.execute(text(change))
    assert registry.deployment_history()
    assert registry.events()


def test_times_come_back_as_utc(registry):
    registry.invite("plant-1", "f0", SOON)
    assert registry.invitation("f0").expires == SOON
    assert registry.invitation("f0").expires.tzinfo is UTC


# --- SQLite ----------------------------------------------------------------------------------------


def test_missing_registry_is_not_replaced_by_an_empty_one(tmp_path):
    with pytest.raises(InterplantError, match="restore a backup"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")
    assert list(tmp_path.iterdir()) == []


def test_registry_of_a_newer_version_is_refused(in_sqlite, tmp_path):
    with sqlite3.connect(tmp_path / "registry.db") as link:
        link.execute("UPDATE schema_version SET version = 99")
    link.close()
    with pytest.raises(InterplantError, match=r"newer Interplant .*99.*update Interplant"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


def test_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "registry.db").write_text("nonsense " * 1000)
    with pytest.raises(InterplantError, match="cannot be used: file is not a database"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [("nonsense", "expected a URL"), ("sqlite://", "expected a file"), ("sqlite:///:memory:", "a file")],
)
def test_impossible_url_is_refused(tmp_path, url, words):
    with pytest.raises(UsageError, match=words):
        Registry.create(url, tmp_path)


def test_full_disk_is_one_sentence(in_sqlite, tmp_path):
    with sqlite3.connect(tmp_path / "registry.db") as link:
        pages = link.execute("PRAGMA page_count").fetchone()[0]
    link.close()
    with in_sqlite._engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InterplantError, match="disk is full"):
        in_sqlite.add_event("big", "a", "x" * 10_000_000)
    assert in_sqlite.events() == []


def test_settings_of_sqlite(in_sqlite):
    with in_sqlite._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 15000, "synchronous": 2}


def test_reader_does_not_wait_for_a_writer(in_sqlite, tmp_path):
    in_sqlite.enrol("plant-1", issued("aa"))
    link = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    link.execute("BEGIN IMMEDIATE")
    started = os.times().elapsed
    assert in_sqlite.is_allowed("plant-1", "aa")
    assert os.times().elapsed - started < 5
    link.execute("ROLLBACK")
    link.close()


def test_relative_path_counts_from_the_coordinators_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    Registry.create("sqlite:///registry.db", tmp_path / "c").close()
    assert Path("c/registry.db").exists()
    assert not Path("registry.db").exists()
