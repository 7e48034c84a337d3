"""Where a prediction comes from, as far as only its plant can tell: the log's entry, and its own snapshots.

All of it stays in the plant: nothing here is sent.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions
from interplant.core.errors import UsageError
from interplant.core.release import Participant
from interplant.data.snapshots import Snapshot, keyed_digest

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class OwnSnapshot:
    """A snapshot of this plant that a release was trained on.

    Args:
        snapshot: Not opened.
        removed: Why its readings are gone, or empty.
    """

    snapshot: Snapshot
    removed: str = ""


def is_prediction(name: str) -> bool:
    """Whether ``name`` looks like the id of a prediction; see `interplant.client.predictions.new_id`."""
    return bool(_ID.fullmatch(name))


def prediction(plant: PlantDirectory, name: str) -> Prediction:
    """Return a prediction from the plant's log.

    Args:
        plant: The plant's directory.
        name: The prediction's id.

    Raises:
        UsageError: The log keeps no such prediction, or there is no log.
        InterplantError: The log is damaged.
    """
    plant.check()
    found = None
    if plant.predictions.exists():
        with Predictions.open(plant) as log:
            found = log.find(name)
    if found is None:
        raise UsageError(
            f"{plant.predictions}: expected prediction {name}, found none: it was made at another plant, was "
            "erased, or is older than what is kept (serving.keep in plant.yaml)"
        )
    return found


def own_snapshots(plant: PlantDirectory, participants: Iterable[Participant]) -> dict[str, OwnSnapshot]:
    """Open the keyed digests of this plant in a release's lineage with the plant's secret.

    Args:
        plant: The plant's directory.
        participants: Of the release. Other plants' digests cannot be opened here.

    Returns:
        By keyed digest; without those that the plant's present data repository does not have.
    """
    name = plant.load().name
    wanted = {key for one in participants if one.name == name for key in one.snapshots}
    try:
        repository = plant.repository()
    except UsageError:
        return {}  # the plant has no data any more; the rest of the lineage is still worth reading
    secret, purged = plant.snapshot_key.read_bytes(), repository.purged()
    known = {keyed_digest(one.digest, secret): one for one in repository.log()}
    return {
        key: OwnSnapshot(known[key], purged.get(known[key].digest, {}).get("why", ""))
        for key in sorted(wanted & known.keys())
    }
