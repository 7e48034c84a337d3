"""How a release comes to a plant: collected apart, verified, then moved to its place as a whole."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from interplant.client import history, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import REFUSED, Verdict
from interplant.core import keyring
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sync_folder
from interplant.core.release import (
    LINEAGE,
    Lineage,
    Release,
    ReleaseRefused,
    check_id,
    is_id,
    parse_lineage,
    read_release,
)
from interplant.core.schema import Policy

_AHEAD: Final = timedelta(days=1)
"""A release that is signed as if made so much later than now would make every later one old."""

_SERVES_ON: Final = ("never_served", "rollback_asked")
"""Codes of champions that the federation went back from: the other never served, or a person decides."""

_COUNT_NOT: Final = (verdicts.ROLLED_BACK, REFUSED)
"""States of releases that make no other one old: they have not served here, or serve no more."""


def incoming(plant: PlantDirectory, release: str) -> Path:
    """Return the folder in which a release is collected, made if missing; see `accept`."""
    folder = _incoming(plant) / check_id(release)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_leftovers(plant: PlantDirectory) -> None:
    """Remove what an interrupted fetch left; called once at the agent's start."""
    shutil.rmtree(_incoming(plant), ignore_errors=True)


def accept(plant: PlantDirectory, release: str) -> Release:
    """Move a collected release into ``releases/``, if it is whole, signed and within the policy.

    Returns:
        The release at its place. One that is there already stays, and what was collected is dropped.

    Raises:
        ReleaseRefused: See `verify_release`; or it is ``older`` than another of its task that has passed here
            and was not called back, or was called back while it came. What was collected is gone, the verdict
            is on record.
    """
    collected = incoming(plant, release)
    try:
        # What is decided meanwhile, as that the federation goes back from it, must not be overwritten.
        with verdicts.deciding(plant):
            known = verdicts.verdict_of(plant, release)
            gone_back = known and known.state == verdicts.ROLLED_BACK
            if known and gone_back and not (plant.releases / release).exists():
                raise ReleaseRefused(known.code, known.sentence)
            return _take(plant, release, collected)
    finally:
        shutil.rmtree(collected, ignore_errors=True)


def _take(plant: PlantDirectory, release: str, collected: Path) -> Release:
    place, key, policy = plant.releases / release, plant.release_public_key, plant.load().policy
    try:
        if place.exists():
            return verify_release(place, key, policy)
        found = verify_release(collected, key, policy)
        _check_made(found)
    except ReleaseRefused as error:
        verdicts.record(plant, release, Verdict(REFUSED, error.code, str(error)))
        raise
    # A bad copy that came earlier left its verdict; this one is to be tried.
    verdicts.forget(plant, release)
    newer = newer_than(plant, found.lineage)
    older = ReleaseRefused("older", newer) if newer else None
    if older:
        # It stays: whoever fetched it again, once what made it old was left, would tell what serves here.
        verdicts.record(plant, release, Verdict(REFUSED, older.code, str(older)))
    with disk_errors(place):
        _durably_move(collected, place)
    if older:
        raise older
    return replace(found, folder=place)


def verify_kept(plant: PlantDirectory, release: str) -> Release:
    """Check that what has served here is whole and signed, by a key that may have been revoked since.

    The policy does not count: nobody is kept from going back by what was changed in plant.yaml since.

    Raises:
        ReleaseRefused: ``signature``, ``tampered``, ``lineage`` or ``task_invalid``.
    """
    folder = plant.releases / check_id(release)
    return read_release(folder, keyring.read(plant.release_public_key), kept=True)


def verify_release(folder: Path, public_key: Path, policy: Policy) -> Release:
    """Check everything about a release that needs neither its model nor any data.

    Args:
        folder: Named by the release's id.
        public_key: The federation's Ed25519 public key, PEM.
        policy: The plant's: the tasks and models it takes, and whether a release may be not private.

    Raises:
        ReleaseRefused: ``signature``, ``revoked_key``, ``tampered``, ``lineage``, ``task_invalid``,
            ``policy_task``, ``policy_model`` or ``policy_privacy``.
        InterplantError: The public key cannot be read.
    """
    release = read_release(folder, keyring.read(public_key))
    task = release.task
    if task.name not in policy.tasks:
        raise ReleaseRefused("policy_task", f"{task.name!r} is not in policy.tasks")
    if task.model.name not in policy.models:
        raise ReleaseRefused("policy_model", f"{task.model.name!r} is not in policy.models")
    if not (release.lineage.private or policy.privacy.allow_none):
        raise ReleaseRefused("policy_privacy", "the release is marked as not private")
    return release


def lineage_here(plant: PlantDirectory, release: str) -> Lineage | None:
    """Return the lineage of a release that is here; None if it is not, or damaged."""
    try:
        found = parse_lineage((plant.releases / check_id(release) / LINEAGE).read_bytes())
        _made(found.created)
        return found
    except (InterplantError, OSError):
        return None


def is_older(plant: PlantDirectory, release: str, other: str) -> bool:
    """Whether a release that is here was made before another of the same task; False of a damaged one."""
    one, two = lineage_here(plant, release), lineage_here(plant, other)
    return bool(one and two and one.task == two.task and _made(one.created) < _made(two.created))


def _check_made(release: Release) -> None:
    if _made(release.lineage.created) > datetime.now(UTC) + _AHEAD:
        raise ReleaseRefused("lineage", f"created: {release.lineage.created} has not come yet")


def newer_than(plant: PlantDirectory, release: Lineage) -> str:
    """Tell why a release is old that is sent as new, if it is: only a rollback goes back, to what is here."""
    created, called_back = _made(release.created), _called_back(plant)
    for folder in (one for one in plant.releases.iterdir() if one.is_dir() and is_id(one.name)):
        verdict = verdicts.known(plant, folder.name)
        if folder.name in called_back or (verdict and verdict.state in _COUNT_NOT):
            continue
        other = lineage_here(plant, folder.name)  # a damaged one is found out when it is to serve
        if other and other.task == release.task and _made(other.created) > created:
            return f"made {release.created}, {folder.name} {other.created}"
    return ""


def _called_back(plant: PlantDirectory) -> set[str]:
    """Champions that the federation went back from, and that serve on."""
    return {step.release for step in history.steps(plant) if step.code in _SERVES_ON}


def _made(created: str) -> datetime:
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        raise ReleaseRefused("lineage", f"created: expected ISO 8601, found {created!r}") from None
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _incoming(plant: PlantDirectory) -> Path:
    return plant.releases / ".incoming"


def _durably_move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(source)
    os.rename(source, target)
    sync_folder(target.parent)
