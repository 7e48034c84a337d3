"""What stands in a ledger, as it was read: entries in order, and totals that are kept beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from interplant.privacy.plan import Charged, Event

Kinds = dict[tuple[str, float, float], int]
"""Steps charged, by (unit, q, noise)."""

TRAIL = (*range(1, 33), *(2**power for power in range(6, 24)))
"""How far before its end a ledger shows its hashes in a receipt, so that a copy finds where it parted."""

SHOWN = 16
"""Digits of each hash that are shown there."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Args:
        seq: Position, from 1.
        kind: ``reserve`` (this is what is charged), ``commit`` (the round came to its end), ``repair``
            (what an older copy of the ledger lacked) or ``alias`` (another name of a dataset).
        id: The reservation's random name; a commit repeats it.
        time: The plant's clock when it was written, for people; it decides nothing.
        run: The run.
        round: The round.
        task: The task.
        lineage: The dataset's lineage, the same over all its snapshots.
        plan: What a round is charged; None elsewhere.
        hash: SHA-256 over the entry before and this one.
        missing: What a repair charges.
        covers: Head of the receipt that a repair makes good; empty elsewhere.
        account: All that this receipt says was ever charged to the lineage.
        former: The other name, whose charges count for the lineage too; empty but in an alias.
    """

    seq: int
    kind: str
    id: str
    time: str
    run: str
    round: int
    task: str
    lineage: str
    plan: Charged | None
    hash: str
    missing: tuple[Event, ...] = ()
    covers: str = ""
    account: tuple[Event, ...] = ()
    former: str = ""

    @property
    def events(self) -> tuple[Event, ...]:
        """What this entry charges."""
        return self.plan.events if self.plan else self.missing


@dataclass(frozen=True)
class End:
    """The end of a verified chain, and all that was charged until then: what a receipt tells.

    Args:
        entries: How many entries there are.
        hash: The last one's.
        account: All charges by lineage, steps of one kind added up.
        trail: The first digits of the hashes at `TRAIL` before the last one, the nearest first.
    """

    entries: int
    hash: str
    account: Mapping[str, tuple[Event, ...]]
    trail: str


@dataclass
class History:
    """Entries in order, and what follows from them."""

    entries: list[Entry] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)
    committed: set[str] = field(default_factory=set)
    _totals: dict[tuple[str, str], Kinds] = field(default_factory=dict)
    _covered: dict[str, dict[str, Kinds]] = field(default_factory=dict)
    _former: dict[str, set[str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Go on by one entry."""
        self.entries.append(entry)
        if entry.kind == "reserve":
            self.reserved.add(entry.id)
        elif entry.kind == "commit":
            self.committed.add(entry.id)
        elif entry.kind == "repair":
            _add(self._covered.setdefault(entry.covers, {}).setdefault(entry.lineage, {}), entry.account)
        elif entry.kind == "alias":
            self._former.setdefault(entry.lineage, set()).add(entry.former)
        if entry.events:
            _add(self._totals.setdefault((entry.lineage, entry.task), {}), entry.events)

    def first(self, known: int) -> "History":
        """Return the history of the first ``known`` entries: this one, if that is all."""
        if known >= len(self.entries):
            return self
        kept = History()
        for entry in self.entries[:known]:
            kept.add(entry)
        return kept

    def lineages(self) -> list[str]:
        """Return every name that was ever charged."""
        return sorted({lineage for lineage, _ in self._totals})

    def has_former(self, lineage: str, former: str) -> bool:
        """Tell whether the charges under ``former`` count for ``lineage`` too."""
        return former == lineage or former in self._former.get(lineage, ())

    def events(self, lineage: str | None = None, task: str | None = None) -> list[Event]:
        """Return the charges of ``lineage`` and its former names, and of ``task``; all if None."""
        names = self.lineages() if lineage is None else [lineage, *self._former.get(lineage, ())]
        return _listed(self._kinds(set(names), task))

    def end(self, genesis: str) -> End:
        """Return what a receipt tells; ``genesis`` stands for the hash of nothing."""
        end = len(self.entries)
        trail = (self.entries[end - back - 1].hash[:SHOWN] for back in TRAIL if back < end)
        account = {lineage: tuple(_listed(self._kinds({lineage}))) for lineage in self.lineages()}
        return End(end, self.entries[-1].hash if end else genesis, account, " ".join(trail))

    def holds(self, entries: int, head: str) -> bool:
        """Tell whether entry number ``entries`` has this hash, or a repair has made good for it."""
        if entries == 0 or head in self._covered:
            return True
        return entries <= len(self.entries) and self.entries[entries - 1].hash == head

    def missing(self, end: End) -> dict[str, list[Event]]:
        """Return what a receipt names and this history lacks, by lineage.

        A copy of the ledger may have charges of its own since it parted from the one that signed, so
        that equal totals do not mean equal charges. What is missing is counted from the last entry that
        both are known to hold.
        """
        common = self._common(end)
        return {lineage: _beyond(events, common.get(lineage, {})) for lineage, events in end.account.items()}

    def _common(self, end: End) -> dict[str, Kinds]:
        """What was charged, by lineage, up to the last entry that this history and a trail both name."""
        covered = {head[:SHOWN]: accounts for head, accounts in self._covered.items()}
        for back, shown in zip(TRAIL, end.trail.split(), strict=False):
            place = end.entries - back
            if shown in covered:
                return covered[shown]
            if 0 < place <= len(self.entries) and self.entries[place - 1].hash[:SHOWN] == shown:
                found: dict[str, Kinds] = {}
                for entry in self.entries[:place]:
                    _add(found.setdefault(entry.lineage, {}), entry.events)
                return found
        return {}

    def _kinds(self, lineages: set[str], task: str | None = None) -> Kinds:
        found: Kinds = {}
        for (lineage, charged), kinds in self._totals.items():
            # What a repair charges may have been any task's.
            if lineage in lineages and (task is None or charged in (task, "")):
                for key, steps in kinds.items():
                    found[key] = found.get(key, 0) + steps
        return found


def _add(kinds: Kinds, events: Iterable[Event]) -> None:
    for one in events:
        key = (one.unit, one.q, one.noise)
        kinds[key] = kinds.get(key, 0) + one.steps


def _listed(kinds: Kinds) -> list[Event]:
    return [Event(*key, steps) for key, steps in sorted(kinds.items())]


def _beyond(events: Iterable[Event], before: Kinds) -> list[Event]:
    """What of ``events`` is not in ``before``."""
    gaps = (replace(one, steps=one.steps - before.get((one.unit, one.q, one.noise), 0)) for one in events)
    return [gap for gap in gaps if gap.steps > 0]
