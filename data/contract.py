"""What a valid reading is, and which readings are not.

A declared range does two jobs. It normalises: its ends become -1 and 1. And it bounds: a reading
may pass an end by as much as the range is wide (``TOLERANCE``), which is -3 to 3 once normalised and
exactly where `interplant.data.windows` clips. So nothing that the contract accepts is ever clipped,
and a unit mistake (Celsius for Rankine) is found at once. A range is declared, never computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.errors import Refusal
from interplant.data.corrections import NUMBERS as CORRECTIONS

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE: Final = 1.0
"""Widths of the declared range by which a reading may pass either end."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Violation:
    """One rule of the contract that one column breaks.

    Args:
        rule: ``missing``, ``extra``, ``type``, ``finite``, ``range`` or ``duplicate``.
        column: Name of the column.
        count: Rows that break the rule; 0 when the column itself is wrong.
        rows: Rows of the table.
        expected: What the contract asks for.
        allowed: Share of the rows that may break it: one wild reading is clipped, a sensor in the wrong unit
            is not.
    """

    rule: str
    column: str
    count: int
    rows: int
    expected: str
    allowed: float = 0.0

    @property
    def blocks(self) -> bool:
        """Whether nothing may be learned from a table with this violation."""
        if self.rule == "range":
            return self.count > self.allowed * self.rows
        return self.rule != "extra"

    def __str__(self) -> str:
        where = f" in {self.count} of {self.rows} rows" if self.count else ""
        return f"column {self.column!r}: {self.expected}{where}"


def usable(frame: "pd.DataFrame", contract: Contract) -> "pd.DataFrame":
    """Return the contract's columns as numbers, whatever single readings hold; labels' if they are there.

    A cell that is no number becomes NaN, and a reading without a machine's number or a time is left out.
    Each reading's fate follows from itself alone, so that no single one decides whether a table is read.

    Raises:
        Refusal: ``contract``: a column is missing, which no reading decides.
    """
    import pandas as pd

    needed = _needed(contract)
    for name in needed:
        if name not in frame.columns:
            raise Refusal("contract", f"column {name!r}: expected by the contract, not in the data")
    needed += [name for name in (contract.label, *CORRECTIONS) if name in frame.columns]
    numbers = pd.DataFrame(
        {
            name: frame[name] if _kind(frame[name]) in "iuf" else pd.to_numeric(frame[name], errors="coerce")
            for name in needed
        }
    ).astype({name: "float64" for name in needed[1:]})
    machine = numbers[contract.machine].to_numpy(dtype=np.float64, na_value=np.nan)
    good = (machine == np.floor(machine)) & (np.abs(machine) < 2.0**53)
    numbers = numbers[good & np.isfinite(numbers[contract.time].to_numpy())]
    return numbers.astype({contract.machine: "int64"}).reset_index(drop=True)


def bad_readings(frame: "pd.DataFrame", contract: Contract) -> NDArray[np.bool_]:
    """Return which readings are not finite or far out of range, in any column (N,).

    Each follows from its own reading alone. The columns are there and numeric; see `usable`.
    """
    finite = np.isfinite(frame[columns(contract)].to_numpy(dtype=np.float64)).all(axis=1)
    if contract.label in frame.columns:
        finite &= ~np.isinf(frame[contract.label].to_numpy(dtype=np.float64))
    found: NDArray[np.bool_] = ~finite | _outside(frame, contract).any(axis=1)
    return found


def columns(contract: Contract) -> list[str]:
    """Return the inputs in the order of the model's channels: settings, then sensors."""
    return [*contract.settings, *contract.sensors]


def check(frame: "pd.DataFrame", contract: Contract) -> list[Violation]:
    """Compare a table of readings with its contract.

    Args:
        frame: One reading a row. The contract's label may be there or not.
        contract: Columns, units and declared ranges.

    Returns:
        Every violation found, by rule; an empty list means the table is good. Values are looked at
        only where the columns are there and numeric.
    """
    needed, rows = _needed(contract), len(frame)
    found = [
        Violation("missing", name, 0, rows, "expected by the contract, not in the data")
        for name in needed
        if name not in frame.columns
    ]
    found += [
        Violation("extra", str(name), 0, rows, "not in the contract; it is ignored")
        for name in frame.columns
        if name not in {*needed, contract.label, *contract.never, *CORRECTIONS}
    ]
    present = [name for name in [*needed, contract.label] if name in frame.columns]
    wrong = list(_wrong_types(frame, contract, present))
    found += wrong
    unusable = {violation.column for violation in wrong}
    numeric = [name for name in present if name not in unusable]
    found += _not_finite(frame, numeric, contract.label)
    if set(columns(contract)) <= set(numeric):
        found += _out_of_range(frame, contract)
    if {contract.machine, contract.time} <= set(numeric):
        found += _duplicates(frame, contract)
    return found


