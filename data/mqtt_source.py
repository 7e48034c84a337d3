"""Readings from an MQTT 5 broker: QoS 1, a session that the broker keeps, JSON messages.

A message is acknowledged to the broker once the store has it on disk, never before: what was not comes again
after a break. The broker sends no more than a window of messages that are not acknowledged, so a flood waits
at the broker. Whoever takes the batches drives the connection: there is no thread.
"""

import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from interplant.core.errors import UsageError
from interplant.core.schema import Source
from interplant.data.columns import from_rows, unparsed
from interplant.data.marks import Marks
from interplant.data.mqtt_session import Args, Session, Tls
from interplant.data.patience import Patience
from interplant.data.payloads import MOST_NAMES, SHOWN, readings
from interplant.data.sources import Batch, Place, numeric, words

if TYPE_CHECKING:
    import paho.mqtt.client as paho
    import pyarrow as pa

MOST_ROWS: Final = 20_000
MOST_BYTES: Final = 16 << 20
"""Readings, and bytes of their messages, after which a batch is handed over."""

LINGER: Final = 0.25
"""Seconds that a batch waits for more."""

QUIET: Final = 1.0
"""Seconds without a message after which a broker has no more."""

_STALL: Final = 10
"""Messages after which a batch waits no more once the broker falls silent: the window may be full."""


def open_source(source: Source, place: Place) -> "Broker":
    """Return the broker that a source describes.

    Raises:
        UsageError: Its ``args`` are wrong, or a file of TLS cannot be read.
    """
    args = words(source, Args)
    if not args.client_id:
        marks = Marks(place.state / "session.json")
        # A name that another plant has, too, would have the broker end our connection for theirs.
        made = f"interplant-{source.name}-{uuid.uuid4().hex[:12]}"
        args.client_id = str(marks.values.setdefault("client_id", made))
        marks.save()
    key = f"data.sources.{source.name}.args"
    context = None if args.plain else _context(args.tls, place, f"{key}: tls")
    return Broker(args, source, place, context, key)


def _context(tls: Tls, place: Place, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(place.root / tls.ca) if tls.ca else None)
        if tls.certificate:
            context.load_cert_chain(place.root / tls.certificate, place.root / tls.key)
    except (OSError, ValueError) as error:
        raise UsageError(f"{key}: expected PEM files that can be read, found: {error}") from None
    return context


@dataclass
class _Gathered:
    """What the next batch holds.

    Args:
        connection: Over which its messages came.
        topic: Of the first of them.
        since: When that came, in seconds of the monotonic clock.
    """

    connection: int
    topic: str
    since: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    size: int = 0

    def add(self, reading: dict[str, Any] | str) -> None:
        """Take a reading, or what is none; so many names that a table would be mostly holes are none."""
        if isinstance(reading, dict):
            self.names |= reading.keys()
            if len(self.names) <= MOST_NAMES:
                self.rows.append(reading)
                return
            self.names -= reading.keys() - {name for row in self.rows for name in row}
            reading = str(reading)[:SHOWN]
        self.texts.append(reading)

    def is_due(self, silent: bool) -> bool:
        """Whether to hand over, given whether nothing has come just now."""
        full = len(self.rows) + len(self.texts) >= MOST_ROWS or self.size >= MOST_BYTES
        stalled = silent and len(self.messages) >= _STALL
        return full or stalled or time.monotonic() - self.since >= LINGER


class Broker:
    """A session at a broker as a source; see `Feed`.

    Args:
        args: The source's own words.
        source: Whose session it is.
        place: Its contract.
        context: Of TLS; None: plain.
        key: Of the args in ``plant.yaml``, for errors.
    """

    def __init__(
        self, args: Args, source: Source, place: Place, context: ssl.SSLContext | None, key: str
    ) -> None:
        self._args, self._source, self._contract = args, source, place.contract
        self._numbers = numeric(source, place.contract)
        self._kept: deque[tuple[int, list[int]]] = deque()
        self._gathered: _Gathered | None = None
        self._heard = time.monotonic()
        self._session = Session(args, context, self._take, key)

    def batches(self, watch: bool, stop: threading.Event) -> Iterator[Batch]:
        """Yield what the broker delivers; what was kept is acknowledged when the next batch is asked for."""
        patience = Patience(f"source {self._source.name}: the broker {self._args.host}:{self._args.port}")
        try:
            while not stop.is_set():
                if not self._session.is_open:
                    if self._gathered:
                        yield self._batch(self._gathered)
                    if not self._open(patience, stop):
                        continue
                self._acknowledge()
                before = self._heard
                self._session.listen(0.02 if self._gathered else 0.2)
                if self._gathered and self._gathered.is_due(silent=self._heard == before):
                    yield self._batch(self._gathered)
                elif not (watch or self._gathered) and time.monotonic() - self._heard >= QUIET:
                    return
        finally:
            self._acknowledge()
            self._session.close()

    def _open(self, patience: Patience, stop: threading.Event) -> bool:
        """Connect, or log why not and wait."""
        try:
            self._session.open()
        except OSError as error:
            patience.wait(error, stop)
            return False
        patience.succeeded()
        self._heard = time.monotonic()
        return True

    def _take(self, message: "paho.MQTTMessage") -> None:
        self._heard = time.monotonic()
        connection = self._session.connection
        if self._gathered is None:
            self._gathered = _Gathered(connection, message.topic, self._heard)
        if self._gathered.connection != connection:
            # Those of the last connection come again: they are kept twice, and acknowledged once.
            self._gathered.connection, self._gathered.messages = connection, []
        for reading in readings(message.payload):
            self._gathered.add(self._with_machine(reading, message.topic))
        self._gathered.size += len(message.payload)
        if message.qos:
            self._gathered.messages.append(message.mid)

    def _with_machine(self, reading: dict[str, Any] | str, topic: str) -> dict[str, Any] | str:
        """A reading with the machine that its topic names."""
        if not self._args.machine_level or isinstance(reading, str):
            return reading
        levels = topic.split("/")
        if len(levels) < self._args.machine_level:
            return f"{topic}: {reading}"[:SHOWN]
        return reading | {self._contract.machine: levels[self._args.machine_level - 1]}

    def _batch(self, gathered: _Gathered) -> Batch:
        self._gathered = None
        done = (gathered.connection, gathered.messages)
        return Batch(self._table(gathered), f"{gathered.topic} and others", lambda: self._kept.append(done))

    def _table(self, gathered: _Gathered) -> "pa.Table":
        import pyarrow as pa

        parts = [from_rows(gathered.rows, self._numbers)] if gathered.rows else []
        parts += [unparsed(gathered.texts, SHOWN)] if gathered.texts else []
        return pa.concat_tables(parts, promote_options="permissive")

    def _acknowledge(self) -> None:
        while self._kept:
            self._session.acknowledge(*self._kept.popleft())
