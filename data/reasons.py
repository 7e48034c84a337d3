"""Why a row is in quarantine: the rules, and how it is marked with the one that it broke and whence it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.data import parsing

if TYPE_CHECKING:
    import pyarrow as pa

RULES: Final = {
    "column": "a column that the contract asks for is not there",
    "machine": "no machine is named",
    "time": "the time cannot be read",
    "clock_change": "a local time that a change of clocks makes two moments, or none: give its offset",
    "ahead": "a time further in the future than the contract allows",
    "late": "older than the contract lets a reading come after the newest of its machine",
    "missing": "no value, and the contract holds none over",
    "type": "not a number",
    "text": "not one of the texts that the contract has for its label",
    "finite": "not a finite number",
    "range": "far outside the declared range",
    "conflict": "another reading, or another label, of the same machine and time has another value",
}
"""Why a reading is in quarantine. Later rules are looked at only where the earlier ones hold."""

REASONS: Final = ("rule", "column", "value", "source", "origin", "machine", "time", "came", "stored")
"""Columns of a quarantined row before its own, each behind a ``_``; see `mark`."""

OWN: Final = "row."
"""Stands before the name of each of a row's own columns: no source has a name that is one of `REASONS`."""


@dataclass(frozen=True)
class Whence:
    """Whose some rows are, and where and when they were found.

    Args:
        source: The source's name.
        origin: Where in it.
        machine: Of each row, as the door read it; null where none is named (N,).
        time: Of each row, as the door read it, in the type that the store has; null where it has none (N,).
        came: The moment at which each row came, in UTC (N,).
        stored: Whether the rows are in the contract's names and units, not in the source's.
    """

    source: str
    origin: str
    machine: "pa.Array | pa.ChunkedArray"
    time: "pa.Array | pa.ChunkedArray"
    came: "pa.Array"
    stored: bool = False


class Findings:
    """The first rule that each of ``rows`` readings breaks, and single inputs that break one."""

    def __init__(self, rows: int) -> None:
        self.code = np.zeros(rows, np.int32)
        self.known = [("", "")]
        self.cells: list[tuple[NDArray[np.bool_], str, str]] = []

    def add_cell(self, where: NDArray[np.bool_], rule: str, column: str) -> None:
        """Note single inputs that break a rule."""
        if where.any():
            self.cells.append((where, rule, column))

    def add(self, where: NDArray[np.bool_], rule: str, column: str) -> None:
        """Note readings that break a rule, those that broke none before."""
        if where.any():
            self.code[where & (self.code == 0)] = len(self.known)
            self.known.append((rule, column))

    def of(self, rows: NDArray[np.intp]) -> list[tuple[str, str]]:
        """Rule and column of each of these rows."""
        return [self.known[code] for code in self.code[rows]]


def mark(raw: "pa.Table", reasons: list[tuple[str, str]], values: list[Any], whence: Whence) -> "pa.Table":
    """Return rows for quarantine: every column as text, behind the reason and whence the row is.

    Args:
        raw: Rows as they came (N, columns).
        reasons: Of each row, which of `RULES` it broke, in which column.
        values: Of each row, what stood there.
        whence: Whose they are.
    """
    import pyarrow as pa

    text, rows = pa.string(), len(raw)
    before = [
        pa.array([rule for rule, _ in reasons], text),
        pa.array([column for _, column in reasons], text),
        pa.array(values, text),
        pa.array([whence.source] * rows, text),
        pa.array([whence.origin] * rows, text),
        whence.machine,
        whence.time,
        whence.came,
        pa.array([whence.stored] * rows, pa.bool_()),
    ]
    cells = [pa.array(parsing.texts(raw.column(name)), text) for name in raw.column_names]
    names = [*(f"_{name}" for name in REASONS), *(f"{OWN}{name}" for name in raw.column_names)]
    return pa.Table.from_arrays([*before, *cells], names)


def own(marked: "pa.Table") -> "pa.Table":
    """Return quarantined rows as they came, by the names that they came with."""
    names = [name for name in marked.column_names if name.startswith(OWN)]
    return marked.select(names).rename_columns([name.removeprefix(OWN) for name in names])


def stamps(seconds: NDArray[np.float64]) -> "pa.Array":
    """Return seconds since 1970 as moments (N,)."""
    import pyarrow as pa

    return pa.array(np.round(seconds * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))


def told(bad: "pa.Table") -> Iterator[tuple[str, str, int]]:
    """Yield rule, column and number of quarantined rows, the most first."""
    reasons = bad.select(["_rule", "_column"]).to_pandas()
    counts = reasons.groupby(["_rule", "_column"]).size().sort_values(ascending=False)
    for (rule, column), count in counts.items():
        yield str(rule), str(column), int(count)
