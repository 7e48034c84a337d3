"""What a plant does with a release: receive it, verify it, try it, activate it or refuse it.

``champion.json`` is one atomic pointer to the release that serves. It moves only after a release has
passed everything, and no release is ever deleted here, so the last good model always stays.
Figures of a trial are exact and stay in this plant, in ``releases/<id>.verdict.json`` beside the
release, whose own folder is never written to; `report_for_coordinator` alone says what may leave.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from interplant.client import gate
from interplant.client.directory import PlantDirectory
from interplant.core import signing
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.files import disk_errors, sync_folder, write_atomic
from interplant.core.release import Release, ReleaseRefused, check_id, read_release
from interplant.core.schema import Policy

ACTIVE: Final = "active"
WAITING: Final = "waiting"
REFUSED: Final = "refused"
RECEIVED: Final = "received"

_VERDICT: Final = ".verdict.json"
_OF_THE_FOLDER: Final = {"signature", "tampered", "lineage", "task_invalid"}
_OF_THE_POLICY: Final = {"policy_task", "policy_model", "policy_privacy"}
_OF_THE_MODEL: Final = {"model_missing", "model", "parity", "not_finite"}
DATA_FREE: Final = frozenset(_OF_THE_FOLDER | _OF_THE_POLICY | _OF_THE_MODEL)
"""Refusals that follow from the release and the policy alone, before any reading is looked at."""


@dataclass(frozen=True)
class Champion:
    """What the plant serves now.

    Args:
        release: Its id.
        previous: The champion before it, or None.
        since: ISO 8601, UTC.
    """

    release: str
    previous: str | None
    since: str


@dataclass(frozen=True)
class Verdict:
    """What became of a release here.

    Args:
        state: ``active``, ``waiting`` (for a person) or ``refused``.
        code: Why it was refused, a key of `interplant.core.release.RELEASE_REFUSALS` or of
            `interplant.core.errors.REFUSALS`; empty otherwise.
        sentence: The same for the plant's own people, with figures.
        figures: Exact results: errors and scores on the plant's hold-out. They stay in the plant.
    """

    state: str
    code: str
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)


# --- receiving -------------------------------------------------------------------------------------


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
        ReleaseRefused: See `verify_release`; what was collected is gone, the verdict is on record.
    """
    place, collected = plant.releases / check_id(release), incoming(plant, release)
    try:
        key, policy = plant.release_public_key, plant.load().policy
        if place.exists():
            return verify_release(place, key, policy)
        verify_release(collected, key, policy)
        # A bad copy that came earlier left its verdict; this one is to be tried.
        _verdict_path(plant, release).unlink(missing_ok=True)
        with disk_errors(place):
            _durably_move(collected, place)
        return verify_release(place, key, policy)
    except ReleaseRefused as error:
        _record(plant, release, _refusal(error))
        raise
    finally:
        shutil.rmtree(collected, ignore_errors=True)


def verify_release(folder: Path, public_key: Path, policy: Policy) -> Release:
    """Check everything about a release that needs neither its model nor any data.

    Args:
        folder: Named by the release's id.
        public_key: The federation's Ed25519 public key, PEM.
        policy: The plant's: the tasks and models it takes, and whether a release may be not private.

    Raises:
        ReleaseRefused: ``signature``, ``tampered``, ``lineage``, ``task_invalid``, ``policy_task``,
            ``policy_model`` or ``policy_privacy``.
        InterplantError: The public key cannot be read.
    """
    release = read_release(folder, signing.read_public(public_key))
    task = release.task
    if task.name not in policy.tasks:
        raise ReleaseRefused("policy_task", f"{task.name!r} is not in policy.tasks")
    if task.model.name not in policy.models:
        raise ReleaseRefused("policy_model", f"{task.model.name!r} is not in policy.models")
    if not (release.lineage.private or policy.privacy.allow_none):
        raise ReleaseRefused("policy_privacy", "the release is marked as not private")
    return release


# --- the gate --------------------------------------------------------------------------------------


def try_release(plant: PlantDirectory, folder: Path) -> Verdict:
    """Verify a release, test it on this plant's hold-out against its champion, and act on it.

    Needs torch: it runs in the trainer's process. Trying again what was tried before is harmless.

    Args:
        plant: The plant's directory.
        folder: ``releases/<id>``.

    Returns:
        The verdict, also on record; ``active`` means that the champion is this release now.
    """
    policy = plant.load().policy
    try:
        release = verify_release(folder, plant.release_public_key, policy)
        gate.check_model(release)
        now = champion(plant)
        figures = gate.measure(plant, release, now.release if now else None, policy.release.margin)
    except (ReleaseRefused, Refusal) as error:
        verdict = _refusal(error)
    else:
        verdict = _passed(plant, release, policy, figures)
    return _record(plant, folder.name, verdict)


