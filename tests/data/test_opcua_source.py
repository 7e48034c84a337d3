"""Single values as readings, and the words of a server; a real one is in the system tests."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import UsageError
from interplant.data.opcua_rows import Assembly, Cell, plain

from .feeds import CONTRACT, opened

TIMED = Contract(clock="timestamp", time="at", sensors={"heat": Column("K", 0.0, 1.0)})
PLAIN = {"url": "opc.tcp://127.0.0.1:4840", "nodes": {"ns=2;s=a": "m1/heat"}, "security": "none"}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CELLS = {"a": Cell("m1", "heat"), "b": Cell("m1", "flow"), "c": Cell("m2", "heat")}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_values_of_the_same_machine_and_time_are_one_reading() -> None:
    rows = Assembly(CELLS, "machine", "at", hold=0.0)
    for node, seconds, value in (("a", 1, 1.0), ("c", 1, 3.0), ("b", 1, 2.0), ("a", 0, 0.5)):
        rows.add(node, at(seconds), value)
    taken = rows.take(at(1))
    assert taken
    assert taken.table.to_pylist() == [
        {"machine": "m1", "at": at(0), "heat": 0.5, "flow": None},
        {"machine": "m1", "at": at(1), "heat": 1.0, "flow": 2.0},
        {"machine": "m2", "at": at(1), "heat": 3.0, "flow": None},
    ]
    assert taken.marks == {"a": at(1), "b": at(1), "c": at(1)}
    assert len(rows) == 0


def test_a_reading_waits_for_its_other_values() -> None:
    rows = Assembly(CELLS, "machine", "at", hold=60.0)
    rows.add("a", at(0), 1.0)
    assert rows.due() is None
    assert rows.take(at(-1)) is None
    rows.hold = 0.0
    assert rows.due() == at(0)


def test_a_value_that_is_not_good_stands_as_its_status() -> None:
    rows = Assembly(CELLS, "machine", "at", hold=0.0)
    rows.add("a", at(0), plain(1, "Good"))
    rows.add("a", at(1), plain(2.5, "BadSensorFailure"))
    taken = rows.take(at(1))
    assert taken
    assert taken.table.column("heat").to_pylist() == ["1.0", "BadSensorFailure"]


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (7, 7.0), (2**60 + 1, 2**60 + 1), ("on", "on"), ([1, 2], "[1, 2]")]
)
def test_values_are_plain(value: Any, expected: Any) -> None:
    assert plain(value, "Good") == expected


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"url": "http://x"}, "url: expected opc.tcp://host:port, found"),
        ({"nodes": {}}, "nodes: expected at least one node, found none"),
        ({"nodes": {"Press": "heat"}}, "nodes: expected a node id such as ns=2;s=Press1.Heat"),
        ({"nodes": {"ns=2;s=a": "heat"}}, "nodes: expected machine/column, or the machine"),
        ({"security": "Basic128"}, "security: expected one of Basic256Sha256, none"),
        ({"security": "Basic256Sha256"}, "server_certificate: expected the file of the server's certificate"),
        (
            {"security": "Basic256Sha256", "server_certificate": "s.der", "certificate": "c", "key": "k"},
            "certificate: expected a file, found none at",
        ),
        ({"certificate": "c.der"}, "key: expected certificate and key, or neither"),
        ({"period_ms": 0}, "period_ms: expected 1 to"),
        ({"poll": True}, "poll: unknown key 'poll'"),
    ],
)
def test_wrong_words_are_refused_with_their_key(tmp_path: Path, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        opened(tmp_path, "opcua", TIMED, **PLAIN | args)
    assert str(refused.value).startswith(f"data.sources.line.args: {said}")


def test_a_contract_that_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected clock: timestamp in the contract"):
        opened(tmp_path, "opcua", CONTRACT, **PLAIN)


def test_without_its_library_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncua", None)
    monkeypatch.delitem(sys.modules, "interplant.data.opcua_session", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'interplant\[opcua\]'"):
        opened(tmp_path, "opcua", TIMED, **PLAIN)
