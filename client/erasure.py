"""Erasing a machine or a period from a plant's readings, and telling which releases learned from them."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.core.contract import Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import LINEAGE, TASK, parse_lineage, parse_task
from interplant.data import versions
from interplant.data.repository import Repository
from interplant.data.snapshots import Snapshot, keyed_digest
from interplant.data.store import BLOCK, Store


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Args:
        partitions: Machines' days that changed or went.
        snapshot: Digest of the version without the readings; empty if nothing is left to make one of.
        purged: Digests of the versions that held them, gone now.
        releases: Releases at this plant that were trained on one of these.
    """

    partitions: int
    snapshot: str
    purged: tuple[str, ...]
    releases: tuple[str, ...]


def moment(text: str, contract: Contract) -> float:
    """Return a time that a person wrote: microseconds since 1970 (UTC), or a count.

    Raises:
        UsageError: It is none.
    """
    if contract.clock == "count":
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"time {text!r}: expected a number, as the contract's clock counts") from None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"time {text!r}: expected one like 2026-11-26 or 2026-11-26T08:00:00+00:00"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6


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
    changed = store.erase(machine, first, last)
    if directory.predictions.exists():
        with Predictions.open(directory) as log:
            until = None if last is None else _logged(last, counted) + _reach(directory, store.contract)
            log.erase(machine, None if first is None else _logged(first, counted), until)
    made = ""
    if store.partitions():
        snapshots = repository.log()
        made = repository.freeze(store, "Erase readings", bool(snapshots) and snapshots[0].simulated).digest
    # Looked at when no snapshot can be made any more that holds them.
    purged = repository.purged()
    kept = {one.digest: one for one in repository.log() if one.digest not in purged and one.digest != made}
    going = versions.holding(repository, kept.values(), machine, days)
    _forget(directory, going)
    if made:
        versions.purge(repository, going, "erased")
    elif going:
        raise InterplantError(
            f"{store.path}: nothing is left to make a snapshot of, so the {len(going)} that hold the erased "
            "readings are still there; bring other readings first, then erase again"
        )
    return Erased(changed, made, tuple(one.digest for one in going), tuple(releases_of(directory, going)))


def _forget(directory: PlantDirectory, snapshots: Iterable[Snapshot]) -> None:
    """Remove what was computed from snapshots and holds readings, or numbers about them."""
    shutil.rmtree(directory.windows, ignore_errors=True)
    for one in snapshots:
        for path in directory.drift.glob(f"*-{one.digest[:12]}-*"):
            path.unlink()


def releases_of(directory: PlantDirectory, snapshots: Iterable[Snapshot]) -> list[str]:
    """Return the releases at this plant whose lineage names one of its ``snapshots``."""
    secret, name = directory.snapshot_key.read_bytes(), directory.load().name
    wanted = {keyed_digest(one.digest, secret) for one in snapshots}
    found = []
    for path in sorted(directory.releases.glob(f"*/{LINEAGE}")):
        plants = parse_lineage(path.read_bytes()).participants
        if any(one.name == name and one.snapshot in wanted for one in plants):
            found.append(path.parent.name)
    return found


def prune(directory: PlantDirectory, repository: Repository, keep: int) -> list[str]:
    """Purge all but the newest ``keep`` snapshots; one that a release here was trained on stays.

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
    going = [one for one in older if not releases_of(directory, [one])]
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
    return datetime.fromtimestamp(time / 1e6, UTC).date().isoformat()
