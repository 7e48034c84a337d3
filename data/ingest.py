"""From sources into the store: each batch past the door, then on disk, then told to its source as kept."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from interplant.core.contract import Contract
from interplant.core.schema import Source
from interplant.data import door
from interplant.data.reasons import told
from interplant.data.sources import Batch, Feed
from interplant.data.store import HELD_AGAIN, Store

if TYPE_CHECKING:
    import pyarrow as pa

SETTLE_SECONDS: Final = 300.0
"""How often, while sources are watched, what waits in ``incoming/`` moves to its partitions."""

_LOG = logging.getLogger(__name__)


@dataclass
class Brought:
    """What one source brought.

    Args:
        source: Its name.
        rows: Readings that kept the contract, those that were there already among them, and labels that came
            alone.
        bad: Rows that went to quarantine at the door and were not there before. What contradicts a reading is
            found when it moves to its partition: `Index.intake` counts it.
        rules: Of these, how many broke which rule in which column.
        origins: Where the first few bad ones were found.
    """

    source: str
    rows: int = 0
    bad: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    origins: list[str] = field(default_factory=list)


def take(store: Store, source: Source, batch: Batch, brought: Brought) -> None:
    """Bring one batch into the store, and tell its source."""
    newest = store.newest() if store.contract.late else None
    admitted = door.admit(batch.table, store.contract, source, batch.origin, newest, known=store.has)
    bad = store.hold(admitted.bad)
    store.add(admitted.good, batch.origin, source.name)
    store.tell(admitted.labels, source.name, batch.origin)
    store.index.note(source.name, _machines(admitted.good, store.contract))
    batch.kept()
    brought.rows += len(admitted.good) + len(admitted.labels)
    brought.bad += bad.total()
    if bad:
        for rule, column, count in told(admitted.bad):
            brought.rules[f"{rule} {column}"] = brought.rules.get(f"{rule} {column}", 0) + count
        brought.origins = [*brought.origins, batch.origin][:5]


def ingest(
    store: Store, feeds: Iterable[tuple[Source, Feed]], watch: bool, stop: threading.Event
) -> list[Brought]:
    """Bring what sources have into the store.

    Args:
        store: The plant's.
        feeds: Its sources, opened.
        watch: Whether to go on as more comes, until ``stop``.
        stop: Set from outside.

    Returns:
        What each source brought.

    Raises:
        InterplantError: A source's words are wrong, the disk is full. What was brought before stays.
    """
    feeds = list(feeds)
    store.begin()
    results = [Brought(source.name) for source, _ in feeds]
    failures: list[BaseException] = []

    def run(source: Source, feed: Feed, brought: Brought) -> None:
        try:
            for batch in feed.batches(watch, stop):
                take(store, source, batch, brought)
        except BaseException as error:  # noqa: BLE001 # raised again where the threads were started
            failures.append(error)
            stop.set()

    if not watch:
        for (source, feed), brought in zip(feeds, results, strict=True):
            for batch in feed.batches(False, stop):
                take(store, source, batch, brought)
        store.settle()
        return results
    threads = [
        threading.Thread(target=run, args=(source, feed, brought), name=f"source-{source.name}")
        for (source, feed), brought in zip(feeds, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    settled = time.monotonic()
    try:
        while not stop.wait(1.0) and any(thread.is_alive() for thread in threads):
            if time.monotonic() - settled >= SETTLE_SECONDS:
                store.settle()
                settled = time.monotonic()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    store.settle()
    return results


def hold_again(store: Store) -> tuple[int, int]:
    """Hold readings that other versions of the contract let in to the contract as it is now.

    Returns:
        How many keep it, and how many went to quarantine.
    """
    store.settle()
    kept, gone = 0, 0
    for one in store.partitions():
        if one.versions != str(store.contract.version):
            good, bad = store.hold_again(one)
            store.index.note(HELD_AGAIN, {one.machine: good})
            kept, gone = kept + good, gone + bad.total()
    store.note_held_again()  # corrections join their readings again
    return kept, gone


def _machines(readings: "pa.Table", contract: Contract) -> dict[str, int]:
    """Return how many readings each machine has."""
    counted = readings.column(contract.machine).value_counts()
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return dict(pairs)
