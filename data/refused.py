"""What goes into a store's quarantine: each row once however often it comes, with the reason."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interplant.core.contract import Contract
from interplant.data import door, parsing
from interplant.data.index import Index
from interplant.data.late import Late
from interplant.data.quarantine import Quarantine
from interplant.data.reasons import mark

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Refused:
    """The way into a store's quarantine.

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
        hashes = _row_hashes(marked)
        known = self.index.held(hashes)
        fresh = {one: place for place, one in reversed(list(enumerate(hashes))) if one not in known}
        new = marked.take(pa.array(sorted(fresh.values()), pa.int64()))
        self.quarantine.put(new)
        self.index.hold(fresh)
        return _machines(new, self.contract)

    def let_go(self, released: "pa.Table", staying: "pa.Table") -> None:
        """Forget that rows are there, but for those that stay: what is wrong again is held again."""
        self.index.let_go(_row_hashes(released))
        self.index.hold(_row_hashes(staying))

    def readings(self, table: "pa.Table", origins: Sequence[str]) -> None:
        """Hold readings in whose place others stand.

        Args:
            table: In the store's layout (N, columns).
            origins: Where each was found.
        """
        time, table = self.contract.time, door.as_it_came(table, self.contract, self.texts)
        values = [str(one) for one in table.column(time).to_pylist()]
        for origin in sorted(set(origins)):
            rows = [row for row, own in enumerate(origins) if own == origin]
            reasons = [("conflict", time)] * len(rows)
            self.hold(mark(table.take(rows), reasons, [values[row] for row in rows], "", origin))

    def label(self, one: Late) -> None:
        """Hold a label in whose place another stands."""
        import pyarrow as pa

        names = [self.contract.machine, self.contract.time, one.column]
        layout = door.layout(self.contract)
        time = pa.array([one.time], pa.int64() if self.contract.clock == "timestamp" else pa.float64())
        columns = [pa.array([one.machine]), time.cast(layout.field(names[1]).type), pa.array([one.value])]
        row = door.as_it_came(pa.table(columns, names), self.contract, self.texts)
        told = row.column(one.column)[0].as_py()
        value = told if isinstance(told, str) else f"{told:g}"
        self.hold(mark(row, [("conflict", one.column)], [value], one.source, one.origin))


def _row_hashes(marked: "pa.Table") -> list[str]:
    lines = zip(*(column.to_pylist() for column in marked.columns), strict=True)
    return [hashlib.sha256(repr((marked.column_names, line)).encode()).hexdigest() for line in lines]


def _machines(table: "pa.Table", contract: Contract) -> Counter[str]:
    """How many rows each machine has; those that name none, under an empty name."""
    if contract.machine not in table.column_names:
        return Counter({"": len(table)} if len(table) else {})
    own, none = parsing.names(table.column(contract.machine))
    return Counter("" if empty else name for name, empty in zip(own.to_pylist(), none, strict=True))
