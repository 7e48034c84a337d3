"""Sources against their real counterparts, which are stopped and started in the middle."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from interplant.core.contract import Column, Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Source
from interplant.data.sources import UNPARSED, Batch, Feed, Place, open_source
from interplant.lab import counterparts, opcua_server

pytestmark = pytest.mark.system


def opened(root: Path, kind: str, contract: Contract, **args: Any) -> Feed:
    source = Source(name="line", kind=kind, args=args)
    return open_source(source, Place(root, root / "state", contract))


def rows(batch: Batch) -> list[dict[str, Any]]:
    return list(batch.table.to_pylist())


# --- MQTT --------------------------------------------------------------------------------------------

COUNTED = Contract(sensors={"heat": Column("K", 0.0, 1e6)})


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[counterparts.Broker]:
    with counterparts.broker(tmp_path / "broker") as made:
        yield made


def session(root: Path, broker: counterparts.Broker, **args: Any) -> Feed:
    words = {
        "host": "127.0.0.1",
        "port": broker.tls_port,
        "topics": ["line/+/readings"],
        "machine_level": 2,
        "username": broker.username,
        "password": broker.password,
        "tls": {"ca": "broker/ca.pem"},
    }
    return opened(root, "mqtt", COUNTED, **words | args)


def publish(broker: counterparts.Broker, *payloads: bytes) -> None:
    """Send messages and wait until the broker has each."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.username_pw_set(broker.username, broker.password)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for one in [client.publish("line/m1/readings", payload, qos=1) for payload in payloads]:
        one.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def messages(first: int, count: int) -> list[bytes]:
    return [
        json.dumps([{"cycle": number * 5 + more, "heat": 1.5} for more in range(5)]).encode()
        for number in range(first, first + count)
    ]


def drained(feed: Feed, keep: bool = True) -> list[dict[str, Any]]:
    found = []
    for batch in feed.batches(False, threading.Event()):
        found += rows(batch)
        if keep:
            batch.kept()
    return found


def test_what_was_not_kept_is_not_acknowledged_and_comes_again_after_the_broker_was_stopped(
    tmp_path: Path, broker: counterparts.Broker
) -> None:
    assert drained(session(tmp_path, broker)) == []
    publish(broker, *messages(0, 40), b"no reading \xff")
    assert len(drained(session(tmp_path, broker), keep=False)) == 201
    broker.stop()
    broker.start()
    found = drained(session(tmp_path, broker))
    assert sorted(row["cycle"] for row in found if row["cycle"] is not None) == list(range(200))
    assert [row[UNPARSED] for row in found if row[UNPARSED] is not None] == ["no reading \ufffd"]
    assert {row["machine"] for row in found if row["cycle"] is not None} == {"m1"}
    assert drained(session(tmp_path, broker)) == []


def test_a_broker_that_goes_away_in_the_middle_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, broker: counterparts.Broker
) -> None:
    drained(session(tmp_path, broker))
    publish(broker, *messages(0, 100))
    found: list[float] = []
    stop = threading.Event()
    before = threading.active_count()
    for batch in session(tmp_path, broker, window=20).batches(True, stop):
        found += batch.table.column("cycle").to_pylist()
        if len(found) < 200:
            broker.stop()
            broker.start()
            publish(broker, *messages(100, 20))
        batch.kept()
        if set(found) == set(range(600)):
            stop.set()
    assert set(found) == set(range(600))
    assert threading.active_count() == before


def test_a_wrong_password_is_said_at_once(tmp_path: Path, broker: counterparts.Broker) -> None:
    with pytest.raises(UsageError, match="args: username: the broker refuses the connection: Not authorized"):
        drained(session(tmp_path, broker, password="wrong"))


# paho lets go of the socket of a handshake that failed without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_of_another_authority_is_not_talked_to(tmp_path: Path, broker: counterparts.Broker) -> None:
    with pytest.raises(UsageError, match=r"args: tls\.ca: expected a certificate to trust"):
        drained(session(tmp_path, broker, tls={}))


