"""What became of releases at a plant, step by step: an append-only record with reasons and figures.

``releases/history.jsonl``, for the plant's own user; nothing of it leaves. The newest step of each release
stands in its verdict too (`interplant.client.verdicts`).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.core.files import disk_errors

CALLED_BACK: Final = ("called_back", "rollback_asked", "never_served")
"""Codes of steps with which the federation went back from a release, whatever the plant made of it."""

_SERVES: Final = "active"


@dataclass(frozen=True)
class Step:
    """One step of a release.

    Args:
        at: ISO 8601, UTC.
        release: Its id.
        state: What it is from then on, as in `interplant.client.verdicts.Verdict`.
        code: Why, if it was refused, withdrawn or left.
        sentence: The same for the plant's own people.
        figures: Exact results, which stay in the plant.
        to: Release that the plant went back to.
    """

    at: str
    release: str
    state: str
    code: str
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)
    to: str = ""


def now() -> str:
    """Return the time as steps and pointers have it: ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def append(plant: PlantDirectory, step: Step) -> None:
    """Write a step durably, behind all others."""
    path = _path(plant)
    line = json.dumps(asdict(step)).encode() + b"\n"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # A line that a power cut has torn off must not spoil this one.
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def steps(plant: PlantDirectory) -> list[Step]:
    """Return all steps, the oldest first; a line that a power cut has torn off is none."""
    try:
        lines = _path(plant).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [step for line in lines if (step := _parsed(line)) is not None]


def line_of_champions(plant: PlantDirectory) -> list[str]:
    """Return the good releases that have served here, the newest last: the way back.

    A release that was left is none of them, and neither is what came after the one that was gone back to.
    """
    line: list[str] = []
    for step in steps(plant):
        if step.state != _SERVES:
            continue
        if step.release in line:
            del line[line.index(step.release) + 1 :]
        else:
            line.append(step.release)
    return line


def good_before(plant: PlantDirectory, release: str, previous: str | None) -> str | None:
    """Return the good release before a champion, or None: one that was called back is none.

    Args:
        plant: The plant's directory.
        release: The champion, on record as one or not yet.
        previous: What its pointer names, for a plant that kept no history then.
    """
    line = line_of_champions(plant)
    earlier = line[: line.index(release)] if release in line else line
    bad = {step.release for step in steps(plant) if step.code in CALLED_BACK}
    good = [one for one in [previous, *earlier] if one and one not in bad]
    return good[-1] if good else None


def has_served(plant: PlantDirectory, release: str) -> bool:
    """Whether a release was ever the champion here."""
    return any(step.release == release and step.state == _SERVES for step in steps(plant))


def _path(plant: PlantDirectory) -> Path:
    return plant.release_history


def _parsed(line: bytes) -> Step | None:
    try:
        return Step(**json.loads(line))
    except (ValueError, TypeError):
        return None