def require(frame: "pd.DataFrame", contract: Contract) -> None:
    """Raise `Refusal` ``contract`` unless one may learn from ``frame``; see `Violation.blocks`."""
    blocking = [violation for violation in check(frame, contract) if violation.blocks]
    if blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise Refusal("contract", f"{blocking[0]}{more}")
    if frame.empty:
        raise Refusal("contract", "the data has no rows")


def condition_of(settings: Floats, contract: Contract) -> NDArray[np.intp]:
    """Return for each reading the index of the nearest operating condition.

    Args:
        settings: Readings of the settings, in the contract's order (N, settings).
        contract: With at least one condition. Distances are measured in declared widths, so that a
            setting in feet does not outweigh one in Mach.

    Returns:
        Indices into ``contract.conditions`` (N,). A reading that is not finite gets index 0.
    """
    names = list(contract.settings)
    widths = np.array([contract.settings[name].high - contract.settings[name].low for name in names])
    centres = np.array([[c.centre[name] for name in names] for c in contract.conditions])
    nearest = np.zeros(len(settings), dtype=np.intp)
    best = np.full(len(settings), np.inf)
    for index, centre in enumerate(centres):
        distance = (((settings - centre) / widths) ** 2).sum(axis=1)
        closer = distance < best
        nearest[closer], best[closer] = index, distance[closer]
    return nearest


def limits(settings: Floats, contract: Contract) -> tuple[Floats, Floats]:
    """Return the declared low and high of every input of every reading.

    Args:
        settings: Readings of the settings, in the contract's order (N, settings).
        contract: Without conditions, the columns' own ranges hold everywhere.

    Returns:
        Two arrays (N, inputs) or (1, inputs), inputs in the order of `columns`.
    """
    inputs = {**contract.settings, **contract.sensors}
    table = np.array([[[column.low, column.high] for column in inputs.values()]])
    if not contract.conditions:
        return table[..., 0], table[..., 1]
    table = np.repeat(table, len(contract.conditions), axis=0)
    for row, condition in zip(table, contract.conditions, strict=True):
        for place, name in enumerate(inputs):
            row[place] = condition.ranges.get(name, row[place])
    chosen = table[condition_of(settings, contract)]
    return chosen[..., 0], chosen[..., 1]


def outside(values: Floats, contract: Contract) -> NDArray[np.bool_]:
    """Return which readings of the inputs are finite and far outside their declared ranges (N, inputs).

    Args:
        values: Readings (N, inputs) in the order of `columns`.
        contract: Declared ranges; a reading may pass an end by `TOLERANCE` widths.
    """
    low, high = limits(values[:, : len(contract.settings)], contract)
    allowed = TOLERANCE * (high - low)
    # Written as "not inside" would count NaN again; it is already a violation of `finite`.
    found: NDArray[np.bool_] = ((values < low - allowed) | (values > high + allowed)) & np.isfinite(values)
    return found


def _needed(contract: Contract) -> list[str]:
    """Columns that every table has: machine, time, cycle where there is one, and the inputs."""
    cycle = [contract.cycle] if contract.cycle else []
    return [contract.machine, contract.time, *cycle, *columns(contract)]


def _wrong_types(frame: "pd.DataFrame", contract: Contract, present: list[str]) -> Iterator[Violation]:
    for name in present:
        kind = _kind(frame[name])
        whole = name == contract.machine
        if kind not in ("iu" if whole else "iuf"):
            expected = "whole numbers" if whole else "numbers"
            yield Violation("type", name, 0, len(frame), f"expected {expected}, found {frame[name].dtype}")


def _kind(series: Any) -> str:
    """NumPy's letter for the dtype; pandas' own (nullable, text) types count as objects."""
    return series.dtype.kind if isinstance(series.dtype, np.dtype) else "O"


def _not_finite(frame: "pd.DataFrame", numeric: list[str], label: str) -> Iterator[Violation]:
    for name in numeric:
        values = frame[name].to_numpy()
        # A label that is not known yet is none; its windows are left out.
        wrong = np.isinf(values) if name == label else ~np.isfinite(values)
        if count := int(wrong.sum()):
            yield Violation("finite", name, count, len(frame), "not a finite number")


def _out_of_range(frame: "pd.DataFrame", contract: Contract) -> Iterator[Violation]:
    names, outside = columns(contract), _outside(frame, contract)
    for place in np.flatnonzero(outside.any(axis=0)):
        column = {**contract.settings, **contract.sensors}[names[place]]
        yield Violation(
            "range",
            names[place],
            int(outside[:, place].sum()),
            len(frame),
            f"far outside its declared range, {column.low:g} to {column.high:g} {column.unit} "
            "over all conditions",
            contract.strays,
        )


def _outside(frame: "pd.DataFrame", contract: Contract) -> NDArray[np.bool_]:
    return outside(frame[columns(contract)].to_numpy(dtype=np.float64), contract)


def _duplicates(frame: "pd.DataFrame", contract: Contract) -> Iterator[Violation]:
    count = int(frame.duplicated([contract.machine, contract.time]).sum())
    if count:
        expected = f"expected each {contract.time} once per {contract.machine}, found it again"
        yield Violation("duplicate", contract.time, count, len(frame), expected)
