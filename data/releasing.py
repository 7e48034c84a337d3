"""Out of quarantine: rows are held to the contract as it is now, and what keeps it goes into the store."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.core.schema import Source
from interplant.data import door
from interplant.data.door import Admitted
from interplant.data.reasons import Whence, mark, own
from interplant.data.sources import renamed
from interplant.data.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


def release(store: Store, sources: Iterable[Source]) -> int:
    """Hold what is in quarantine to the contract again; what keeps it and contradicts nothing leaves.

    What stays says what is wrong with it now. Whether a time was ahead is judged by the moment at which its
    row came: waiting mends nothing.

    Args:
        store: The plant's.
        sources: The plant's, for their units and names as they are declared now.

    Returns:
        How many rows left.
    """
    known = {source.name: source for source in sources}

    def again(rows: "pa.Table") -> "tuple[pa.Table, NDArray[np.intp]]":
        name, origin, stored = (rows.column(key)[0].as_py() for key in ("_source", "_origin", "_stored"))
        plain = Source(name=name, kind="folder")
        return _again(store, rows, plain if stored else known.get(name, plain), origin)

    with store.locked():  # else another one releases, or erases, what is being looked at
        store.held.add(store.is_empty())
        return store.refused.release(again)


def _again(
    store: Store, rows: "pa.Table", source: Source, origin: str
) -> "tuple[pa.Table, NDArray[np.intp]]":
    """What of some rows is to stay, and which of them each of it is."""
    import pyarrow as pa

    raw = own(rows)
    came = rows.column("_came").cast(pa.int64()).to_numpy() / 1e6
    # What was late once is no less valid for it.
    admitted = door.admit(raw, replace(store.contract, late=0.0), source, origin, now=came)
    back = store.take_back(admitted, source.name, origin)
    # A row that contradicts stays whole, with the inputs of it that are broken.
    broken = np.flatnonzero([row not in back for row in admitted.bad_rows.tolist()])
    whole = _contradicting(rows, admitted, back, source, store.contract)
    staying = pa.concat_tables([admitted.bad.take(pa.array(broken)), whole])
    whose = np.r_[admitted.bad_rows[broken], np.fromiter(back, np.intp)]
    order = np.argsort(whose, kind="stable")
    staying, whose = staying.take(pa.array(order)), whose[order]
    place = staying.column_names.index("_stored")
    return staying.set_column(place, "_stored", rows.column("_stored").take(pa.array(whose))), whose


def _contradicting(
    rows: "pa.Table", admitted: Admitted, back: Mapping[int, str], source: Source, contract: Contract
) -> "pa.Table":
    """Mark the rows in whose place others stand, each by the column in which it contradicts."""
    import pyarrow as pa

    read = [one.select([contract.machine, contract.time]) for one in (admitted.good, admitted.labels)]
    place = {row: n for n, row in enumerate([*admitted.good_rows.tolist(), *admitted.label_rows.tolist()])}
    machine, time = pa.concat_tables(read).take(pa.array([place[row] for row in back], pa.int64())).columns
    left = rows.take(pa.array(list(back), pa.int64()))
    raw = own(left)
    names = renamed(raw.column_names, source.columns)
    values = [raw.column(names.index(name))[row].as_py() for row, name in enumerate(back.values())]
    whence = Whence(source.name, str(rows.column("_origin")[0]), machine, time, left.column("_came"))
    return mark(raw, [("conflict", name) for name in back.values()], values, whence)
