"""Readings from an OPC UA server: subscriptions, never polling, and its history for what was missed.

Values are assembled into a reading for each machine and source timestamp. asyncua runs in a thread of its
own; a short queue stands between it and whoever takes the batches. When that one is too slow, the connection
is let go, and what was missed comes from the server's history.
"""

import asyncio
import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from interplant.core.errors import UsageError
from interplant.core.possible import between, need, one_of
from interplant.core.schema import Source
from interplant.data.marks import Marks
from interplant.data.opcua_rows import Assembly, Cell, Values
from interplant.data.patience import Patience
from interplant.data.sources import Batch, Place, words

LINGER: Final = 0.5
"""Seconds between batches, and that a reading waits at least for its other nodes."""

QUIET: Final = 2.0
"""Seconds without a batch after which a server has no more for now."""

_NODE: Final = re.compile(r"(ns=\d+;)?[isgb]=.+")


@dataclass
class Args:
    """What ``plant.yaml`` says of an OPC UA server.

    Args:
        url: ``opc.tcp://host:port/path``.
        nodes: By node id (``ns=2;s=Press1.Heat``), the column, or ``machine/column``.
        period_ms: How often the server samples.
        security: ``Basic256Sha256`` (signed and encrypted) or ``none``.
        server_certificate: File of the server's certificate; no other server is talked to.
        certificate: File of the plant's own, DER or PEM; empty: one is made and kept.
        key: File of its key.
        user: At the server; empty: anonymous.
        password: At the server; ``${oc.env:NAME}`` keeps it out of the file.
        history: Whether to fill gaps from the server's history.
    """

    url: str = ""
    nodes: dict[str, str] = field(default_factory=dict)
    period_ms: float = 1000.0
    security: str = "Basic256Sha256"
    server_certificate: str = ""
    certificate: str = ""
    key: str = ""
    user: str = ""
    password: str = ""
    history: bool = True

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(self.url.startswith("opc.tcp://"), "url", f"expected opc.tcp://host:port, found {self.url!r}")
        need(bool(self.nodes), "nodes", "expected at least one node, found none")
        for node, column in self.nodes.items():
            said = f"expected a node id such as ns=2;s=Press1.Heat and its column, found {node!r}: {column!r}"
            need(bool(_NODE.fullmatch(node)) and bool(column.rpartition("/")[2]), "nodes", said)
        between(self.period_ms, 1.0, 86_400_000.0, "period_ms")
        one_of(self.security, ("Basic256Sha256", "none"), "security")
        secured = bool(self.server_certificate) or self.security == "none"
        need(secured, "server_certificate", "expected the file of the server's certificate, found none")
        need(bool(self.certificate) == bool(self.key), "key", "expected certificate and key, or neither")


def open_source(source: Source, place: Place) -> "Server":
    """Return the server that a source describes; nothing is connected yet.

    Raises:
        UsageError: Its ``args`` are wrong, a file is missing, or asyncua is not installed.
    """
    args = words(source, Args)
    where = f"data.sources.{source.name}.args"
    if place.contract.clock != "timestamp":
        raise UsageError(f"{where}: OPC UA values have timestamps; expected clock: timestamp in the contract")
    machines = [column.rpartition("/")[0] or source.machine for column in args.nodes.values()]
    if not all(machines):
        raise UsageError(f"{where}: nodes: expected machine/column, or the machine beside the source's name")
    try:
        from interplant.data.opcua_session import Words, make_certificate
    except ImportError as error:
        said = "OPC UA needs a library that is not installed; pip install 'interplant[opcua]'"
        raise UsageError(f"source {source.name}: {said} ({error.name})") from None
    # Traces of each connection that breaks; `Patience` says it in a line.
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    certificate, key = place.state / "own.der", place.state / "own.pem"
    if args.certificate:
        certificate, key = place.root / args.certificate, place.root / args.key
    trusted = place.root / args.server_certificate
    if args.security != "none":
        if not args.certificate and not certificate.exists():
            make_certificate(certificate, key, source.name)
        for name, path in (("certificate", certificate), ("key", key), ("server_certificate", trusted)):
            if not path.is_file():
                raise UsageError(f"{where}: {name}: expected a file, found none at {path}")
    own = Words(
        args.url, args.period_ms, args.security != "none", certificate, key, trusted,
        args.user, args.password, args.history, where,
    )  # fmt: skip
    columns = [column.rpartition("/")[2] for column in args.nodes.values()]
    cells = {node: Cell(*cell) for node, *cell in zip(args.nodes, machines, columns, strict=True)}
    return Server(own, cells, source, place, Marks(place.state / "marks.json"))


