"""Going back: at a person's word, at the federation's, or by itself; to a release that has served here.

The decision goes on record before the pointer moves. Who is killed between the two leaves a champion that
was left: `mend` then finishes what was decided.
"""

from collections.abc import Callable, Mapping
from typing import Final

from interplant.client import champion as pointers
from interplant.client import history
from interplant.client.champion import PROBATION, Champion
from interplant.client.deployment import promote, to_canary, withdraw
from interplant.client.directory import PlantDirectory
from interplant.client.receiving import lineage_here, newer_than, verify_kept
from interplant.client.verdicts import (
    ACTIVE,
    CANARY,
    REFUSED,
    ROLLED_BACK,
    SHADOW,
    WAITING,
    WITHDRAWN,
    Verdict,
    deciding,
    record,
    try_again,
    verdict_of,
    verdicts,
)
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import ReleaseRefused, check_id, sentence

_ON_TRIAL: Final = (SHADOW, CANARY)


def roll_back(plant: PlantDirectory, to: str | None = None, reason: str = "") -> Champion:
    """Serve an earlier release again, at the word of a person of this plant.

    The release that is left is not taken again by itself: it has its verdict. Where the pointer to the
    champion cannot be read, ``to`` has it written anew.

    Args:
        plant: The plant's directory.
        to: A release that has served here; by default the good one before the champion.
        reason: In the person's words, for the history.

    Raises:
        UsageError: There is none, it serves already, or it has never served here.
        ReleaseRefused: It does not verify any more; the champion is as it was.
        InterplantError: The pointer cannot be read, and ``to`` is not given or has not served here.
    """
    with deciding(plant):
        try:
            now = pointers.champion(plant)
        except InterplantError:
            if to is None or not history.has_served(plant, check_id(to)):
                raise
            return _rewrite(plant, to, f": {reason}" if reason else "")
        target = check_id(to) if to else _before(plant, now)
        if now is None or target is None:
            raise UsageError(f"{plant.path}: expected an earlier release to go back to, found none")
        if target == now.release:
            raise UsageError(f"release {target}: expected another than the one that serves")
        if not _has_served(plant, target):
            raise UsageError(
                f"release {target}: expected one that has served here; "
                f"see `interplant release list --plant {plant.path}`"
            )
        why = f"to {target}" + (f": {reason}" if reason else "")
        return leave(plant, now, target, "rolled_back", why, {})


def leave(
    plant: PlantDirectory, now: Champion, to: str, code: str, why: str, figures: Mapping[str, float]
) -> Champion:
    """Leave the champion for a release that has served here; who calls holds `deciding`.

    Raises:
        ReleaseRefused: The other does not verify any more; the champion is as it was.
    """
    verify_kept(plant, to)
    _end_trial(plant, f"the plant went back from {now.release} to {to}")
    record(plant, now.release, Verdict(ROLLED_BACK, code, f"{sentence(code)} [{code}]: {why}", figures, to))
    _make_way(plant)
    return _serve_again(plant, now.release, to)


def heed(plant: PlantDirectory, release: str, to: str) -> Verdict | None:
    """Do what the policy says with the federation's word to go back from a release.

    A release that does not serve here is withdrawn, and not taken when it comes later; of one that does, the
    plant's policy says whether the federation's word is enough (``policy.release.rollback``).

    Args:
        plant: The plant's directory.
        release: Which is called back.
        to: The federation's earlier release, or empty: it has none.

    Returns:
        The release's verdict from now on; None if the word was heeded before, or changes nothing.
    """
    with deciding(plant):
        known, now = verdict_of(plant, check_id(release)), pointers.champion(plant)
        if now and now.release == release:
            return _heed_champion(plant, now, check_id(to) if to else "", known)
        if known is not None and known.state not in (WAITING, *_ON_TRIAL):
            return None
        if known is not None and known.state in _ON_TRIAL:
            _end_trial(plant, "the federation went back from it")
        return record(plant, release, Verdict(ROLLED_BACK, "called_back", f"{sentence('called_back')}", {}))


def mend(plant: PlantDirectory) -> bool:
    """Finish what somebody began who was killed between a record and a pointer; who calls holds `deciding`.

    Returns:
        Whether there was something.
    """
    found = _mend_champion(plant)
    last = {step.release: step.state for step in history.steps(plant)}
    for name, one in verdicts(plant):
        if one.state != ACTIVE and last.get(name) != one.state:
            record(plant, name, one)
            found = True
    other = pointers.challenger(plant)
    for name, one in verdicts(plant):
        if one.state in _ON_TRIAL and (other is None or other.release != name):
            why = f"{sentence('interrupted')} [interrupted]"
            record(plant, name, Verdict(WITHDRAWN, "interrupted", why, one.figures))
            found = True
    if other and other.stage != PROBATION:
        known = verdict_of(plant, other.release)
        if known is None or known.state not in _ON_TRIAL:
            pointers.withdraw(plant)
            found = True
        elif known.state != other.stage:
            to_canary(plant, other.release, other.share, "the shadow is over")
            found = True
    return found


