"""What persons said of readings, beside what sources said: columns of the partitions that have any.

A correction tells of one window, which the machine and the time of its last reading name. It never takes the
place of a source's label: both are kept, and windows take the correction (`interplant.data.labels`). So a
snapshot says which of its labels came from where. The last correction of a reading stands; one that says the
same again changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.data.late import Late

if TYPE_CHECKING:
    import pyarrow as pa

VALUE: Final = "_corrected"
"""Column of what the label is said to be."""

HORIZON: Final = "_horizon"
"""Column of how far after its reading the value speaks of, in the contract's time; 0: of it alone."""

TOLD: Final = "_told"
"""Column of when it was said, in seconds since 1970 (UTC)."""

PREDICTION: Final = "_prediction"
"""Column of the id of the prediction that was corrected."""

NUMBERS: Final = (VALUE, HORIZON, TOLD)
COLUMNS: Final = (*NUMBERS, PREDICTION)


@dataclass
class Joined:
    """A partition after labels joined it.

    Args:
        table: Its readings, with the columns of `COLUMNS` if any is corrected.
        done: Which of the labels need to wait no longer, by their numbers.
        refused: Of these, the ones of sources that contradict another source's.
        corrected: Corrections that changed something.
        new: Of these, those that had not joined their readings before.
        filled: Labels of sources that did.
    """

    table: "pa.Table"
    done: list[int] = field(default_factory=list)
    refused: list[Late] = field(default_factory=list)
    corrected: int = 0
    new: int = 0
    filled: list[Late] = field(default_factory=list)


def attach(table: "pa.Table", before: "pa.Table", contract: Contract) -> "pa.Table":
    """Return readings with the corrections that a partition had before.

    Args:
        table: Readings in the order of their times, all of those before among them.
        before: The partition as it was read.
        contract: Names the columns. What was said of another label than its own is left out.
    """
    if VALUE not in before.column_names or contract.label not in before.column_names:
        return table
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(table.column(contract.time), before.column(contract.time).combine_chunks())
    return _with(table, before.select(list(COLUMNS)).take(pa.chunked_array(place.chunks, pa.int32())))


def kept(table: "pa.Table") -> "pa.Table":
    """Return a partition's table as it is written: without the columns where nothing is corrected."""
    if VALUE not in table.column_names or table.column(VALUE).null_count < len(table):
        return table
    return table.drop_columns(list(COLUMNS))


def late(table: "pa.Table", machine: str, times: NDArray[Any], contract: Contract, source: str) -> list[Late]:
    """Return a partition's corrections as labels that wait for their readings again.

    Args:
        table: The partition's.
        machine: Whose.
        times: Of its readings (N,).
        contract: Names the label.
        source: Stands for where they were.
    """
    if VALUE not in table.column_names or contract.label not in table.column_names:
        return []
    found = zip(times.tolist(), *(table.column(name).to_pylist() for name in COLUMNS), strict=True)
    return [
        Late(
            machine,
            time,
            contract.label,
            value,
            f"prediction {prediction}",
            source,
            horizon,
            told,
            prediction,
        )
        for time, value, horizon, told, prediction in found
        if value is not None
    ]


def join(
    table: "pa.Table", times: NDArray[Any], waiting: Iterable[tuple[int, Late]], contract: Contract
) -> Joined:
    """Give labels that came later to the readings that they are about.

    A source's label fills an empty one and overwrites none: one that says something else is refused. Where
    values are held over, a correction is about the last reading of its interval.

    Args:
        table: One machine's readings, in the order of their times; in the contract's layout, with or without
            corrections.
        times: Theirs (N,); see `interplant.data.partitions.moments`.
        waiting: Labels of that machine, in the order in which they came, each with its number.
        contract: Names the columns.
    """
    joined, rows = Joined(table), len(table)
    ticks, scale = _ticks(times, contract), 1e6 if contract.clock == "timestamp" else 1.0
    labels = {
        name: np.array(table.column(name).to_numpy(), np.float64)
        for name in (contract.label, *contract.never)
    }
    has = VALUE in table.column_names
    said = {
        name: np.array(table.column(name).to_numpy(), np.float64) if has else np.full(rows, np.nan)
        for name in NUMBERS
    }
    predictions = table.column(PREDICTION).to_pylist() if has else [None] * rows
    for number, one in waiting:
        if one.prediction and contract.hold:
            tick = np.floor(one.time / scale / contract.interval + 1e-6)
            place = int(np.searchsorted(ticks, tick, side="right")) - 1
            there = place >= 0 and ticks[place] == tick
        else:
            place = int(np.searchsorted(times, one.time))
            there = place < rows and times[place] == one.time
        if not there or one.column not in labels or (one.prediction and one.column != contract.label):
            continue
        joined.done.append(number)
        if one.prediction:
            new = (one.value, one.horizon)
            if new == (said[VALUE][place], said[HORIZON][place]) or one.told <= said[TOLD][place]:
                continue
            said[VALUE][place], said[HORIZON][place], said[TOLD][place] = *new, one.told
            predictions[place] = one.prediction
            joined.corrected += 1
            joined.new += not one.source
        elif np.isnan(labels[one.column][place]):
            labels[one.column][place] = one.value
            joined.filled.append(one)
        elif labels[one.column][place] != one.value:
            joined.refused.append(one)
    joined.table = _made(table, labels, said, predictions, joined)
    return joined


def _made(
    table: "pa.Table",
    labels: dict[str, NDArray[np.float64]],
    said: dict[str, NDArray[np.float64]],
    predictions: list[str | None],
    joined: Joined,
) -> "pa.Table":
    import pyarrow as pa

    if joined.filled:
        for name, values in labels.items():
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(values, from_pandas=True))
    if joined.corrected:
        numbers = [pa.array(values, from_pandas=True) for values in said.values()]
        table = _with(table, pa.table([*numbers, pa.array(predictions, pa.string())], list(COLUMNS)))
    return table


def _ticks(times: NDArray[Any], contract: Contract) -> NDArray[np.float64]:
    """Which interval each reading stands in; see `interplant.data.pieces`."""
    seconds = times / 1e6 if contract.clock == "timestamp" else times
    found: NDArray[np.float64] = np.floor(seconds / contract.interval + 1e-6)
    return found


def _with(table: "pa.Table", columns: "pa.Table") -> "pa.Table":
    plain = table.select([name for name in table.column_names if name not in COLUMNS])
    for name in COLUMNS:
        plain = plain.append_column(name, columns.column(name))
    return plain
