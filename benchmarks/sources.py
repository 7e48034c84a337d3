"""What comes through a source while its counterpart is stopped and started twice: lost, doubled, how fast.

`mqtt` and `opcua` run the counterpart and whoever feeds it as processes on loopback, and hand every batch
to a sink: by default one that counts keys in memory; a plant's store can be plugged in.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
import publisher

from interplant.core import logs
from interplant.core.contract import Column, Contract
from interplant.core.schema import Source
from interplant.data.sources import Batch, Feed, Place, open_source
from interplant.lab import counterparts, opcua_server

AWAY = 1.0
"""Seconds that a counterpart is away, each time."""

_HEAD_START = 6.0
"""Seconds before an OPC UA server's first values."""

_PATIENCE = 60.0
"""Seconds after the last reading was sent in which it has to come."""


class Sink(Protocol):
    """What keeps batches."""

    def __call__(self, batch: Batch) -> None:
        """Keep a batch."""

    def unique(self) -> int:
        """How many readings are kept, each counted once."""

    def doubled(self) -> int:
        """How many are kept once too often."""


@dataclass
class Counting:
    """Keeps keys in memory.

    Args:
        columns: That make a reading's key.
    """

    columns: tuple[str, ...] = ("machine", "cycle")
    keys: set[Any] = field(default_factory=set)
    handed: int = 0

    def __call__(self, batch: Batch) -> None:
        """Count a batch's readings."""
        columns = [batch.table.column(name).to_pylist() for name in self.columns]
        self.keys.update(zip(*columns, strict=True))
        self.handed += len(batch.table)

    def unique(self) -> int:
        """How many keys have come."""
        return len(self.keys)

    def doubled(self) -> int:
        """None: a set holds each once."""
        return 0


@dataclass
class Values:
    """Keeps the keys of single values in memory: of rows whose columns fill up by and by.

    Args:
        since: When the first is expected; what is older is not counted.
    """

    since: datetime
    keys: set[Any] = field(default_factory=set)
    again: int = 0

    def __call__(self, batch: Batch) -> None:
        """Count a batch's values."""
        times = batch.table.column("at").to_pylist()
        for name in batch.table.column_names:
            if name in ("machine", "at"):
                continue
            cells = zip(times, batch.table.column(name).to_pylist(), strict=True)
            found = [(name, when) for when, cell in cells if cell is not None and when >= self.since]
            self.again += len(self.keys.intersection(found))
            self.keys.update(found)

    def unique(self) -> int:
        """How many values have come."""
        return len(self.keys)

    def doubled(self) -> int:
        """How many values of the same node and time have come before."""
        return self.again


@dataclass(frozen=True)
class Outcome:
    """What has come through; seconds are from the first batch to the last reading."""

    sent: int
    kept: int
    doubled: int
    seconds: float
    megabytes: float

    @property
    def lost(self) -> int:
        """Readings that were sent and are not kept."""
        return self.sent - self.kept


CONTRACT = Contract(
    machine="machine",
    time="cycle",
    sensors={f"s{number}": Column("V", -1e6, 1e6) for number in range(publisher.SENSORS)},
)
"""Of what `publisher` sends."""


def mqtt(seconds: float, rate: int, sink: Sink | None = None) -> Outcome:
    """Publish readings at a rate while the broker is stopped and started twice.

    Args:
        seconds: How long.
        rate: Readings a second.
        sink: What keeps them.
    """
    with tempfile.TemporaryDirectory() as folder, counterparts.broker(Path(folder) / "broker") as broker:
        args = {
            "host": "127.0.0.1",
            "port": broker.tls_port,
            "topics": ["line/+/readings"],
            "machine_level": 2,
            "username": broker.username,
            "password": broker.password,
            "tls": {"ca": "broker/ca.pem"},
        }
        place = Place(Path(folder), Path(folder) / "state", CONTRACT)
        source = Source(name="broker", kind="mqtt", args=args)
        # The session has to be there before the first message is.
        for _ in open_source(source, place).batches(False, threading.Event()):
            raise AssertionError("a new broker has nothing")
        words = [str(word) for word in (broker.port, seconds, rate, broker.username, broker.password)]
        with _sender(publisher.__file__, words) as sent:
            return _carry(open_source(source, place), sink or Counting(), seconds, broker, sent)