def _mend_champion(plant: PlantDirectory) -> bool:
    now = pointers.champion(plant)
    known = verdict_of(plant, now.release) if now else None
    if now is None or known is None:
        return False  # what has no verdict is tried again
    if known.state == ROLLED_BACK and known.to:
        _serve_again(plant, now.release, known.to)
    elif known.state != ACTIVE:
        promote(plant, now.release, "it serves", known.figures)
    elif history.line_of_champions(plant)[-1:] != [now.release]:
        record(plant, now.release, Verdict(ACTIVE, known.code, known.sentence, known.figures))
    else:
        return False
    return True


def _heed_champion(plant: PlantDirectory, now: Champion, to: str, known: Verdict | None) -> Verdict | None:
    steps = [one for one in history.steps(plant) if one.release == now.release]
    if any(one.code in history.CALLED_BACK for one in steps):
        return None  # heeded once: a person has decided since, or is to decide
    figures = known.figures if known else {}
    if plant.load().policy.release.rollback != "obey":
        back = to if to and _has_served(plant, to) else _before(plant, now) or ""
        does = f"`interplant release rollback {back} --plant {plant.path}` does it"
        if not back:
            does = "none has served here before it: it serves until another passes the gate"
        why = f"{sentence('rollback_asked')}: {does}"
        return _serves_on(plant, now.release, Verdict(ACTIVE, "rollback_asked", why, figures))
    target = to or _before(plant, now)
    try:
        if target is None or not _has_served(plant, target):
            raise ReleaseRefused("never_served", f"{target or 'no release'}")
        leave(plant, now, target, "called_back", f"to {target}", figures)
    except ReleaseRefused as error:
        why = f"the federation goes back from it, the plant cannot: {error}"
        return _serves_on(plant, now.release, Verdict(ACTIVE, "never_served", why, figures))
    return verdict_of(plant, now.release)


def _rewrite(plant: PlantDirectory, to: str, reason: str) -> Champion:
    """The history says which release served last; if it is another, the person leaves it."""
    verify_kept(plant, to)
    last = history.line_of_champions(plant)[-1]
    if last != to:
        why = f"{sentence('rolled_back')} [rolled_back]: to {to}{reason}"
        record(plant, last, Verdict(ROLLED_BACK, "rolled_back", why, {}, to))
    return _serve_again(plant, f"a spoilt pointer{reason}", to, pointers.rewrite)


def _serve_again(
    plant: PlantDirectory,
    left: str,
    to: str,
    point: Callable[[PlantDirectory, str, str | None], Champion] = pointers.roll_back,
) -> Champion:
    line = history.line_of_champions(plant)
    below = line[: line.index(to)] if to in line else line
    champion = point(plant, to, below[-1] if below else None)
    known = verdict_of(plant, to)
    record(plant, to, Verdict(ACTIVE, "", f"serves again in place of {left}", known.figures if known else {}))
    return champion


def _serves_on(plant: PlantDirectory, release: str, verdict: Verdict) -> Verdict:
    """Record that a champion serves on that the federation went back from."""
    record(plant, release, verdict)
    _make_way(plant)
    return verdict


def _make_way(plant: PlantDirectory) -> None:
    """Have releases tried that were refused as older than one that was gone back from."""
    for name, one in verdicts(plant):
        if one.state == REFUSED and one.code == "older":
            lineage = lineage_here(plant, name)
            if lineage and not newer_than(plant, lineage):
                try_again(plant, name, "the newer release was gone back from")


def _before(plant: PlantDirectory, now: Champion | None) -> str | None:
    """The good release before the champion."""
    return history.good_before(plant, now.release, now.previous) if now else None


def _has_served(plant: PlantDirectory, release: str) -> bool:
    """Also in a version that kept no history."""
    now, known = pointers.champion(plant), verdict_of(plant, release)
    before = bool(known and known.state == ACTIVE) or bool(now and now.previous == release)
    return before or history.has_served(plant, release)


def _end_trial(plant: PlantDirectory, why: str) -> None:
    other = pointers.challenger(plant)
    if other is not None and other.stage != PROBATION:
        withdraw(plant, other.release, "replaced", why, {})