@dataclass
class Server:
    """Nodes of a server; see `Feed`.

    Args:
        words: Where and how to connect.
        cells: Where values belong, by node.
        source: Whose nodes they are.
        place: Its contract.
        marks: By node, the source timestamp of its last value that was kept.
    """

    words: Any
    cells: dict[str, Cell]
    source: Source
    place: Place
    marks: Marks

    def batches(self, watch: bool, stop: threading.Event) -> Iterator[Batch]:
        """Yield readings as values come; without ``watch`` until none has come for a while."""
        run = _Run(self)
        thread = threading.Thread(target=run.main, name=f"opcua {self.source.name}")
        thread.start()
        try:
            while not stop.is_set():
                with contextlib.suppress(queue.Empty):
                    values = run.ready.get(timeout=0.2)
                    yield self._batch(values)
                    continue
                if run.failure:
                    raise run.failure
                if not watch and run.silent():
                    return
        finally:
            run.done.set()
            thread.join()

    def _batch(self, values: Values) -> Batch:
        def kept() -> None:
            self.marks.values.update({node: when.isoformat() for node, when in values.marks.items()})
            self.marks.save()

        return Batch(values.table, self.words.url, kept)


class _Run:
    """What happens in the thread: connecting again and again, and handing over what is complete."""

    def __init__(self, server: Server) -> None:
        from interplant.data.opcua_session import Session

        self.ready: queue.Queue[Values] = queue.Queue(maxsize=4)
        self.done = threading.Event()
        self.failure: Exception | None = None
        self._heard = 0.0
        self._handed = time.monotonic()
        self._patience = Patience(f"source {server.source.name}: the server {server.words.url}")
        contract = server.place.contract
        self._hold = max(LINGER, 2 * server.words.period_ms / 1000)
        self._rows = Assembly(server.cells, contract.machine, contract.time, self._hold)
        last = {node: datetime.fromisoformat(when) for node, when in server.marks.values.items()}
        self._history = server.words.history
        self._session = Session(server.words, list(server.cells), self._take, self._turn, last)

    def silent(self) -> bool:
        """Whether the server was there, and nothing has come for a while."""
        return bool(self._heard) and time.monotonic() - max(self._heard, self._handed) > QUIET + self._hold

    def main(self) -> None:
        """Run until `done`."""
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 # raised again where the batches are taken
            self.failure = error

    async def _main(self) -> None:
        work = asyncio.create_task(self._work())
        while not self.done.is_set() and not work.done():
            await asyncio.sleep(0.1)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _work(self) -> None:
        from interplant.data.opcua_session import NotConnectedError

        while True:
            try:
                await self._session.run(self._opened)
            except UsageError as error:
                self.failure = error
                return
            except NotConnectedError as error:
                if not self._history and (until := self._rows.due()):
                    await self._hand_over(until)
                await asyncio.sleep(self._patience.failed(error))

    def _opened(self) -> None:
        self._patience.succeeded()
        self._heard = time.monotonic()

    def _take(self, node: str, when: datetime, value: Any) -> None:
        self._rows.add(node, when, value)

    async def _turn(self, until: datetime | None) -> None:
        """Hand over what is complete: up to a time, or what has waited long enough."""
        if until is not None:
            await self._hand_over(until - timedelta(seconds=self._hold))
        elif time.monotonic() - self._handed >= LINGER and (found := self._rows.due()):
            await self._hand_over(found)

    async def _hand_over(self, until: datetime) -> None:
        if (values := self._rows.take(until)) is None:
            return
        while self.ready.full():
            await asyncio.sleep(0.05)
        self.ready.put_nowait(values)
        self._handed = time.monotonic()
