"""One look at a plant's new readings, in a process of its own: read `look`.

It loads what the monitor beside it does not keep in memory: DVC, pandas, the accountant.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from interplant.client import erasure, intake, proposals
from interplant.client.directory import PlantDirectory, data_repository
from interplant.client.monitor import SCHEDULE
from interplant.client.runway import Runway, champions_task, runway
from interplant.core import logs, processes
from interplant.core.errors import InterplantError, Refusal
from interplant.data.snapshots import Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What one look came to.

    Args:
        snapshot: Made in it; None if there was nothing new, or snapshots are not made here.
        began: Drifts that began, by what is watched: ``drift`` of inputs or predictions, or ``error``.
        proposed: What waits to be told because of it.
    """

    snapshot: Snapshot | None
    began: Sequence[str]
    proposed: Sequence[proposals.Proposal]


def look(plant: PlantDirectory, scheduled: bool = False) -> Looked:
    """Make a snapshot of what is new, watch it for drift, and propose a retraining where there is a reason.

    Args:
        plant: The plant's directory.
        scheduled: Whether a moment of the plant's schedule has come.
    """
    settings = plant.load().automation
    began = _watch(plant) if settings.watch else ()
    made = _snapshot(plant) if settings.snapshots else None
    reasons = [*(["new_data"] if made else []), *sorted(set(began)), *([SCHEDULE] if scheduled else [])]
    left, now = _runway(plant), datetime.now(UTC)
    proposed = []
    for task in _tasks(plant):
        runs = left.runs if left and left.task == task else None
        for reason in reasons:
            if one := proposals.propose(plant, task, reason, runs, now):
                proposed.append(one)
        if runs is not None:
            proposals.tell_budget(plant, task, runs, now)
    return Looked(made, began, proposed)


def _watch(plant: PlantDirectory) -> Sequence[str]:
    from interplant.client.watching import watch  # a second of processor time that only this needs

    return watch(plant)


def _snapshot(plant: PlantDirectory) -> Snapshot | None:
    """Make the newest snapshot of the store; return it if it is a new one."""
    repository, settings = data_repository(plant), plant.load().data
    try:
        before = repository.find().digest
    except InterplantError:
        before = ""  # there is none yet, or its readings were removed
    made = repository.freeze(intake.store_of(plant), "New readings", settings.simulated)
    if made.digest == before:
        return None
    erasure.prune(plant, repository, settings.keep)
    proposals.note(plant, "snapshot", digest=made.digest, rows=made.rows, done=True, why="")
    return made


def _tasks(plant: PlantDirectory) -> list[str]:
    """What a retraining is proposed of: the task that serves here; before the first, all that are offered."""
    serves = champions_task(plant)
    return [serves.name] if serves else list(plant.load().policy.tasks)


def _runway(plant: PlantDirectory) -> Runway | None:
    try:
        return runway(plant)
    except Refusal as refusal:
        log.warning("what the budget pays is not known: %s", refusal)
        return None


def main(words: list[str]) -> int:
    """Look once at the plant in the directory ``words[0]``; ``words[1]`` may say that it is scheduled."""
    processes.follow_parent()
    logs.setup()
    plant, scheduled = PlantDirectory(Path(words[0])), SCHEDULE in words[1:]

    def work() -> int:
        found = look(plant, scheduled)
        if found.snapshot:
            log.info("snapshot %s of %d readings", found.snapshot.digest[:12], found.snapshot.rows)
        for one in found.proposed:
            log.info("a retraining of %s is proposed: %s", one.task, one.reason)
        return 0

    return processes.ended(work, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
