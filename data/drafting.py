"""Drafts a contract from a sample of readings, for a person to edit: `interplant data ingest --infer`."""

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_TIMES: Final = ("time", "timestamp", "ts", "datetime", "date", "cycle", "zeit", "zeitstempel")
_MOST_TEXTS: Final = 50
_LARGEST: Final = 1e300
_MACHINES: Final = ("machine", "machine_id", "asset", "unit", "device", "line", "maschine", "anlage")

HEAD: Final = """\
# Drafted from a sample of {rows} readings. Go through every line before you use it:
# - Ranges become public: they normalise the inputs and stand in every task. Write what the sensor and the
#   process allow, rounded, not what this sample happens to hold.
# - Units are guesses of nobody: each is empty until you fill it in.
# - Columns that tell the label (it, or its cause, is known only afterwards) go under `never`.
"""


def draft(table: "pa.Table", label: str = "") -> str:
    """Return a contract as YAML.

    Args:
        table: A sample (N, columns), as a source found it.
        label: The column that is to be predicted, if there is one.

    Raises:
        UsageError: There is no column of times, none of numbers, or not the label's.
    """
    import pyarrow as pa

    names = table.column_names
    time = _first(names, _TIMES) or next(
        (name for name in names if pa.types.is_temporal(table.column(name).type)), None
    )
    if time is None:
        raise UsageError(f"expected a column of times, such as timestamp or cycle, found {', '.join(names)}")
    machine = _first(names, _MACHINES)
    others = [name for name in names if name not in (machine, time)]
    if label and label not in others:
        raise UsageError(f"--label: expected one of {', '.join(others)}, found {label!r}")
    stamped = not (
        pa.types.is_integer(table.column(time).type) or pa.types.is_floating(table.column(time).type)
    )
    lines = [HEAD.format(rows=len(table)).rstrip(), "version: 1", f"machine: {_key(machine or 'machine')}"]
    if machine is None:
        lines[-1] += "   # no such column was found: name the machine in the source (data.sources.….machine)"
    lines += [f"time: {_key(time)}", f"clock: {'timestamp' if stamped else 'count'}"]
    if stamped:
        lines.append("zone: UTC   # of times that bring no offset of their own")
    interval = _interval(table, machine, time)
    lines += [f"interval: {interval:g}   # {'seconds' if stamped else 'counts'}", f"gap: {10 * interval:g}"]
    lines += [f"label: {_key(label or 'label')}", *_texts(table, label), "never: []", "sensors:"]
    sensors = list(_ranges(table, {machine, time, label}))
    if not sensors:
        raise UsageError(f"expected columns of numbers beside {time!r}, found none")
    used = {machine, time, label, *(name for name, *_ in sensors)}
    left_out = [name for name in table.column_names if name not in used]
    if left_out:
        lines.insert(-1, f"# Left out, as they hold hardly any numbers here: {', '.join(left_out)}")
    lines += [f"  {_key(name)}: {{unit: '', low: {low:g}, high: {high:g}}}" for name, low, high in sensors]
    return "\n".join(lines) + "\n"


def _texts(table: "pa.Table", label: str) -> list[str]:
    """A line with what the label says, if that is text."""
    import pyarrow as pa

    from interplant.data import parsing

    if label not in table.column_names:
        return []
    column = table.column(label)
    if not pa.types.is_boolean(column.type) and not parsing.numbers(column).wrong.any():
        return []
    found = parsing.texts(column)
    known = sorted(found[found.notna() & (found != "")].unique())
    if len(known) > _MOST_TEXTS:
        return ["texts: []   # all that the label may say, as it is text: more than a sample should tell"]
    written = ", ".join(json.dumps(one, ensure_ascii=False) for one in known)
    return [f"texts: [{written}]   # all that the label may say"]


def _ranges(table: "pa.Table", reserved: set[str | None]) -> Iterable[tuple[str, float, float]]:
    from interplant.data import parsing

    for name in table.column_names:
        if name in reserved:
            continue
        parsed = parsing.numbers(table.column(name))
        # No sensor measures more: it is how a source writes that there is nothing.
        values = parsed.values[np.abs(parsed.values) < _LARGEST]
        if len(values) < 0.5 * len(table):
            continue  # text, or hardly ever there
        low, high = np.quantile(values, (0.001, 0.999))
        step = 10.0 ** math.floor(math.log10(max(high - low, abs(high), 1e-9))) / 2.0
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        yield name, low, high if high > low else low + step


def _interval(table: "pa.Table", machine: str | None, time: str) -> float:
    """The commonest time between two readings of a machine: seconds, or counts."""
    import pandas as pd

    column = table.column(time).to_pandas()
    number = pd.api.types.is_numeric_dtype(column)
    when = column.to_numpy(np.float64) if number else _seconds(column)
    who = table.column(machine).to_pandas().to_numpy() if machine else np.zeros(len(when))
    frame = pd.DataFrame({"who": who, "when": when}).dropna().sort_values(["who", "when"])
    steps = frame.groupby("who")["when"].diff()
    steps = steps[(steps > 0) & (steps < _LARGEST)].round(6)
    return float(steps.mode().iloc[0]) if len(steps) else 1.0


def _seconds(column: "pd.Series[object]") -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    import pandas as pd

    found = pd.to_datetime(
        column, errors="coerce", utc=True, format="ISO8601" if column.dtype == object else None
    )
    micros = found.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64) / 1e6
    return np.where(found.isna().to_numpy(), np.nan, micros)


def _first(names: list[str], known: tuple[str, ...]) -> str | None:
    lowered = {name.lower(): name for name in names}
    return next((lowered[one] for one in known if one in lowered), None)


def _key(name: str) -> str:
    """A name as YAML takes it."""
    import yaml

    return yaml.safe_dump(name, allow_unicode=True).splitlines()[0]
