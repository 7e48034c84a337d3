"""Plain values, as a database or a message gives them, as Arrow columns that lose nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from interplant.data.sources import UNPARSED

if TYPE_CHECKING:
    import pyarrow as pa


def from_rows(rows: Sequence[Mapping[str, Any]], numbers: AbstractSet[str]) -> "pa.Table":
    """Return rows as a table with every column that one of them has.

    Args:
        rows: Readings; what a row does not have is null.
        numbers: Names of columns that hold numbers.
    """
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return from_columns({name: [row.get(name) for row in rows] for name in names}, numbers)


def from_columns(columns: Mapping[str, Sequence[Any]], numbers: AbstractSet[str]) -> "pa.Table":
    """Return columns of plain values as a table; see `from_rows`."""
    import pyarrow as pa

    taken, found = set(columns), {}
    for name, values in columns.items():
        own = _free(name, taken)
        taken.add(own)
        # Beside what is no reading, which is text.
        found[own] = _as_text(values) if own == UNPARSED else column(values, name in numbers)
    return pa.table(found)


def column(values: Sequence[Any], number: bool = False) -> "pa.Array":
    """Return values as one array: of their own type if they have one, else as text.

    Args:
        values: Plain values, None where there is none.
        number: Whether float64 is wanted.
    """
    import pyarrow as pa

    try:
        if number and any(isinstance(value, Decimal) for value in values):
            values = [float(value) if isinstance(value, Decimal) else value for value in values]
        if not number and _of_two_minds(values):
            return _as_text(values)
        return pa.array(values, pa.float64() if number else None)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _as_text(values)


def unparsed(texts: Iterable[str], most: int) -> "pa.Table":
    """Return what is no reading as rows that the door will refuse.

    Args:
        texts: What came.
        most: Characters of each that are kept.
    """
    import pyarrow as pa

    return pa.table({UNPARSED: pa.array([_written(text[:most]) for text in texts], pa.string())})


def _of_two_minds(values: Sequence[Any]) -> bool:
    """Whether Arrow would take values for something else: local times for UTC, true for 1."""
    kinds = {type(value) for value in values if value is not None}
    if datetime in kinds:
        zoned = {value.tzinfo is not None for value in values if isinstance(value, datetime)}
        return len(zoned) > 1 or len(kinds) > 1
    return len(kinds) > 1 and not kinds <= {int, float}


def _as_text(values: Sequence[Any]) -> "pa.Array":
    import pyarrow as pa

    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool | dict | list):
        return _written(json.dumps(value, default=str))
    return _written(value.isoformat() if isinstance(value, datetime) else str(value))


def _free(name: str, taken: AbstractSet[str]) -> str:
    """A column's name as UTF-8 can write it, and none of those that are taken by others."""
    own = _written(name)
    while own != name and own in taken:
        own += "?"
    return own


def _written(text: str) -> str:
    """Text without what UTF-8 cannot write: half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
