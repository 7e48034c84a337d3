"""Which releases answer at a plant: the champion, and a challenger that answers beside it.

Two pointers, ``champion.json`` and ``challenger.json``, each replaced in one durable step: a reader, or who
comes after a crash, finds the old one or the new. What they point to lies in ``releases/`` and is verified
before a pointer moves. Why one moves is decided in `interplant.client.deployment`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from interplant.client import history
from interplant.client.directory import PlantDirectory
from interplant.client.receiving import verify_kept, verify_release
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import disk_errors, sync_folder, write_atomic
from interplant.core.release import check_id

SHADOW: Final = "shadow"
CANARY: Final = "canary"
PROBATION: Final = "probation"
STAGES: Final = (SHADOW, CANARY, PROBATION)
"""What a second release does: it answers beside the champion and nobody sees it; it answers a share of the
requests; it is the champion of before, which answers beside the new one while that is on probation."""


@dataclass(frozen=True)
class Champion:
    """What the plant serves now.

    Args:
        release: Its id.
        previous: The good release before it, to which one goes back, or None.
        since: ISO 8601, UTC.
    """

    release: str
    previous: str | None
    since: str


@dataclass(frozen=True)
class Challenger:
    """What answers beside the champion.

    Args:
        release: Its id.
        stage: One of `STAGES`.
        since: When the stage began, ISO 8601, UTC.
        share: Part of the machines (or requests) that it answers in stage ``canary``, 0 to 1.
        against: The champion beside which it answers. With another champion it is a challenger no more.
    """

    release: str
    stage: str
    since: str
    share: float
    against: str


def champion(plant: PlantDirectory) -> Champion | None:
    """Return what the plant serves now, or None before its first release.

    Raises:
        InterplantError: The pointer cannot be read.
    """
    try:
        content = _read(plant.champion, "release, previous and since", "restore it from a backup")
    except InterplantError as error:
        last = "".join(history.line_of_champions(plant)[-1:])
        anew = (
            f", or write it anew: `interplant release rollback {last} --plant {plant.path}`" if last else ""
        )
        raise InterplantError(f"{error}{anew}") from None
    return None if content is None else Champion(**content)


def challenger(plant: PlantDirectory) -> Challenger | None:
    """Return what answers beside the champion, or None.

    One that was left by a crash, because it is the champion now or the champion is another, is none.

    Raises:
        InterplantError: A pointer cannot be read.
    """
    wanted = "release, stage, since, share and against"
    content = _read(plant.challenger, wanted, "remove it, which ends the trial")
    now = champion(plant)
    if content is None or now is None:
        return None
    found = Challenger(**content)
    return found if found.against == now.release and found.release != now.release else None


def activate(plant: PlantDirectory, release: str) -> Champion:
    """Make a release the champion, in one durable step; a crash leaves the old one or the new.

    It is verified once more. The gate is not asked: see `interplant.client.deployment`. A challenger, which
    was held against the champion of before, is withdrawn.

    Raises:
        ReleaseRefused: See `verify_release`; the champion is as it was.
    """
    now = champion(plant)
    if now and now.release == release:
        withdraw(plant)
        return now
    return _serve(plant, release, now.release if now else None)


def challenge(plant: PlantDirectory, release: str, stage: str, share: float = 0.0) -> Challenger:
    """Let a release answer beside the champion; another challenger's place is taken.

    Args:
        plant: The plant's directory.
        release: Its id; verified once more.
        stage: One of `STAGES`; what is on ``probation`` has served here.
        share: For ``canary``.

    Raises:
        UsageError: There is no champion, or the release is the champion.
        ReleaseRefused: See `verify_release`; the pointers are as they were.
    """
    _verify(plant, release, kept=stage == PROBATION)
    now = champion(plant)
    if now is None or now.release == release:
        raise UsageError(f"release {release}: expected another champion to answer beside, found none")
    new = Challenger(release, stage, history.now(), share, now.release)
    write_atomic(plant.challenger, json.dumps(asdict(new), indent=2) + "\n")
    return new


def withdraw(plant: PlantDirectory) -> None:
    """Have the champion answer alone, in one durable step."""
    with disk_errors(plant.challenger):
        try:
            plant.challenger.unlink()
        except FileNotFoundError:
            return
        sync_folder(plant.path)


def roll_back(plant: PlantDirectory, release: str | None = None, previous: str | None = None) -> Champion:
    """Go back to a release that has served here, in one durable step.

    Args:
        plant: The plant's directory.
        release: Where to; by default the champion's ``previous``.
        previous: The good release before that one, or None: the release that is left is none.

    Raises:
        UsageError: There is nothing to go back to.
        ReleaseRefused: It does not verify any more; the champion is as it was.
    """
    now = champion(plant)
    to = release or (now.previous if now else None)
    if now is None or to is None or to == now.release:
        raise UsageError(f"{plant.path}: expected an earlier release to go back to, found none")
    return _serve(plant, to, previous, kept=True)


def rewrite(plant: PlantDirectory, release: str, previous: str | None) -> Champion:
    """Do as `roll_back` does where the pointer cannot be read, which leaves no release."""
    return _serve(plant, release, previous, kept=True)


def _serve(plant: PlantDirectory, release: str, previous: str | None, kept: bool = False) -> Champion:
    _verify(plant, release, kept)
    new = Champion(release, previous, history.now())
    write_atomic(plant.champion, json.dumps(asdict(new), indent=2) + "\n")
    withdraw(plant)
    return new


def _verify(plant: PlantDirectory, release: str, kept: bool) -> None:
    if kept:
        verify_kept(plant, release)
    else:
        verify_release(plant.releases / check_id(release), plant.release_public_key, plant.load().policy)


def _read(path: Path, wanted: str, remedy: str) -> dict[str, Any] | None:
    """The content of a pointer, whose keys and kinds of values are right."""
    kinds: Mapping[str, tuple[type, ...]] = {"previous": (str, type(None)), "share": (int, float)}
    keys = wanted.replace(" and ", ", ").split(", ")
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InterplantError(f"{path}: expected {wanted}: {error}; {remedy}") from None
    if not isinstance(content, dict) or set(content) != set(keys):
        raise InterplantError(f"{path}: expected {wanted}, found other keys; {remedy}")
    for key, value in content.items():
        if not isinstance(value, kinds.get(key, (str,))):
            raise InterplantError(f"{path}: expected {wanted}; {key} cannot be {value!r}; {remedy}")
    return content
