"""How a release comes to a plant: collected apart, verified, then moved to its place as a whole."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from interplant.client import history, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.verdicts import REFUSED, Verdict
from interplant.core import keyring
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, sync_folder
from interplant.core.release import LINEAGE, Release, ReleaseRefused, check_id, parse_lineage, read_release
from interplant.core.schema import Policy


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
        ReleaseRefused: See `verify_release`; or it is ``older`` than another of its task that has come here
            and was not called back. What was collected is gone, the verdict is on record.
    """
    place, collected = plant.releases / check_id(release), incoming(plant, release)
    try:
        key, policy = plant.release_public_key, plant.load().policy
        if place.exists():
            return verify_release(place, key, policy)
        found = verify_release(collected, key, policy)
        _check_newer(plant, found)
        # A bad copy that came earlier left its verdict; this one is to be tried.
        verdicts.forget(plant, release)
        with disk_errors(place):
            _durably_move(collected, place)
        return replace(found, folder=place)
    except ReleaseRefused as error:
        verdicts.record(plant, release, Verdict(REFUSED, error.code, str(error)))
        raise
    finally:
        shutil.rmtree(collected, ignore_errors=True)


def verify_release(folder: Path, public_key: Path, policy: Policy, kept: bool = False) -> Release:
    """Check everything about a release that needs neither its model nor any data.

    Args:
        folder: Named by the release's id.
        public_key: The federation's Ed25519 public key, PEM.
        policy: The plant's: the tasks and models it takes, and whether a release may be not private.
        kept: It has served here: then its key may have been revoked since.

    Raises:
        ReleaseRefused: ``signature``, ``revoked_key``, ``tampered``, ``lineage``, ``task_invalid``,
            ``policy_task``, ``policy_model`` or ``policy_privacy``.
        InterplantError: The public key cannot be read.
    """
    release = read_release(folder, keyring.read(public_key), kept)
    task = release.task
    if task.name not in policy.tasks:
        raise ReleaseRefused("policy_task", f"{task.name!r} is not in policy.tasks")
    if task.model.name not in policy.models:
        raise ReleaseRefused("policy_model", f"{task.model.name!r} is not in policy.models")
    if not (release.lineage.private or policy.privacy.allow_none):
        raise ReleaseRefused("policy_privacy", "the release is marked as not private")
    return release


def _check_newer(plant: PlantDirectory, release: Release) -> None:
    """Refuse an old release that is sent as if it were new: only a rollback goes back, to what is here."""
    created, called_back = _made(release.lineage.created), _called_back(plant)
    for folder in (one for one in plant.releases.iterdir() if one.is_dir() and one.name[0] != "."):
        verdict = verdicts.verdict_of(plant, folder.name)
        if folder.name in called_back or (verdict and verdict.state == verdicts.ROLLED_BACK):
            continue
        try:
            other = parse_lineage((folder / LINEAGE).read_bytes())
            newer = _made(other.created) > created
        except (InterplantError, OSError):
            continue  # a damaged one is found out when it is to serve
        if newer and other.task == release.task.name:
            raise ReleaseRefused("older", f"made {release.lineage.created}, {folder.name} {other.created}")


def _called_back(plant: PlantDirectory) -> set[str]:
    """Champions that the plant would have left at the federation's word, had the other served here."""
    return {step.release for step in history.steps(plant) if step.code == "never_served"}


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
