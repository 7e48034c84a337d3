"""Where readings come from: one interface over folders, databases, OPC UA servers and MQTT brokers.

A source hands over batches in the order in which it finds them and is told when each is safely kept. What
it was not told of it hands over again after a break: the store takes every reading once.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from interplant.core import config
from interplant.core.contract import Contract
from interplant.core.schema import Source

if TYPE_CHECKING:
    import pyarrow as pa

UNPARSED: Final = "unparsed"
"""Column of what is no reading (a line that was cut, a message that is no JSON), as the text that came."""


@dataclass(frozen=True)
class Batch:
    """Readings as a source found them, before anything about them was checked.

    Args:
        table: One reading a row, columns by the source's own names or the contract's. Values are of whatever
            type the source gives: numbers, text, timestamps. A row with text in `UNPARSED` is no reading.
        origin: Where they were found, for a person: a file and its first row, a topic, a table, a server.
        kept: Called once the store has everything of the batch on disk, in readings or in quarantine.
    """

    table: "pa.Table"
    origin: str
    kept: Callable[[], None] = lambda: None


class Feed(Protocol):
    """A source that is connected to its counterpart."""

    def batches(self, watch: bool, stop: threading.Event) -> Iterator[Batch]:
        """Yield what is new since the last batch that was kept.

        A break (a server that is away, a file that is not whole yet) is waited out and logged, never raised.

        Args:
            watch: Whether to wait for more, until ``stop``; else what is there now is all.
            stop: Set from another thread when nothing more is wanted; seen within a second.

        Raises:
            UsageError: The source's words or the place they name are wrong.
        """


@dataclass(frozen=True)
class Place:
    """What a source may keep and needs to know.

    Args:
        root: Folder that relative paths of the source's words start from: the plant's.
        state: Folder of the source's own, kept between runs: marks, certificates that it trusts.
        contract: What readings are held to; its names are what the batches use.
    """

    root: Path
    state: Path
    contract: Contract


def open_source(source: Source, place: Place) -> Feed:
    """Return the source that ``plant.yaml`` describes.

    Raises:
        UsageError: Its ``args`` are wrong, or the library for its kind is not installed.
    """
    module: Any = import_module(f"interplant.data.{source.kind}_source")
    feed: Feed = module.open_source(source, place)
    return feed


def words(source: Source, schema: type[config.T]) -> config.T:
    """Return a source's ``args`` as its kind's own dataclass.

    Raises:
        UsageError: A key is unknown, a value is missing, has the wrong type or is impossible.
    """
    return config.parse(source.args, schema, f"data.sources.{source.name}.args")


def numeric(source: Source, contract: Contract) -> frozenset[str]:
    """Return the names, the source's own and the contract's, of columns that hold numbers."""
    names = {*contract.settings, *contract.sensors, *contract.never, contract.cycle}
    names |= {contract.time} if contract.clock == "count" else set()
    names |= set() if contract.texts else {contract.label}
    return _as_named(names, source)


def textual(source: Source, contract: Contract) -> frozenset[str]:
    """Return the names, as of `numeric`, of columns that hold text, whatever it looks like."""
    return _as_named({contract.machine} | ({contract.label} if contract.texts else set()), source)


def _as_named(names: set[str], source: Source) -> frozenset[str]:
    known = names - {""}
    return frozenset(known | {own for own, name in source.columns.items() if name in known})


def renamed(names: list[str], columns: Mapping[str, str]) -> list[str]:
    """Return the contract's name of each of the source's names."""
    return [columns.get(name, name) for name in names]