def opcua(seconds: float, nodes: int, hertz: float, sink: Sink | None = None) -> Outcome:
    """Serve values at a rate, with history, while the server is stopped and started twice.

    Args:
        seconds: How long.
        nodes: How many.
        hertz: Values a second of each.
        sink: What keeps them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ticks = round(seconds * hertz)
        with counterparts.opc_server(folder / "server", nodes, hertz, ticks) as server:
            names = [f"s{number}" for number in range(nodes)]
            args = {
                "url": server.url,
                "nodes": {f"ns=2;s=node{number}": name for number, name in enumerate(names)},
                "period_ms": 1000 / hertz,
                "server_certificate": "server/server.der",
                "user": opcua_server.USER,
                "password": opcua_server.PASSWORD,
            }
            contract = Contract(
                clock="timestamp",
                time="at",
                hold=2 / hertz,
                sensors={name: Column("V", 0.0, 200.0) for name in names},
            )
            source = Source(name="server", kind="opcua", machine="press", args=args)

            def sent() -> int:
                time.sleep(max(0.0, server.epoch + seconds - time.time()))
                return nodes * ticks

            feed = open_source(source, Place(folder, folder / "state", contract))
            # What the server had before anybody looked comes from no history: let the clock begin later.
            server.stop()
            server.epoch = time.time() + _HEAD_START
            server.start()
            since = datetime.fromtimestamp(server.epoch, UTC)
            return _carry(feed, sink or Values(since), seconds + _HEAD_START, server, sent)


class Restarted(Protocol):
    """A counterpart that can be stopped and started."""

    def start(self) -> None:
        """Start it again."""

    def stop(self) -> None:
        """Stop it politely."""


def _carry(
    feed: Feed, sink: Sink, seconds: float, counterpart: Restarted, sent: Callable[[], int]
) -> Outcome:
    """Hand a feed's batches to a sink, until all that was sent has come."""
    stop, total = threading.Event(), []

    def direct() -> None:
        for _ in range(2):
            time.sleep(seconds / 3)
            counterpart.stop()
            time.sleep(AWAY)
            counterpart.start()
        try:
            total.append(sent())
        except ValueError:
            stop.set()
            raise
        end = time.monotonic() + _PATIENCE
        while sink.unique() < total[0] and time.monotonic() < end:
            time.sleep(0.1)
        stop.set()

    director = threading.Thread(target=direct)
    started = time.monotonic()
    director.start()
    most = 0.0
    for batch in feed.batches(True, stop):
        sink(batch)
        batch.kept()
        most = max(most, psutil.Process().memory_info().rss / 1e6)
    director.join()
    return Outcome(total[0], sink.unique(), sink.doubled(), time.monotonic() - started, most)


@contextmanager
def _sender(script: str, words: list[str]) -> Iterator[Callable[[], int]]:
    """Run a sender as a process; it tells at its end how much it has sent."""
    child = subprocess.Popen(
        [sys.executable, script, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        yield lambda: int(child.communicate()[0])
    finally:
        child.kill()
        child.wait()


def results(case: str, outcome: Outcome) -> list[dict[str, Any]]:
    """What is printed of one case: value, unit, bar, and whether it holds."""
    bars: list[tuple[str, float, str, float | None]] = [
        ("lost", outcome.lost, "readings", 0),
        ("doubled", outcome.doubled, "readings", 0),
        ("memory", round(outcome.megabytes), "MB", 600),
        ("sent", outcome.sent, "readings", None),
        ("kept", outcome.kept, "readings", None),
        ("from the first to the last", round(outcome.seconds, 1), "s", None),
    ]
    return [
        {
            "case": f"{case}: {what}",
            "value": value,
            "unit": unit,
            "bar": bar,
            "holds": bar is None or value <= bar,
        }
        for what, value, unit, bar in bars
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON (always so)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--rate", type=int, default=10_000, help="readings a second over MQTT")
    parser.add_argument("--nodes", type=int, default=200, help="over OPC UA")
    parser.add_argument("--hertz", type=float, default=10.0, help="values a second of each node")
    parser.add_argument("--only", choices=("mqtt", "opcua"), help="one case")
    words = parser.parse_args()
    logs.setup()
    found = []
    if words.only != "opcua":
        found += results("mqtt", mqtt(words.seconds, words.rate))
    if words.only != "mqtt":
        found += results("opcua", opcua(words.seconds, words.nodes, words.hertz))
    print(json.dumps({"results": found}, indent=2))


if __name__ == "__main__":
    main()
