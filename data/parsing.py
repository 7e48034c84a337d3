"""A source's columns as the numbers, moments and names that a contract speaks of.

Nothing here raises over a value: what is not one is masked, and the door says so of its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.data.texts import code, of_codes
from interplant.data.units import EPOCHS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PER: Final = {"s": 1_000_000, "ms": 1_000, "us": 1, "day": 86_400_000_000}
"""Microseconds in what Arrow's kinds of times count; nanoseconds end in 2262."""

_FIRST: Final = -62_135_510_400_000_000
_LAST: Final = 253_402_214_399_999_999
"""Microseconds since 1970 that are a time here: the years 1 to 9999 but for a day at either end, so that each
is a date in every zone."""

OFFSET = r"(?:[Zz]|:\d{2}(?:\.\d+)?\s*[+-]\d{2}(?::?\d{2})?)$"
"""How a timestamp ends that brings its own offset from UTC."""


@dataclass(frozen=True)
class Parsed:
    """One column.

    Args:
        values: float64, NaN where there is none; or int64 microseconds since 1970 (UTC), 0 where none.
        missing: Where there is nothing at all.
        wrong: Where there is something else than asked for.
        shifted: Of times: where a change of clocks makes a local time mean two moments, or none.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    shifted: NDArray[np.bool_]


def numbers(column: "pa.ChunkedArray") -> Parsed:
    """Parse numbers; text that is one counts, an empty text is missing."""
    import pandas as pd
    import pyarrow as pa

    kind, nothing = column.type, np.zeros(len(column), np.bool_)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        missing = np.asarray(column.is_null()) if column.null_count else nothing
        values = column.cast(pa.float64(), safe=False).to_numpy()
        return Parsed(values, missing, nothing, nothing)
    if pa.types.is_decimal(kind):
        return numbers(column.cast(pa.float64()))
    text = texts(column)
    missing = (text.isna() | (text == "")).to_numpy(np.bool_)
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    spelled = text.str.lower().isin(("nan", "+nan", "-nan")).to_numpy(np.bool_)
    return Parsed(values, missing, np.isnan(values) & ~missing & ~spelled, nothing)


def coded(column: "pa.ChunkedArray", known: Sequence[str]) -> Parsed:
    """Parse text that is one of some, as the number that stands for it; an empty text is missing."""
    text = texts(column)
    missing = (text.isna() | (text == "")).to_numpy(np.bool_)
    values = text.map({one: code(one) for one in known}).to_numpy(np.float64)
    return Parsed(values, missing, np.isnan(values) & ~missing, np.zeros(len(text), np.bool_))


def written(column: "pa.ChunkedArray", known: Sequence[str]) -> "pa.ChunkedArray":
    """Return the texts that `coded` has made numbers of; a number that stands for none stays."""
    import pyarrow as pa

    own = of_codes(known)
    found = [None if one is None else own.get(one, f"{one:.17g}") for one in column.to_pylist()]
    return pa.chunked_array([pa.array(found, pa.string())])


def times(column: "pa.ChunkedArray", contract: Contract, unit: str = "") -> Parsed:
    """Parse the contract's times.

    Args:
        column: Timestamps, text in ISO 8601, or numbers.
        contract: Its ``clock``, and the ``zone`` of what brings no offset of its own.
        unit: Of numbers that count since 1970 (UTC), one of `EPOCHS`; without it a number is no moment.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if contract.clock == "count":
        found = numbers(column)
        return Parsed(found.values, found.missing, found.wrong | _infinite(found.values), found.shifted)
    nothing = np.zeros(len(column), np.bool_)
    if unit:
        found = numbers(column)
        with np.errstate(over="ignore"):
            micros = found.values * EPOCHS[unit]
        wrong = found.wrong | ~((micros >= _FIRST) & (micros <= _LAST))
        return Parsed(_whole(micros, wrong | found.missing), found.missing, wrong, nothing)
    missing = np.asarray(column.is_null()) if column.null_count else nothing
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        wrong = _beyond(column)
        if wrong.any():
            column = pc.if_else(pa.array(wrong), None, column)
        if pa.types.is_timestamp(column.type) and column.type.tz:
            return Parsed(_micros(column), missing, wrong, nothing)
        local = _local(column.cast(pa.timestamp("us"), safe=False).to_pandas(), contract, missing | wrong)
        return replace(local, missing=missing, wrong=wrong)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return Parsed(np.zeros(len(column), np.int64), missing, ~missing, nothing)
    return _written(texts(column), contract)


