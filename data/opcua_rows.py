"""Single values of OPC UA nodes, assembled into readings: one for each machine and source timestamp."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from interplant.data.columns import column

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Cell:
    """Where the values of a node belong."""

    machine: str
    column: str


@dataclass(frozen=True)
class Values:
    """Readings that are complete.

    Args:
        table: One for each machine and time; null where a node had no value then.
        marks: By node, the time of its last value in them.
    """

    table: "pa.Table"
    marks: dict[str, datetime]


@dataclass
class Assembly:
    """Readings that values still come for.

    Args:
        cells: By node.
        machine: The contract's machine column.
        time: The contract's time column.
        hold: Seconds that a reading waits for the values of its other nodes.
    """

    cells: Mapping[str, Cell]
    machine: str
    time: str
    hold: float
    _rows: dict[tuple[datetime, str], dict[str, Any]] = field(default_factory=dict, init=False)
    _came: dict[tuple[datetime, str], float] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def add(self, node: str, when: datetime, value: Any) -> None:
        """Take a value."""
        key = (when, self.cells[node].machine)
        row = self._rows.setdefault(key, {})
        self._came.setdefault(key, time.monotonic())
        self._count += node not in row
        row[node] = value

    def __len__(self) -> int:
        """How many values wait."""
        return self._count

    def due(self) -> datetime | None:
        """Up to which time readings are complete; None: none is."""
        latest = time.monotonic() - self.hold
        return max((key[0] for key, came in self._came.items() if came <= latest), default=None)

    def take(self, until: datetime) -> Values | None:
        """Hand out the readings up to a time, in order; None if there are none."""
        keys = sorted(key for key in self._rows if key[0] <= until)
        if not keys:
            return None
        rows, marks = [], dict[str, datetime]()
        for key in keys:
            values = self._rows.pop(key)
            del self._came[key]
            self._count -= len(values)
            rows.append(values)
            marks.update(dict.fromkeys(values, key[0]))
        return Values(self._table(keys, rows), marks)

    def _table(self, keys: list[tuple[datetime, str]], rows: list[dict[str, Any]]) -> "pa.Table":
        import pyarrow as pa

        columns: dict[str, list[Any]] = {
            self.machine: [machine for _, machine in keys],
            self.time: [when for when, _ in keys],
        }
        for place, row in enumerate(rows):
            for node, value in row.items():
                name = self.cells[node].column
                columns.setdefault(name, [None] * len(rows))[place] = value
        return pa.table({name: column(values) for name, values in columns.items()})


def plain(value: Any, status: str) -> Any:
    """Return a node's value as a cell holds it.

    Args:
        value: As the server gave it.
        status: Name of its status; all but ``Good`` stands in the value's place, for quarantine.
    """
    if status != "Good":
        return status
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        # One type a column: whole numbers beyond what a float holds stay whole, and become text.
        return float(value) if isinstance(value, float) or abs(value) <= 2**53 else value
    return value if isinstance(value, datetime) else str(value)[:200]
