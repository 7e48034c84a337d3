"""Erasing a machine or a period from a plant's readings, and telling which releases learned from them."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from interplant.client import learned
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import takes_turns
from interplant.core.possible import is_number
from interplant.core.release import TASK, parse_task
from interplant.data import events, records, versions
from interplant.data.partitions import BLOCK
from interplant.data.repository import Repository
from interplant.data.snapshots import Snapshot, keyed_digest
from interplant.data.store import Store


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Args:
        partitions: Machines' days that changed or went.
        snapshot: Digest of the version without the readings; empty if nothing is left to make one of, and
            the plant then has none.
        purged: Digests of the versions that held them, gone now.
        releases: Releases at this plant that were trained on what was erased, now or before.
        runs: Runs that have trained on it, and whose release may still come here.
        events: Events of drift that were found in them or against one of these, gone now.
    """

    partitions: int
    snapshot: str
    purged: tuple[str, ...]
    releases: tuple[str, ...]
    runs: tuple[str, ...]
    events: int


def moment(text: str, contract: Contract) -> float:
    """Return a time that a person wrote: microseconds since 1970 (UTC), or a count.

    A time without an offset is of the contract's zone.

    Raises:
        UsageError: It is none.
    """
    if contract.clock == "count":
        if not is_number(text) or not math.isfinite(float(text)):
            raise UsageError(f"time {text!r}: expected a number, as the contract's clock counts")
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"time {text!r}: expected one like 2026-11-26 or 2026-11-26T08:00:00+00:00"
        ) from None
    return (found if found.tzinfo else _local(found, contract.zone)).timestamp() * 1e6


def _local(naive: datetime, zone: str) -> datetime:
    """A time in the contract's zone.

    Raises:
        UsageError: A change of clocks makes it two moments, or none.
    """
    found = naive.replace(tzinfo=ZoneInfo(zone))
    if found.utcoffset() != found.replace(fold=1).utcoffset():
        raise UsageError(
            f"time {naive.isoformat()}: a change of clocks in {zone} makes it two moments, or none; give its "
            "offset, such as +01:00"
        )
    return found


def period(since: str, until: str, contract: Contract) -> tuple[float | None, float | None]:
    """Return the ends of a period that a person wrote; None where there is none.

    Raises:
        UsageError: One is no time, or it ends before it begins.
    """
    first, last = (moment(text, contract) if text else None for text in (since, until))
    if first is not None and last is not None and first > last:
        raise UsageError(f"--since: expected no later than {until} (--until), found {since}")
    return first, last


def erase(
    directory: PlantDirectory, store: Store, machine: str | None, first: float | None, last: float | None
) -> Erased:
    """Erase readings from the store, make a version without them, and purge every version that held them.

    Args:
        directory: The plant.
        store: Its store.
        machine: Whose readings; None: of all machines.
        first: The earliest time; None: from the beginning.
        last: The latest; None: to the end.

    Raises:
        UsageError: Neither a machine nor a time is given.
    """
    if machine is None and first is None and last is None:
        raise UsageError("expected --machine, --since or --until, found none: nothing was erased")
    repository = directory.repository()
    counted = store.contract.clock == "count"
    ends = ("-inf", "inf") if counted else ("0", "9")
    days = (
        None if first is None and last is None else (_day(first, store, ends[0]), _day(last, store, ends[1]))
    )
    # First: what is found in these readings is not known any more once they are gone.
    told = _forget_events(directory, _spans(store, machine, first, last))
    # Before the store: what is erased here, nobody carries there any more.
    if directory.predictions.exists():
        with Predictions.open(directory) as log:
            until = None if last is None else _logged(last, counted) + _reach(directory, store.contract)
            log.erase(machine, None if first is None else _logged(first, counted), until)
    changed = store.erase(machine, first, last)
    made = ""
    if store.partitions():
        snapshots = repository.log()
        made = repository.freeze(store, "Erase readings", bool(snapshots) and snapshots[0].simulated).digest
    # Looked at when no snapshot can be made any more that holds them.
    purged = repository.purged()
    kept = {one.digest: one for one in repository.log() if one.digest not in purged and one.digest != made}
    going = versions.holding(repository, kept.values(), machine, days)
    told += _forget(directory, going)
    _purge(repository, going, machine, days)
    # All that was ever erased: a run that was under way then has made its release since.
    erased = {digest for digest, gone in repository.purged().items() if gone["why"] == "erased"}
    releases, runs = releases_of(directory, erased), learned.awaited(directory, erased)
    return Erased(changed, made, tuple(one.digest for one in going), tuple(releases), tuple(runs), told)


