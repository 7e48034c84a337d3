"""Why a reading is in quarantine: the rules, and how a row is marked with the one that it broke."""

from collections.abc import Iterator
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

REASONS: Final = ("rule", "column", "value", "source", "origin")
"""Columns of a quarantined reading before its own; see `mark`."""


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


def mark(
    raw: "pa.Table", reasons: list[tuple[str, str]], values: list[Any], source: str, origin: str
) -> "pa.Table":
    """Return rows for quarantine: every column as text, behind the reason.

    Args:
        raw: Rows as they came (N, columns).
        reasons: Of each row, which of `RULES` it broke, in which column.
        values: Of each row, what stood there.
        source: The source's name.
        origin: Where the rows were found.
    """
    import pyarrow as pa

    text = pa.string()
    before = [[rule for rule, _ in reasons], [column for _, column in reasons], values]
    before += [[name] * len(raw) for name in (source, origin)]
    rows = [pa.array(parsing.texts(raw.column(name)), text) for name in raw.column_names]
    names = [*(f"_{name}" for name in REASONS), *raw.column_names]
    return pa.Table.from_arrays([*(pa.array(own, text) for own in before), *rows], names)


def told(bad: "pa.Table") -> Iterator[tuple[str, str, int]]:
    """Yield rule, column and number of quarantined rows, the most first."""
    reasons = bad.select(["_rule", "_column"]).to_pandas()
    counts = reasons.groupby(["_rule", "_column"]).size().sort_values(ascending=False)
    for (rule, column), count in counts.items():
        yield str(rule), str(column), int(count)
