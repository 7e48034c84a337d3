"""Messages as readings, and the words of a broker; a real one is in the system tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from interplant.core.errors import UsageError
from interplant.data.payloads import LARGEST, readings

from .feeds import opened

PLAIN = {"host": "127.0.0.1", "topics": ["line/+/readings"], "plain": True}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"heat": 1.5}', [{"heat": 1.5}]),
        (b'[{"heat": 1}, {"heat": null}]', [{"heat": 1}, {"heat": None}]),
        (
            b'{"machine": "m1", "readings": [{"heat": 1}, {"heat": 2, "machine": "m2"}]}',
            [{"machine": "m1", "heat": 1}, {"machine": "m2", "heat": 2}],
        ),
        (b'[{"heat": 1}, 7, {"heat": {"deep": 1}}]', [{"heat": 1}, "7", '{"heat": {"deep": 1}}']),
        (b"not json", ["not json"]),
        (b"\xff\xfe", ["\ufffd\ufffd"]),
        (b"", [""]),
        (b"[]", ["[]"]),
        (b"{}", ["{}"]),
        (b"7", ["7"]),
        (b"[" * 100_000, ["[" * 200]),
        (b"1" * 10_000, ["1" * 200]),
    ],
    ids=str,
)
def test_a_message_is_readings_or_says_that_it_is_none(payload: bytes, expected: list[Any]) -> None:
    assert list(readings(payload)) == expected


def test_a_message_that_is_too_large_is_not_looked_into() -> None:
    payload = b'{"heat": "' + b"x" * LARGEST + b'"}'
    assert [len(str(one)) for one in readings(payload)] == [200]


def test_a_reading_with_a_flood_of_names_is_none() -> None:
    flood = {f"name{number}": 1 for number in range(2000)}
    (found,) = readings(json.dumps(flood).encode())
    assert isinstance(found, str)


def test_readings_that_share_more_than_memory_should_hold_are_counted_and_told_of() -> None:
    shared = {f"key{number}": 1 for number in range(200)}
    payload = json.dumps(shared | {"readings": [{}] * 30_000}).encode()
    *found, rest = readings(payload)
    assert all(one == shared for one in found)
    assert sum(map(len, found)) <= 1_000_000
    assert (
        rest == f"{30_000 - len(found)} more readings in one message, too many for all that they share: {{}}"
    )


def test_a_long_text_that_readings_share_is_not_there_for_each() -> None:
    payload = json.dumps({"note": "x" * 1_000_000, "readings": [{"heat": 1}] * 100_000}).encode()
    assert len(list(readings(payload))) < 10


@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}")])
def test_a_message_of_any_depth_is_one_text(ends: tuple[str, str]) -> None:
    for depth in range(850, 1000):
        (found,) = readings(f'{{"deep":{ends[0] * depth}1{ends[1] * depth}}}'.encode())
        assert isinstance(found, str)


def test_a_session_keeps_its_name_and_two_plants_have_two(tmp_path: Path) -> None:
    names = [
        json.loads((folder / "state" / "session.json").read_text())["client_id"]
        for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a")
        if opened(folder, "mqtt", **PLAIN)
    ]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"host": ""}, "host: expected the broker's name or address, found none"),
        ({"topics": []}, "topics: expected at least one topic, found none"),
        ({"topics": ["line/#/x"]}, "topics.0: expected a topic filter such as line/+/readings"),
        ({"port": 70000}, "port: expected 1 to 65535, found 70000"),
        ({"window": 0}, "window: expected 1 or more, found 0"),
        ({"tls": {"ca": "ca.pem"}}, "plain: expected files of TLS or plain: true, found both"),
        ({"plain": False, "tls": {"ca": "ca.pem"}}, "tls: expected PEM files that can be read"),
        ({"plain": False, "tls": {"key": "k.pem"}}, "tls.key: expected certificate and key, or neither"),
        ({"qos": 0}, "qos: unknown key 'qos'"),
    ],
)
def test_wrong_words_are_refused_with_their_key(tmp_path: Path, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        opened(tmp_path, "mqtt", **PLAIN | args)
    assert str(refused.value).startswith(f"data.sources.line.args: {said}")
