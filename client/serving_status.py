"""What serves at a plant and where, as the serving process noted it last. Light: no model is loaded."""

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from interplant.client.directory import PlantDirectory
from interplant.core.files import is_locked, write_atomic
from interplant.core.processes import is_alive

if TYPE_CHECKING:
    from interplant.client.serving_models import Model


@dataclass(frozen=True)
class ServingStatus:
    """How predictions are served.

    Args:
        state: ``off`` (``serving.listen`` is empty), ``stopped`` or ``serving``.
        address: Where, or empty.
        model: Name under which the model is asked, or empty.
        release: What answers, or empty.
        trouble: Why that is not the champion, or empty.
    """

    state: str
    address: str = ""
    model: str = ""
    release: str = ""
    trouble: str = ""


def note(plant: PlantDirectory, address: str, model: "Model | None", trouble: str) -> None:
    """Write down what serves; called by the process that does."""
    name, release = (model.task.name, model.release) if model else ("", "")
    now = ServingStatus("serving", address, name, release, trouble)
    write_atomic(plant.serving, json.dumps({"process": os.getpid(), **asdict(now)}) + "\n")


def serving_status(plant: PlantDirectory) -> ServingStatus:
    """Look at what serves."""
    if not is_locked(plant.serving_lock):
        return ServingStatus("stopped" if plant.load().serving.listen else "off")
    try:
        noted = json.loads(plant.serving.read_text(encoding="utf-8"))
        # What a killed process left says nothing of the one that has just begun.
        return ServingStatus(**noted) if is_alive(noted.pop("process")) else ServingStatus("serving")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ServingStatus("serving")
