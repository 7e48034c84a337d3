"""The door of a plant's store: every reading that comes is held to the contract, by itself.

What keeps it goes in, in the contract's units and in UTC. What breaks it goes to quarantine with the rule,
the column and the value, as it came, so that it can be released after a fix. The values are checked with
pandera; what has to be known first, which machine and when, is read here.

A row without any input that tells a label is no reading: it is a label that came apart from its reading, and
may be as late as it likes.
"""

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Source
from interplant.data import parsing
from interplant.data.contract import columns
from interplant.data.ranges import check_ranges
from interplant.data.reasons import Findings, Whence, mark, stamps
from interplant.data.units import EPOCHS, convert

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Admitted:
    """A batch, parted.

    A reading that has other inputs than the one that breaks a rule, where the contract holds values over, is
    in both: there without that one, here with it alone.

    Args:
        good: Readings as the store keeps them; see `layout`.
        bad: Readings as they came, by the source's names, all columns as text, with their reasons; see
            `interplant.data.reasons.mark`.
        labels: Machine, time, label and what tells it, of rows that have no reading: it came before, or will.
        good_rows: Which rows of the batch the good ones are.
        bad_rows: Which the bad ones are.
        label_rows: Which the labels are.
    """

    good: "pa.Table"
    bad: "pa.Table"
    labels: "pa.Table"
    good_rows: NDArray[np.intp]
    bad_rows: NDArray[np.intp]
    label_rows: NDArray[np.intp]


def layout(contract: Contract) -> "pa.Schema":
    """Return the columns of stored readings: machine, time, cycle, inputs, label and what tells it.

    Times are microseconds in UTC, or numbers where the contract's clock counts; all else is float64, of a
    label that is text the number that stands for it (`interplant.data.texts`).
    """
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC") if contract.clock == "timestamp" else pa.float64()
    others = [
        *([contract.cycle] if contract.cycle else []),
        *columns(contract),
        contract.label,
        *contract.never,
    ]
    fields = [(contract.machine, pa.string()), (contract.time, moment)]
    return pa.schema(fields + [(name, pa.float64()) for name in others])


def admit(
    table: "pa.Table",
    contract: Contract,
    source: Source,
    origin: str,
    newest: Mapping[str, float] | None = None,
    now: float | NDArray[np.float64] | None = None,
    known: Callable[[Sequence[str], NDArray[Any]], NDArray[np.bool_]] | None = None,
    apart: bool = True,
) -> Admitted:
    """Hold each reading of a batch to the contract.

    Args:
        table: As a source found them; columns by the contract's names or the source's own.
        contract: What they are held to.
        source: Its units, its names, and its machine.
        origin: Where they were found.
        newest: By machine, the time of its newest stored reading (microseconds, or the contract's count).
        now: When they came, all or each (N,), in seconds since 1970; by default the clock's.
        known: Tells which readings, by machine and time, the store has: one that comes again is not late.
        apart: Whether labels may come apart from their readings; else each row is a reading.

    Raises:
        UsageError: The source's declared units cannot be converted.
    """
    import pyarrow as pa

    from interplant.data.sources import renamed

    own = _once(table.column_names)
    raw = table.rename_columns(_once(renamed(own, source.columns)))
    found = Findings(len(raw))
    now = clock.time() if now is None else now
    machine, values, unread = _identity(raw, contract, source, found)
    parsed = {
        name: _parsed(raw.column(name), name, contract)
        for name in _wanted(contract)
        if name in raw.column_names
    }
    alone = np.zeros(len(raw), np.bool_)
    if apart and not contract.hold:  # where readings may be partial, these are such
        alone = _labels_alone(parsed, len(raw), contract)
    _check_ahead(values[contract.time], contract, found, now)
    if contract.late and newest:
        found.add(
            ~alone & _late(machine, values[contract.time], contract, newest, known), "late", contract.time
        )
    values |= _read_numbers(parsed, alone, contract, source, found)
    check_ranges(values, contract, found)
    moments = values[contract.time]

    def whence(rows: NDArray[np.intp]) -> Whence:
        read = _read(machine, moments, unread, rows)
        return Whence(source.name, origin, *read, stamps(np.broadcast_to(now, len(raw))[rows]))

    spared, spared_rows = _spare(raw, own, values, contract, found, whence)
    arrays = {name: _array(own) for name, own in values.items()} | {contract.machine: machine}
    fields = layout(contract)
    kept = pa.Table.from_arrays(
        [arrays[field.name] if field.name in arrays else pa.nulls(len(raw), field.type) for field in fields],
        schema=fields,
    )
    bad, told = np.flatnonzero(found.code), [contract.machine, contract.time, contract.label, *contract.never]
    whole = found.code == 0
    good_rows, label_rows = np.flatnonzero(whole & ~alone), np.flatnonzero(whole & alone)
    labels = kept.take(pa.array(label_rows)).select(told)
    if not len(bad) and not len(labels):
        return Admitted(kept, spared, labels, good_rows, spared_rows, label_rows)
    reasons, wrong = found.of(bad), raw.take(pa.array(bad))
    cells = parsing.cells(wrong, [name for _, name in reasons])
    good = kept.take(pa.array(good_rows))
    # Under the source's own names, so that it can be released when those were the mistake.
    refused = mark(wrong.rename_columns(own), reasons, cells, whence(bad))
    refused = pa.concat_tables([refused, spared]) if len(spared) else refused
    return Admitted(good, refused, labels, good_rows, np.r_[bad, spared_rows], label_rows)


