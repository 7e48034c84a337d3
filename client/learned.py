"""What a plant has trained on: its own record of runs and snapshots, which stays in the plant.

A line of ``trained.jsonl`` for each run and snapshot, on disk before the run's first training on it: until
the run's release is here, the record alone tells which snapshots that release will name.
"""

import json
import os
from collections.abc import Collection
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.core.files import disk_errors
from interplant.core.release import LINEAGE, Lineage, parse_lineage

_KEYS: Final = ("run", "task", "snapshot")


def note(plant: PlantDirectory, run: str, task: str, snapshot: str) -> None:
    """Write down that a run's rounds train on a snapshot from now on.

    Args:
        plant: The plant's directory.
        run: The run's id.
        task: Name of its task.
        snapshot: Digest of the snapshot.
    """
    entry = (run, task, snapshot)
    if entry in _entries(plant):
        return
    with disk_errors(plant.trained):
        descriptor = os.open(plant.trained, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # In front of the line, so that one which a power cut has torn off does not spoil this one.
            os.write(descriptor, b"\n" + json.dumps(dict(zip(_KEYS, entry, strict=True))).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lineages(plant: PlantDirectory) -> list[Lineage]:
    """Return the lineage of each release at this plant.

    Raises:
        InterplantError: One cannot be read.
    """
    return [parse_lineage(path.read_bytes()) for path in sorted(plant.releases.glob(f"*/{LINEAGE}"))]


def awaited(plant: PlantDirectory, snapshots: Collection[str]) -> list[str]:
    """Return the runs that trained on one of these snapshots and whose release may still come here.

    A plant is not told how a run ends. Its release is no longer waited for when it is here, or one of its
    task is that a later run has made.

    Args:
        plant: The plant's directory.
        snapshots: Digests.
    """
    entries = _entries(plant)
    order = {run: place for place, run in enumerate(dict.fromkeys(run for run, _, _ in entries))}
    last: dict[str, int] = {}
    for one in lineages(plant):
        last[one.task] = max(last.get(one.task, -1), order.get(one.run, -1))
    return list(
        dict.fromkeys(
            run for run, task, digest in entries if digest in snapshots and order[run] > last.get(task, -1)
        )
    )


def _entries(plant: PlantDirectory) -> list[tuple[str, str, str]]:
    """Run, task and snapshot of each line, the oldest first; a line that was torn off is none."""
    try:
        lines = plant.trained.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> tuple[str, str, str] | None:
    try:
        run, task, snapshot = (str(json.loads(line)[key]) for key in _KEYS)
    except (ValueError, KeyError, TypeError):
        return None
    return run, task, snapshot
