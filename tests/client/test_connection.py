"""What a person reads of the connection."""

import json

import pytest

from interplant.client import connection
from interplant.client.connection import Connection
from interplant.client.directory import PlantDirectory
from interplant.core.files import only_one


def test_a_plant_that_does_not_serve_says_so(bare: PlantDirectory) -> None:
    assert connection.current(bare) == Connection("not serving")
    connection.note(bare, connection.CONNECTED)
    assert connection.current(bare) == Connection("not serving"), "a note of a killed agent is old"


def test_a_plant_that_serves_shows_the_last_note(bare: PlantDirectory) -> None:
    with only_one(bare.serve_lock, "this plant"):
        assert connection.current(bare).state == connection.STARTING
        connection.note(bare, connection.AWAY, "nobody answers")
        found = connection.current(bare)
        assert (found.state, found.reason) == (connection.AWAY, "nobody answers")
        assert found.since.endswith("UTC")


def test_why_it_was_turned_away_stays_until_it_is_connected(bare: PlantDirectory) -> None:
    connection.note(bare, connection.TURNED_AWAY, "revoked")
    connection.forget(bare)
    assert connection.current(bare).reason == "revoked"
    connection.note(bare, connection.CONNECTED)
    connection.forget(bare)
    assert not bare.connection.exists()
    connection.forget(bare)


def test_the_same_state_keeps_its_time(bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(["first", "second", "third"])
    monkeypatch.setattr(connection.certificates, "readable", lambda _: next(times))
    with only_one(bare.serve_lock, "this plant"):
        for reason in ("a", "a", "b"):
            connection.note(bare, connection.AWAY, reason)
            since = connection.current(bare).since
            assert since == {"a": "first", "b": "second"}[reason]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "away", "more": 1}', b"\xff"])
def test_a_damaged_note_is_worth_as_much_as_none(bare: PlantDirectory, content: bytes) -> None:
    bare.connection.write_bytes(content)
    assert connection.current(bare) == Connection("not serving")
    connection.note(bare, connection.AWAY, "nobody")
    assert json.loads(bare.connection.read_text())["state"] == "away"


def test_a_full_disk_does_not_end_the_connection(
    bare: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise connection.InterplantError("the disk is full")

    monkeypatch.setattr(connection, "write_atomic", full)
    connection.note(bare, connection.CONNECTED)
