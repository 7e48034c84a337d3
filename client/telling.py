"""Tells what depends on no reading, in a process of its own: scheduled proposals, and what the budget pays.

It loads the accountant, which the monitor beside it does not keep in memory; see `interplant.client.moments`.
"""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from interplant.client import proposals
from interplant.client.directory import PlantDirectory
from interplant.client.moments import SCHEDULE
from interplant.client.runway import Runway, champions_task, runway
from interplant.core import logs, processes
from interplant.core.errors import Refusal

log = logging.getLogger(__name__)


def tell(plant: PlantDirectory, scheduled: bool = False) -> Sequence[proposals.Proposal]:
    """Propose what is scheduled, and tell how many more runs the budget pays if that has changed.

    Args:
        plant: The plant's directory.
        scheduled: Whether a moment of the plant's schedule has come.

    Returns:
        What waits to be told because of it.
    """
    now, waits = datetime.now(UTC), []
    for task, runs in tasks(plant).items():
        if scheduled:
            waits.append(proposals.propose(plant, task, SCHEDULE, runs, now))
        if runs is not None:
            waits.append(proposals.tell_budget(plant, task, runs, now))
    return [one for one in waits if one is not None]


def tasks(plant: PlantDirectory) -> dict[str, int | None]:
    """Return of what a retraining is proposed, and how many more runs the budget pays, where that is known.

    It is the task that serves here; before the first, all that are offered.
    """
    serves, left = champions_task(plant), _runway(plant)
    names = [serves.name] if serves else list(plant.load().policy.tasks)
    return {name: left.runs if left and left.task == name else None for name in names}


def _runway(plant: PlantDirectory) -> Runway | None:
    try:
        return runway(plant)
    except Refusal as refusal:
        log.warning("what the budget pays is not known: %s", refusal)
        return None


def main(words: list[str]) -> int:
    """Tell once for the plant in the directory ``words[0]``; ``words[1]`` may say that it is scheduled."""
    processes.follow_parent()
    logs.setup()

    def work() -> int:
        for one in tell(PlantDirectory(Path(words[0])), SCHEDULE in words[1:]):
            log.info("of %s is told: %s", one.task, one.reason or f"the budget pays {one.runs} runs")
        return 0

    return processes.ended(work, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
