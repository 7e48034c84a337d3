"""What the coordinator is told of releases here, as the plant's policy lets it; each change once.

What was told stands in ``releases/told.json``, and how much of the history had happened by then: a decision
that fell while the agent was away, or in another process, is told when it is back.
"""

import json
from typing import Any

from interplant.client import history
from interplant.client.deployment import standing
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import ACTIVE, RECEIVED, report_for_coordinator
from interplant.core.files import file_state, write_atomic

Report = tuple[str, str]


def report(plant: PlantDirectory, release: str) -> Report | None:
    """Return state and code of a release as they may leave, or None if it has no verdict yet."""
    return _reports(plant).get(release)


def changed(plant: PlantDirectory) -> object:
    """Return what is another with each decision about releases; cheap to look at."""
    return file_state(plant.release_history), file_state(plant.champion)


def due(plant: PlantDirectory) -> tuple[dict[str, Report], int]:
    """Return what is to be told.

    Where the policy lets nothing be known there is no second report: its time alone would tell of the
    decision.

    Returns:
        By release, what has changed since it was told; and how many steps that covers, for `settle`.
    """
    told, seen = _told(plant)
    steps = history.steps(plant)
    moved = {step.release for step in steps[seen:]}
    moved |= {release for release, (state, _) in told.items() if state == ACTIVE}
    now = {release: one for release, one in _reports(plant).items() if release in moved}
    return {
        release: one for release, one in now.items() if one[0] != RECEIVED and told.get(release) != one
    }, len(steps)


def note(plant: PlantDirectory, release: str, said: Report) -> None:
    """Remember what was told of a release."""
    told, seen = _told(plant)
    _write(plant, told | {release: said}, seen)


def was_told(plant: PlantDirectory, release: str, said: Report) -> bool:
    """Whether this was the last word on a release."""
    return _told(plant)[0].get(release) == said


def settle(plant: PlantDirectory, seen: int) -> None:
    """Remember that all is told of so many steps."""
    told, before = _told(plant)
    if seen != before:
        _write(plant, told, seen)


def _reports(plant: PlantDirectory) -> dict[str, Report]:
    policy = plant.load().policy
    return {release: report_for_coordinator(policy, verdict) for release, verdict in standing(plant)}


def _told(plant: PlantDirectory) -> tuple[dict[str, Report], int]:
    try:
        content: dict[str, Any] = json.loads(plant.told_releases.read_bytes())
        return {release: (state, code) for release, (state, code) in content["told"].items()}, content["seen"]
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}, 0  # told again as it comes


def _write(plant: PlantDirectory, told: dict[str, Report], seen: int) -> None:
    content = json.dumps({"seen": seen, "told": told}, indent=1) + "\n"
    write_atomic(plant.told_releases, content, mode=0o600)
