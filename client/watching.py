"""What the monitor watches by itself, against the snapshot that the champion learned from."""

import logging

from interplant.client import drift, intake
from interplant.client.directory import PlantDirectory
from interplant.client.drift import Report
from interplant.client.runway import champions_task
from interplant.core.errors import UsageError

log = logging.getLogger(__name__)


def watch(plant: PlantDirectory) -> list[Report]:
    """Hold what is new against what the champion learned from: readings, predictions and late errors.

    Args:
        plant: The plant's directory.

    Returns:
        What was compared.
    """
    from interplant.client import outcomes
    from interplant.data import blocks

    task = champions_task(plant)
    if task is None:
        return []
    try:
        held = drift.against(plant, task)
    except UsageError as error:
        log.info("nothing is watched: %s", error)
        return []
    store = intake.store_of(plant, held.task)
    store.settle()
    found = []
    try:
        found = [drift.watch(plant, held, blocks.of_store(store, held.snapshot, held.task.contract))]
    except UsageError as error:
        log.warning("inputs are not watched: %s", error)
    return found + outcomes.watch(plant, held)
