"""One look at a plant's new readings, in a process of its own: read `look`.

It loads what the monitor beside it does not keep in memory: DVC, pandas, the accountant.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from interplant.client import erasure, feedback, intake, proposals, telling
from interplant.client.directory import PlantDirectory, data_repository
from interplant.core import logs, processes
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.data import events
from interplant.data.snapshots import Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What one look came to.

    Args:
        snapshot: Made since the last; None if there was nothing new, or snapshots are not made here.
        began: Drifts that began since the last: ``drift`` of inputs or predictions, or ``error``; each once.
        proposed: What waits to be told because of it.
    """

    snapshot: Snapshot | None
    began: Sequence[str]
    proposed: Sequence[proposals.Proposal]


@dataclass(frozen=True)
class Mark:
    """Up to where the plant's data has been looked at, and proposals have been made of it.

    Args:
        digest: Of the newest snapshot; empty before the first.
        drifts: How many drifts stood in ``drift.jsonl``.
    """

    digest: str = ""
    drifts: int = 0


def look(plant: PlantDirectory) -> Looked:
    """Watch what is new for drift, make a snapshot of it, and propose a retraining where there is a reason.

    A proposal waits before the mark moves on: after a kill or a failure the next look makes it again.

    Args:
        plant: The plant's directory.
    """
    settings, mark, proposed = plant.load().automation, _mark(plant), []
    write_atomic(plant.look_begun, b"", 0o600)
    before = len(events.read(plant.drift_events))  # fewer than the mark where some were erased
    if settings.watch:
        _watch(plant)
    drifts = events.read(plant.drift_events)
    new = drifts[min(mark.drifts, before) :] if settings.watch else []
    began = sorted({"error" if one.watched == events.ERRORS else "drift" for one in new})
    for reason in began:
        proposed += _propose(plant, reason)
    mark = _move(plant, replace(mark, drifts=len(drifts)))
    made = _snapshot(plant, mark) if settings.snapshots else None
    if made:
        proposed += _propose(plant, "new_data")
        _move(plant, replace(mark, digest=made.digest))
    plant.look_begun.unlink(missing_ok=True)
    return Looked(made, began, proposed)


def _propose(plant: PlantDirectory, reason: str) -> list[proposals.Proposal]:
    now = datetime.now(UTC)
    made = [proposals.propose(plant, task, reason, runs, now) for task, runs in telling.tasks(plant).items()]
    return [one for one in made if one is not None]


def _watch(plant: PlantDirectory) -> None:
    from interplant.client.watching import watch  # a second of processor time that only this needs

    watch(plant)


def _snapshot(plant: PlantDirectory, mark: Mark) -> Snapshot | None:
    """Make the newest snapshot of the store; return it if the mark knows another."""
    store, repository, settings = intake.store_of(plant), data_repository(plant), plant.load().data
    feedback.carry(plant, store)
    store.settle()
    if not store.partitions():
        return None  # all of it was erased, or is in quarantine
    made = repository.freeze(store, "New readings", settings.simulated)
    if made.digest == mark.digest:
        return None
    erasure.prune(plant, repository, settings.keep)
    proposals.note(plant, "snapshot", digest=made.digest, rows=made.rows, done=True, why="")
    return made


def _mark(plant: PlantDirectory) -> Mark:
    """The mark; made, if there is none, of what there was before the first look."""
    try:
        return Mark(**json.loads(plant.looked.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        pass
    try:
        digest = data_repository(plant).find().digest
    except InterplantError:
        digest = ""  # there is none yet, or its readings were removed
    return _move(plant, Mark(digest, len(events.read(plant.drift_events))))


def _move(plant: PlantDirectory, mark: Mark) -> Mark:
    write_atomic(plant.looked, json.dumps(asdict(mark)) + "\n", 0o600)
    return mark


def main(words: list[str]) -> int:
    """Look once at the plant in the directory ``words[0]``."""
    processes.follow_parent()
    logs.setup()

    def work() -> int:
        found = look(PlantDirectory(Path(words[0])))
        if found.snapshot:
            log.info("snapshot %s of %d readings", found.snapshot.digest[:12], found.snapshot.rows)
        for one in found.proposed:
            log.info("a retraining of %s is proposed: %s", one.task, one.reason)
        return 0

    return processes.ended(work, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
