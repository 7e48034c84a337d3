"""What drifts at the plant now: one small file that whoever serves predictions can afford to look at.

Like all of the monitor's figures it stays in the plant.
"""

import json
from collections.abc import Collection
from typing import Any

from interplant.client.directory import PlantDirectory
from interplant.core.files import write_atomic


def note(plant: PlantDirectory, release: str, watched: str, sensors: Collection[str]) -> None:
    """Write down what drifts; called in turns.

    Args:
        plant: The plant's directory.
        release: The champion from whose snapshot live readings drift.
        watched: ``inputs``, ``predictions`` or ``errors``.
        sensors: Those that drift; empty text stands for all jointly.
    """
    before = _read(plant)
    known = before["watched"] if before.get("release") == release else {}
    now = {"release": release, "watched": {**known, watched: sorted(sensors)}}
    if now != before:
        write_atomic(plant.drift_now, json.dumps(now) + "\n", mode=0o600)


def is_drifting(plant: PlantDirectory, release: str) -> bool:
    """Return whether anything that is watched drifts from what a release learned from."""
    now = _read(plant)
    return bool(now.get("release") == release and any(now["watched"].values()))


def _read(plant: PlantDirectory) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(plant.drift_now.read_text(encoding="utf-8"))
        return found if isinstance(found.get("watched"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}  # it is written anew with the next look
