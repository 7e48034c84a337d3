"""Inputs held to their declared ranges, with pandera."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.data.contract import TOLERANCE, columns, limits
from interplant.data.reasons import Findings


def check_ranges(values: Mapping[str, NDArray[Any]], contract: Contract, found: Findings) -> None:
    """Note the inputs that are far outside their ranges.

    Args:
        values: By column, float64 (N,), NaN where there is none.
        contract: Whose ranges.
        found: Where they are noted.
    """
    import pandas as pd
    from pandera.errors import SchemaErrors

    names = [name for name in columns(contract) if name in values]
    frame = pd.DataFrame({name: values[name] for name in names}, copy=False)
    try:
        _schema(values, contract, names).validate(frame, lazy=True, inplace=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        for name, own in cases.groupby("column", sort=False):
            where = np.zeros(len(frame), np.bool_)
            where[own["index"].to_numpy(np.int64)] = True
            (found.add_cell if contract.hold else found.add)(where, "range", str(name))


def _schema(values: Mapping[str, NDArray[Any]], contract: Contract, names: list[str]) -> Any:
    """A pandera schema of the inputs; with operating conditions each reading has its own range."""
    import pandera.pandas as pa

    low, high = _limits(values, contract)
    places = {name: place for place, name in enumerate(columns(contract))}

    def within(place: int) -> Any:
        width = TOLERANCE * (high[:, place] - low[:, place])
        first, last = low[:, place] - width, high[:, place] + width
        ends = (first[0], last[0]) if len(first) == 1 else (first, last)
        # What is not finite was found before, by its own name.
        return pa.Check(
            lambda column: ~((column < ends[0]) | (column > ends[1])), name="range", ignore_na=False
        )

    return pa.DataFrameSchema({name: pa.Column(float, within(places[name]), nullable=True) for name in names})


def _limits(values: Mapping[str, NDArray[Any]], contract: Contract) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = len(values[contract.time])
    settings = [values.get(name, np.full(rows, np.nan)) for name in contract.settings]
    stacked = np.column_stack(settings) if settings else np.empty((rows, 0))
    return limits(stacked, contract)
