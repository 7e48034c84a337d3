"""What the monitor watches by itself: new readings against the snapshot that the champion learned from."""

import logging
from collections.abc import Sequence

from interplant.client import drift, intake
from interplant.client.directory import PlantDirectory
from interplant.client.runway import champions_task
from interplant.core.errors import UsageError

log = logging.getLogger(__name__)


def watch(plant: PlantDirectory) -> Sequence[str]:
    """Hold the store's new readings against the champion's snapshot.

    Args:
        plant: The plant's directory.

    Returns:
        Of what a drift began: ``drift``, once for each.
    """
    from interplant.data import blocks

    task = champions_task(plant)
    if task is None:
        return ()
    try:
        held = drift.against(plant, task)
    except UsageError as error:
        log.info("nothing is watched: %s", error)
        return ()
    store = intake.store_of(plant, held.task)
    store.settle()
    live = blocks.of_store(store, held.snapshot, held.task.contract)
    report = drift.watch(plant, held, live)
    return ("drift",) * len(report.began)