# --- SQL ---------------------------------------------------------------------------------------------

VOLTS = Column("V", 0.0, 1e6)
TIMED = Contract(clock="timestamp", time="at", sensors={"s0": VOLTS, "s1": VOLTS})
INSERT = """
insert into readings
select 'm' || n % 3, timestamptz '2026-01-01Z' + n / 2 * interval '1 s', n from generate_series(0, 9999) n
"""


def test_a_database_that_is_killed_in_the_middle_of_a_read_loses_nothing(tmp_path: Path) -> None:
    with counterparts.database() as database:
        engine = sa.create_engine(database.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("create table readings (machine text, at timestamptz, s0 numeric)"))
            connection.execute(sa.text(INSERT))
        args = {"url": database.url, "table": "public.readings", "watermark": "at", "batch_rows": 1000}
        found: list[float] = []
        for number, batch in enumerate(
            opened(tmp_path, "sql", TIMED, **args).batches(False, threading.Event())
        ):
            found += batch.table.column("s0").to_pylist()
            batch.kept()
            if number == 2:
                database.kill()
                database.start()
        assert set(found) == set(range(10_000))
        assert found[:3000] == list(range(3000))
        again = drained(opened(tmp_path, "sql", TIMED, **args))
        # A minute before the mark is read again, for rows that were committed late.
        assert [row["s0"] for row in again] == list(range(9878, 10_000))
        with pytest.raises(UsageError, match="password authentication failed") as refused:
            drained(opened(tmp_path, "sql", TIMED, **args | {"url": database.url.replace("not-a", "wrong")}))
        assert "wrong-secret" not in str(refused.value)


# --- OPC UA ------------------------------------------------------------------------------------------

NODES, HERTZ, FOR_EVER = 2, 10.0, 10**9


def test_an_opc_ua_server_that_is_restarted_twice_loses_nothing_that_its_history_has(tmp_path: Path) -> None:
    args: dict[str, Any] = {
        "nodes": {f"ns=2;s=node{number}": f"press/s{number}" for number in range(NODES)},
        "period_ms": 1000 / HERTZ,
        "server_certificate": "server/server.der",
        "user": opcua_server.USER,
        "password": opcua_server.PASSWORD,
    }
    found: dict[tuple[str, datetime], list[Any]] = {}
    with counterparts.opc_server(tmp_path / "server", NODES, HERTZ, FOR_EVER) as server:
        args["url"] = server.url
        with pytest.raises(UsageError, match="args: user: the server refuses the user"):
            drained(opened(tmp_path, "opcua", TIMED, **args | {"password": "wrong"}))
        with pytest.raises(
            UsageError, match="args: nodes: the server refuses ns=2;s=nothing: BadNodeIdUnknown"
        ):
            drained(opened(tmp_path, "opcua", TIMED, **args | {"nodes": {"ns=2;s=nothing": "press/s0"}}))
        back: list[datetime] = []
        stop = threading.Event()
        for batch in opened(tmp_path, "opcua", TIMED, **args).batches(True, stop):
            for row in rows(batch):
                for name in ("s0", "s1"):
                    if row.get(name) is not None:
                        found.setdefault((name, row["at"]), []).append(row[name])
            batch.kept()
            if len(back) < 2:
                server.stop()
                server.start()
                back.append(datetime.now(UTC))
            elif max(when for _, when in found) > back[-1]:
                stop.set()
        assert [one for one in threading.enumerate() if one.name.startswith("opcua")] == []
    times = sorted({when for _, when in found})
    ticks = [round((when.timestamp() - server.epoch) * HERTZ) for when in times]
    assert ticks == list(range(ticks[0], ticks[-1] + 1))
    for number in range(NODES):
        for tick, when in zip(ticks, times, strict=True):
            (value,) = found[f"s{number}", when]
            broken = number == 0 and tick % 100 == 99
            expected = "BadSensorFailure" if broken else opcua_server.value(number, tick)
            assert value == expected or float(value) == expected