def names(column: "pa.ChunkedArray") -> "tuple[pa.ChunkedArray, NDArray[np.bool_]]":
    """Return machine names as text, and where there is none; 7 and 7.0 are both ``7``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    if pa.types.is_floating(column.type):
        # Beyond, a float no longer tells two numbers apart: it stays as it is written.
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
        column = pc.if_else(
            whole, column.cast(pa.int64(), safe=False).cast(pa.string()), column.cast(pa.string())
        )
    elif pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    elif not pa.types.is_string(column.type):
        column = pa.chunked_array([pa.array(texts(column), type=pa.string())])
    column = pc.utf8_trim_whitespace(column)
    column = pc.replace_substring_regex(column, r"^(-?\d+)\.0+$", r"\1")
    empty = pc.fill_null(pc.equal(column, ""), True)
    return column, np.asarray(empty)


def texts(column: "pa.ChunkedArray") -> "pd.Series[Any]":
    """Return a column's values as they would be written, None where there is none."""
    import pandas as pd
    import pyarrow as pa

    try:
        if pa.types.is_timestamp(column.type) and column.type.tz:
            written = _zoned(column)
        else:
            written = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Nested and binary values, which have no text of their own.
        written = pa.chunked_array([pa.array([_shown(one) for one in column], pa.string())])
    return pd.Series(written.to_numpy(), dtype=object).str.strip()


def cells(table: "pa.Table", columns: Sequence[str]) -> list[str | None]:
    """Return of each row the value of one column, as it would be written; None where there is no such column.

    Args:
        table: Rows (N, columns).
        columns: Of each row, which.
    """
    written = {name: texts(table.column(name)) for name in set(columns).intersection(table.column_names)}
    return [written[name].iloc[row] if name in written else None for row, name in enumerate(columns)]


def _zoned(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Moments as text, in UTC where nobody knows their zone."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return column.cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.string())


def _shown(cell: "pa.Scalar[Any]") -> str | None:
    """A value as Python writes it, at most 200 characters; by its kind if Python has none such."""
    try:
        return repr(cell.as_py())[:200] if cell.is_valid else None
    except (ValueError, OverflowError, LookupError):
        return f"a {cell.type}"[:200]


def _written(text: "pd.Series[Any]", contract: Contract) -> Parsed:
    import pandas as pd

    missing = (text.isna() | (text == "")).to_numpy(np.bool_)
    own = text.str.contains(OFFSET, regex=True, na=False).to_numpy(np.bool_)
    micros, wrong, shifted = (
        np.zeros(len(text), np.int64),
        np.zeros(len(text), np.bool_),
        np.zeros(len(text), np.bool_),
    )
    if own.any():
        found = _kept(pd.to_datetime(text[own], format="ISO8601", errors="coerce", utc=True))
        micros[own], wrong[own] = _from_pandas(found), found.isna().to_numpy()
    rest = ~own & ~missing
    if rest.any():
        local_text = text[rest]
        naive = _kept(pd.to_datetime(local_text, format="ISO8601", errors="coerce"))
        # 20260105 is a date in ISO 8601's short form; a number without a unit is no time, read or written.
        number = (naive == naive.dt.normalize()).to_numpy(copy=True)
        number[number] = local_text[number].str.isdecimal()
        naive = naive.mask(number)
        local = _local(naive, contract, naive.isna().to_numpy())
        micros[rest], wrong[rest], shifted[rest] = local.values, naive.isna().to_numpy(), local.shifted
    return Parsed(micros, missing, wrong, shifted)


def _local(naive: "pd.Series[Any]", contract: Contract, missing: NDArray[np.bool_]) -> Parsed:
    found = naive.dt.tz_localize(contract.zone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
    shifted = found.isna().to_numpy() & ~missing
    return Parsed(_from_pandas(found), missing, np.zeros(len(naive), np.bool_), shifted)


def _kept(found: "pd.Series[Any]") -> "pd.Series[Any]":
    """Times, those beyond what is a time here as none."""
    micros = _from_pandas(found)
    return found.where((micros >= _FIRST) & (micros <= _LAST))


def _beyond(column: "pa.ChunkedArray") -> NDArray[np.bool_]:
    """Which times lie beyond what is a time here, whatever Arrow can count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    unit = "day" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    per = _PER.get(unit, 1)
    first, last = _FIRST // per, _LAST // per
    counts = column.cast(pa.int32() if unit == "day" else pa.int64()).cast(pa.int64())
    ends = pc.min_max(counts).as_py()
    if unit == "ns" or ends["min"] is None or (first <= ends["min"] and ends["max"] <= last):
        return np.zeros(len(column), np.bool_)
    inside = pc.and_(pc.greater_equal(counts, first), pc.less_equal(counts, last))
    return ~np.asarray(pc.fill_null(inside, True))


def _from_pandas(found: "pd.Series[Any]") -> NDArray[np.int64]:
    micros = found.dt.as_unit("us").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return np.where(found.isna().to_numpy(), 0, micros)


def _micros(column: "pa.ChunkedArray") -> NDArray[np.int64]:
    import pyarrow as pa

    found: NDArray[np.int64] = (
        column.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64()).fill_null(0).to_numpy()
    )
    return found


def _whole(micros: NDArray[np.float64], without: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(without | np.isnan(micros), 0.0, micros).round().astype(np.int64)


def _infinite(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What is there and not finite; NaN is there too, unless it is missing, which is looked at first."""
    found: NDArray[np.bool_] = ~np.isfinite(values)
    return found