def _read(
    machine: "pa.ChunkedArray", times: NDArray[Any], unread: NDArray[np.bool_], rows: NDArray[np.intp]
) -> "tuple[pa.ChunkedArray, pa.Array]":
    """Machine and time of some rows, null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named, read = machine.take(pa.array(rows)), _array(times[rows])
    return (
        pc.if_else(pc.equal(named, ""), pa.scalar(None, named.type), named),
        pc.if_else(pa.array(unread[rows]), pa.scalar(None, read.type), read),
    )


def _spare(
    raw: "pa.Table",
    own: list[str],
    values: dict[str, NDArray[Any]],
    contract: Contract,
    found: Findings,
    whence: Callable[[NDArray[np.intp]], Whence],
) -> "tuple[pa.Table, NDArray[np.intp]]":
    """Take single broken inputs out of partial readings that have others; return them for quarantine.

    Which rows they are of is returned beside them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = columns(contract)
    broken = {name: np.zeros(len(raw), np.bool_) for name in names}
    for where, _, name in found.cells:
        broken[name] |= where
        values[name] = np.where(broken[name], np.nan, values[name])
    left = np.zeros(len(raw), np.bool_)
    for name in names:
        left |= np.isfinite(values[name]) if name in values else False
    for where, rule, name in found.cells:
        found.add(where & ~left, rule, name)
    chosen = np.flatnonzero(np.logical_or.reduce(list(broken.values())) & (found.code == 0))
    first: dict[int, tuple[str, str]] = {}
    for where, rule, name in reversed(found.cells):
        first |= dict.fromkeys(np.flatnonzero(where).tolist(), (rule, name))
    reasons = [first[row] for row in chosen.tolist()]
    part = raw.take(pa.array(chosen))
    told = parsing.cells(part, [name for _, name in reasons])
    for place, name in enumerate(part.column_names):
        if name in broken:
            kept = pc.if_else(pa.array(broken[name][chosen]), part.column(name), None)
            part = part.set_column(place, name, kept)
    return mark(part.rename_columns(own), reasons, told, whence(chosen)), chosen


def as_it_came(table: "pa.Table", contract: Contract, texts: Sequence[str]) -> "pa.Table":
    """Return stored readings with the label as a source tells it: one of these texts, or a number."""
    if not texts or contract.label not in table.column_names:
        return table
    place = table.column_names.index(contract.label)
    return table.set_column(place, contract.label, parsing.written(table.column(place), texts))


def _identity(
    raw: "pa.Table", contract: Contract, source: Source, found: Findings
) -> "tuple[pa.ChunkedArray, dict[str, NDArray[Any]], NDArray[np.bool_]]":
    """Machines, times, and where no time can be read; a reading without either is nobody's."""
    import pyarrow as pa

    every = np.ones(len(raw), np.bool_)
    if source.machine or contract.machine not in raw.column_names:
        machine = pa.chunked_array([pa.array([source.machine or None] * len(raw), pa.string())])
        found.add(every & (not source.machine), "column", contract.machine)
    else:
        machine, empty = parsing.names(raw.column(contract.machine))
        found.add(empty, "machine", contract.machine)
    if contract.time not in raw.column_names:
        found.add(every, "column", contract.time)
        nothing = np.int64 if contract.clock == "timestamp" else np.float64
        return machine, {contract.time: np.zeros(len(raw), nothing)}, every
    unit = source.units.get(contract.time, "")
    if contract.clock == "timestamp" and unit and unit not in EPOCHS:
        raise UsageError(
            f"source {source.name}: units.{contract.time}: expected one of {', '.join(EPOCHS)}, "
            f"found {unit!r}"
        )
    moment = parsing.times(raw.column(contract.time), contract, unit if contract.clock == "timestamp" else "")
    found.add(moment.shifted, "clock_change", contract.time)
    found.add(moment.missing | moment.wrong, "time", contract.time)
    return machine, {contract.time: moment.values}, moment.missing | moment.wrong | moment.shifted


