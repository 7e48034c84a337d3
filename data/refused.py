"""What goes into a store's quarantine: each row once however often it comes, with the reason.

A row is told by its source and its own cells, not by where it was found: a file that was renamed, or a query
that reads a little of what it read before, brings the same row. Two rows of a source that are equal in every
cell are one.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interplant.core.contract import Contract
from interplant.data import door, parsing
from interplant.data.index import Held, Index
from interplant.data.late import Late
from interplant.data.quarantine import Quarantine
from interplant.data.reasons import Whence, mark, own, stamps

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Refused:
    """The way into a store's quarantine, and out of it.

    Args:
        quarantine: The store's.
        index: Remembers which rows are there.
        contract: The store's.
        texts: What its labels say, where they are text; see `interplant.data.texts`.
    """

    quarantine: Quarantine
    index: Index
    contract: Contract
    texts: Sequence[str]

    def hold(self, marked: "pa.Table") -> Counter[str]:
        """Put rows into quarantine; return how many are new, by machine.

        Rows that name no machine count under an empty name.
        """
        import pyarrow as pa

        if not len(marked):
            return Counter()
        rows = list(_held(marked))
        known = self.index.held([one.hash for one in rows])
        places = {one.hash: place for place, one in reversed(list(enumerate(rows))) if one.hash not in known}
        fresh = sorted(places.values())
        self.quarantine.put(marked.take(pa.array(fresh, pa.int64())))
        self.index.hold([rows[place] for place in fresh])
        return Counter(rows[place].machine for place in fresh)

    def release(self, again: "Callable[[pa.Table], tuple[pa.Table, NDArray[np.intp]]]") -> int:
        """Try every batch anew; what still breaks the contract stays.

        Args:
            again: Takes rows of one source and origin as they are here and keeps what is good now. Returns
                what is to stay, and which of the rows each of it is, in their order. Done twice after a kill,
                it must do no harm.

        Returns:
            How many rows were released.
        """
        released = 0
        for path in self.quarantine.files():
            rows = self.quarantine.read(path)
            staying, whose = again(rows)
            before = list(_held(rows))
            numbers = self.index.held([one.hash for one in before])
            after = [
                one._replace(number=numbers.get(before[row].hash, 0))
                for one, row in zip(_held(staying), whose.tolist(), strict=True)
            ]
            # A row that is here and not remembered may be here twice; the other way round it would be lost.
            self.index.swap([one.hash for one in before], after)
            if not staying.equals(rows):
                self.quarantine.replace(path, staying)
            released += len(rows) - len(np.unique(whose))
        return released

    def erase(self, machine: str | None, low: float, high: float) -> None:
        """Remove a machine's rows, or a period's, and all memory of them; see `Quarantine.erase`."""
        self.quarantine.erase(self.contract, machine, low, high)
        self.index.keep_held(one.hash for _, table in self.quarantine.tables() for one in _held(table))

    def readings(self, table: "pa.Table", found: Sequence[tuple[str, str]]) -> None:
        """Hold readings in whose place others stand.

        Args:
            table: In the store's layout (N, columns).
            found: Source of each, and where in it.
        """
        import pyarrow as pa

        for one in sorted(set(found)):
            rows = table.take(pa.array([row for row, its in enumerate(found) if its == one], pa.int64()))
            self._contradicting(rows, self.contract.time, *one)

    def label(self, one: Late) -> None:
        """Hold a label in whose place another stands."""
        import pyarrow as pa

        names = [self.contract.machine, self.contract.time, one.column]
        layout = door.layout(self.contract)
        moment = pa.array([one.time], pa.int64() if self.contract.clock == "timestamp" else pa.float64())
        columns = [pa.array([one.machine]), moment.cast(layout.field(names[1]).type), pa.array([one.value])]
        self._contradicting(pa.table(columns, names), one.column, one.source, one.origin)

    def _contradicting(self, table: "pa.Table", column: str, source: str, origin: str) -> None:
        """Hold rows that the store has in its own layout."""
        rows = door.as_it_came(table, self.contract, self.texts)
        machine, moment = rows.column(self.contract.machine), rows.column(self.contract.time)
        came = stamps(np.full(len(rows), time.time()))
        values = parsing.texts(rows.column(column)).tolist()
        whence = Whence(source, origin, machine, moment, came, stored=True)
        self.hold(mark(rows, [("conflict", column)] * len(rows), values, whence))


def _held(marked: "pa.Table") -> Iterator[Held]:
    """How the index knows each row: by a hash over its source and its own cells."""
    cells = own(marked)
    names = sorted(cells.column_names)
    lines = zip(*(cells.column(name).to_pylist() for name in names), strict=True)
    whose = (marked.column(name).to_pylist() for name in ("_source", "_machine"))
    for source, machine, line in zip(*whose, lines, strict=True):
        # In another batch a column may be missing, or read as text: 7 is 7.0.
        told = [
            (name, cell.removesuffix(".0"))
            for name, cell in zip(names, line, strict=True)
            if cell is not None
        ]
        yield Held(hashlib.sha256(repr((source, told)).encode()).hexdigest(), source, machine or "")
