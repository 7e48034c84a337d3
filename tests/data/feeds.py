"""What tests of sources share: a contract, a place, and all that a feed hands over."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from interplant.core.contract import Column, Contract
from interplant.core.schema import Source
from interplant.data.sources import UNPARSED, Batch, Feed, Place, open_source

CONTRACT = Contract(
    machine="machine",
    time="cycle",
    sensors={"heat": Column("K", -1e6, 1e6), "flow": Column("kg/s", -1e6, 1e6)},
)


def place(root: Path, contract: Contract = CONTRACT) -> Place:
    """A plant's folder; the source's own is within."""
    return Place(root, root / "state", contract)


def opened(root: Path, kind: str, contract: Contract = CONTRACT, **args: Any) -> Feed:
    return open_source(Source(name="line", kind=kind, args=args), place(root, contract))


def handed(feed: Feed, keep: bool = True) -> list[Batch]:
    """All batches that are there now, each kept as the store would."""
    found = []
    for batch in feed.batches(watch=False, stop=threading.Event()):
        found.append(batch)
        if keep:
            batch.kept()
    return found


def rows(batches: list[Batch]) -> list[dict[str, Any]]:
    """Rows of all batches, without what is null."""
    plain = [row for batch in batches for row in batch.table.to_pylist()]
    return [{name: value for name, value in row.items() if value is not None} for row in plain]


def readings(batches: list[Batch]) -> list[dict[str, Any]]:
    return [row for row in rows(batches) if UNPARSED not in row]


def unparsed(batches: list[Batch]) -> list[str]:
    return [row[UNPARSED] for row in rows(batches) if UNPARSED in row]


def together(batches: list[Batch]) -> pa.Table:
    return pa.concat_tables([batch.table for batch in batches], promote_options="default")


@contextmanager
def watched(feed: Feed, keep: bool = True) -> Iterator[list[Batch]]:
    """Batches of a feed that is watched on another thread while the block runs."""
    stop, found = threading.Event(), list[Batch]()

    def watch() -> None:
        for batch in feed.batches(watch=True, stop=stop):
            found.append(batch)
            if keep:
                batch.kept()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