def _check_ahead(
    times: NDArray[Any], contract: Contract, found: Findings, now: float | NDArray[np.float64]
) -> None:
    if contract.clock == "timestamp":
        found.add(times > (now + contract.ahead) * 1e6, "ahead", contract.time)


def _late(
    machine: "pa.ChunkedArray",
    times: NDArray[Any],
    contract: Contract,
    newest: Mapping[str, float],
    known: Callable[[Sequence[str], NDArray[Any]], NDArray[np.bool_]] | None,
) -> NDArray[np.bool_]:
    """Which readings are too late, and new."""
    coded = machine.combine_chunks().dictionary_encode()
    bounds = np.array([newest.get(str(name), -np.inf) for name in coded.dictionary] + [-np.inf])
    place = coded.indices.fill_null(len(bounds) - 1).to_numpy(zero_copy_only=False)
    found: NDArray[np.bool_] = times < bounds[place] - contract.late * (
        1e6 if contract.clock == "timestamp" else 1.0
    )
    if known is not None and found.any():
        rows = np.flatnonzero(found)
        found[rows] = ~known([str(coded.dictionary[int(one)]) for one in place[rows]], times[rows])
    return found


def _wanted(contract: Contract) -> list[str]:
    """All columns but machine and time."""
    return [
        *columns(contract),
        *([contract.cycle] if contract.cycle else []),
        contract.label,
        *contract.never,
    ]


def _parsed(column: "pa.ChunkedArray", name: str, contract: Contract) -> parsing.Parsed:
    if name == contract.label and contract.texts:
        return parsing.coded(column, contract.texts)
    return parsing.numbers(column)


def _labels_alone(parsed: Mapping[str, parsing.Parsed], rows: int, contract: Contract) -> NDArray[np.bool_]:
    """Which rows tell a label and have no input."""
    found = np.zeros(rows, np.bool_)
    for name in (contract.label, *contract.never):
        if name in parsed:
            found |= ~parsed[name].missing
    for name in columns(contract):
        if name in parsed and found.any():
            found &= parsed[name].missing
    return found


def _read_numbers(
    columns_by_name: Mapping[str, parsing.Parsed],
    alone: NDArray[np.bool_],
    contract: Contract,
    source: Source,
    found: Findings,
) -> dict[str, NDArray[np.float64]]:
    """All other columns as numbers in the contract's units, NaN where there is none."""
    units = {name: column.unit for name, column in {**contract.settings, **contract.sensors}.items()}
    inputs = columns(contract) if contract.hold else []
    optional = {contract.label, *contract.never, *inputs}
    values: dict[str, NDArray[np.float64]] = {}
    some = np.zeros(len(alone), np.bool_)
    for name in _wanted(contract):
        if name not in columns_by_name:
            if name not in optional:
                found.add(~alone, "column", name)
            continue
        parsed = columns_by_name[name]
        note = found.add_cell if name in inputs else found.add
        note(parsed.wrong, "text" if name == contract.label and contract.texts else "type", name)
        if name not in optional:
            found.add(parsed.missing & ~alone, "missing", name)
        note(~np.isfinite(parsed.values) & ~parsed.missing & ~parsed.wrong, "finite", name)
        some |= ~parsed.missing
        given = source.units.get(name, "")
        values[name] = (
            convert(parsed.values, given, units[name]) if given and name in units else parsed.values
        )
    found.add(~some, "missing", columns(contract)[0])
    return values


def _array(values: NDArray[Any]) -> "pa.Array":
    """Whole numbers are times in microseconds; all else may be missing."""
    import pyarrow as pa

    if values.dtype == np.int64:
        return pa.array(values).cast(pa.timestamp("us", "UTC"))
    return pa.array(values, from_pandas=True)


def _once(names: list[str]) -> list[str]:
    """Column names, each told apart by its number from one before it."""
    taken, found = set[str](), list[str]()
    for place, name in enumerate(names):
        own = name
        while own in taken:
            own = f"{own}#{place}"
        taken.add(own)
        found.append(own)
    return found