def record_fault(plant: PlantDirectory, release: str, fault: str) -> Verdict:
    """Refuse a release whose trial met a fault, so that nobody waits for a verdict; remove it to try again.

    Args:
        plant: The plant's directory.
        release: The release's id.
        fault: For the plant's own people.
    """
    return _record(plant, release, _refusal(Refusal("internal", fault)))


def approve(plant: PlantDirectory, release: str) -> Verdict:
    """Activate a release that has passed the gate and waits for a person.

    Raises:
        UsageError: It does not wait for one.
    """
    waiting = verdict_of(plant, release)
    if waiting is None or waiting.state != WAITING:
        state = waiting.state if waiting else "not tried here"
        raise UsageError(f"release {release}: expected one that waits for approval; it is {state}")
    activate(plant, release)
    return _record(plant, release, Verdict(ACTIVE, "", "approved by a person", waiting.figures))


def verdict_of(plant: PlantDirectory, release: str) -> Verdict | None:
    """Return what became of a release, or None if it was not tried (to its end) yet."""
    path = _verdict_path(plant, release)
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InterplantError(f"{path}: cannot be read: {error}; remove it and try again") from None


def verdicts(plant: PlantDirectory) -> list[tuple[str, Verdict]]:
    """Return what became of every release that came here, by name."""
    names = sorted(path.name.removesuffix(_VERDICT) for path in plant.releases.glob(f"*{_VERDICT}"))
    return [(name, verdict) for name in names if (verdict := verdict_of(plant, name))]


def untried(plant: PlantDirectory) -> list[str]:
    """Return the releases that lie here without a verdict: a process died while it tried them."""
    if not plant.releases.is_dir():
        return []
    names = sorted(path.name for path in plant.releases.iterdir() if path.is_dir())
    return [name for name in names if name[0] != "." and not _verdict_path(plant, name).exists()]


def report_for_coordinator(policy: Policy, verdict: Verdict) -> tuple[str, str]:
    """Return state and code as far as the policy lets the coordinator know; nothing else leaves.

    With ``release.report: nothing`` the answer is the same for every result that depends on data;
    what follows from the release and the policy alone (`DATA_FREE`) is told. With ``verdict`` the
    plant declares the plain verdict public.
    """
    free = verdict.state == REFUSED and verdict.code in DATA_FREE
    if policy.release.report == "verdict" or free:
        return verdict.state, verdict.code
    return RECEIVED, ""


# --- activating ------------------------------------------------------------------------------------


def champion(plant: PlantDirectory) -> Champion | None:
    """Return what the plant serves now, or None before its first release.

    Raises:
        InterplantError: The pointer cannot be read.
    """
    path = plant.champion
    try:
        return Champion(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InterplantError(
            f"{path}: expected release, previous and since: {error}; restore it from a backup"
        ) from None


def activate(plant: PlantDirectory, release: str) -> Champion:
    """Make a release the champion, in one durable step; a crash leaves the old one or the new.

    It is verified once more. The gate is not asked: see `try_release` and `approve`.

    Raises:
        ReleaseRefused: See `verify_release`; the champion is as it was.
    """
    verify_release(plant.releases / check_id(release), plant.release_public_key, plant.load().policy)
    now = champion(plant)
    if now and now.release == release:
        return now
    new = Champion(release, now.release if now else None, _now())
    write_atomic(plant.champion, json.dumps(asdict(new), indent=2) + "\n")
    return new


def _passed(plant: PlantDirectory, release: Release, policy: Policy, figures: Mapping[str, float]) -> Verdict:
    if policy.release.approval == "person":
        return Verdict(
            WAITING, "", f"waits for a person: {gate.result(figures, release.task.target)}", figures
        )
    # First the pointer, then the record: who dies between them tries the release again.
    activate(plant, release.id)
    return Verdict(ACTIVE, "", gate.result(figures, release.task.target), figures)


def _refusal(error: ReleaseRefused | Refusal) -> Verdict:
    figures = error.figures if isinstance(error, gate.Worse) else {}
    return Verdict(REFUSED, error.code, str(error), figures)


def _record(plant: PlantDirectory, release: str, verdict: Verdict) -> Verdict:
    path = _verdict_path(plant, release)
    write_atomic(path, json.dumps(asdict(verdict), indent=2) + "\n", mode=0o600)
    return verdict


def _verdict_path(plant: PlantDirectory, release: str) -> Path:
    return plant.releases / f"{check_id(release)}{_VERDICT}"


def _incoming(plant: PlantDirectory) -> Path:
    return plant.releases / ".incoming"


def _durably_move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(source)
    os.rename(source, target)
    sync_folder(target.parent)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