def _purge(
    repository: Repository, going: list[Snapshot], machine: str | None, days: tuple[str, str] | None
) -> None:
    """Purge the snapshots that held what is erased; the newest is among them if nothing else is left.

    Raises:
        InterplantError: It holds something else, of which no other was made; those before it are purged.
    """
    newest = records.newest(repository.path)
    beside: list[str] = []
    if newest and newest[0].digest in {one.digest for one in going}:
        beside = versions.others(repository, newest[0], machine, days)
    purged = [one for one in going if not beside or one.digest != newest[0].digest] if newest else going
    if purged or repository.purged():
        versions.purge(repository, purged, "erased", newest=not beside)
    if beside and newest:
        raise InterplantError(
            f"snapshot {newest[0].digest[:12]}: it holds other readings that the store has not, of "
            f"{', '.join(beside[:3])}{' and others' if len(beside) > 3 else ''}; make one without what is "
            "to be erased (`interplant data snapshot`), or erase those too, then erase again"
        )


def _spans(
    store: Store, machine: str | None, first: float | None, last: float | None
) -> list[tuple[float, float]]:
    """Times between which readings are erased, as `interplant.data.events.Event.times` has them."""
    low, high = -math.inf if first is None else first, math.inf if last is None else last
    store.settle()
    found = [(low, high)] if machine is None else []
    own = [one for one in store.partitions() if one.machine == machine]
    found += [(max(one.first, low), min(one.last, high)) for one in own]
    scale = 1.0 if store.contract.clock == "count" else 1e6
    return [(begin / scale, end / scale) for begin, end in found if begin <= end]


def _forget_events(directory: PlantDirectory, spans: list[tuple[float, float]]) -> int:
    """Remove the events of windows that may have had readings of these times, and where the monitor was.

    An event names no machine, so that all windows of the time count; one of predictions or errors does not
    say which readings they were made of.
    """
    if not directory.drift.is_dir():
        return 0
    with takes_turns(directory.drift / "lock"):
        for path in directory.drift.glob("state-*"):
            path.unlink()
        return events.erase(
            directory.drift_events,
            lambda one: (
                one.watched != events.INPUTS
                or any(one.times[0] <= end and one.times[1] >= begin for begin, end in spans)
            ),
        )


def _forget(directory: PlantDirectory, snapshots: Iterable[Snapshot]) -> int:
    """Remove what was computed from snapshots and holds readings, or numbers about them.

    Returns:
        How many events of drift against them went.
    """
    shutil.rmtree(directory.windows, ignore_errors=True)
    going = {one.digest for one in snapshots}
    if not directory.drift.is_dir():
        return 0
    with takes_turns(directory.drift / "lock"):
        for digest in going:
            for path in directory.drift.glob(f"*-{digest[:12]}-*"):
                path.unlink()
        return events.erase(directory.drift_events, lambda one: one.snapshot in going)


def releases_of(directory: PlantDirectory, snapshots: Iterable[str]) -> list[str]:
    """Return the releases at this plant whose lineage names one of its snapshots, given by their digests."""
    secret, name = directory.snapshot_key.read_bytes(), directory.load().name
    wanted = {keyed_digest(digest, secret) for digest in snapshots}
    return [
        found.release
        for found in learned.lineages(directory)
        if any(one.name == name and wanted & one.snapshots.keys() for one in found.participants)
    ]


def prune(directory: PlantDirectory, repository: Repository, keep: int) -> list[str]:
    """Purge all but the newest ``keep`` snapshots; one that a release was trained on stays.

    The release is here, or may still come of a run that has trained on it.

    Args:
        directory: The plant.
        repository: Its data.
        keep: How many; 0: all.

    Returns:
        Digests of those that went.
    """
    purged = repository.purged()
    kept = list({one.digest: one for one in repository.log() if one.digest not in purged}.values())
    older = kept[max(keep, 1) :] if keep else []
    going = [
        one
        for one in older
        if not releases_of(directory, [one.digest]) and not learned.awaited(directory, [one.digest])
    ]
    if going:
        versions.purge(repository, going, "retention")
    return [one.digest for one in going]


def _logged(time: float, counted: bool) -> float:
    """A time as the log of predictions has it."""
    return time if counted else time / 1e6


def _reach(directory: PlantDirectory, contract: Contract) -> float:
    """How long after a reading a window may end that holds it, in the contract's time."""
    tasks = [parse_task(path.read_bytes()) for path in directory.releases.glob(f"*/{TASK}")]
    steps = [task.window.length - 1 for task in tasks]
    if not steps or (any(steps) and not contract.gap):
        return math.inf  # a window bridges any time
    return max(steps) * contract.gap


def _day(time: float | None, store: Store, without: str) -> str:
    """The day of a time as partitions are called, or what sorts before or after all of them."""
    if time is None:
        return without
    if store.contract.clock == "count":
        return str(int(time // BLOCK) * BLOCK)
    return str(np.datetime64(math.floor(time), "us").astype("datetime64[D]"))
