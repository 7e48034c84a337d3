"""What a plant does with a release: the gate, a person where the policy wants one, a trial; it serves.

It has been received and verified (`interplant.client.receiving`). The champion moves only after a release has
passed everything, and no release is ever deleted here, so the last good model always stays. Each step goes
on record with its reason. `interplant.client.trial` decides about releases on trial, and
`interplant.client.rollback` goes back.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from interplant.client import champion as pointers
from interplant.client import history
from interplant.client.champion import PROBATION
from interplant.client.directory import PlantDirectory
from interplant.client.receiving import is_older, verify_release
from interplant.client.verdicts import (
    ACTIVE,
    CANARY,
    REFUSED,
    SHADOW,
    SUPERSEDED,
    WAITING,
    WITHDRAWN,
    Verdict,
    deciding,
    record,
    try_again,
    verdict_of,
    verdicts,
)
from interplant.core.errors import Refusal, UsageError
from interplant.core.release import TASK, ReleaseRefused, parse_task, sentence
from interplant.core.schema import Policy

_TRIES: Final = 3
"""How often a release is held against the champion anew because another has taken its place."""


def try_release(plant: PlantDirectory, folder: Path) -> Verdict:
    """Verify a release, test it on this plant's hold-out against its champion, and act on it.

    Needs torch: it runs in the trainer's process. Trying again what was tried before is harmless.

    Args:
        plant: The plant's directory.
        folder: ``releases/<id>``.

    Returns:
        The verdict, also on record; ``active`` means that the champion is this release now.
    """
    from interplant.client import gate  # not where a person only goes back, in a hurry

    for _ in range(_TRIES):
        policy, against = plant.load().policy, _serving(plant)
        try:
            release = verify_release(folder, plant.release_public_key, policy)
            figures = gate.try_out(plant, release, against or None)
        except (ReleaseRefused, Refusal) as error:
            refusal = _refusal(error, error.figures if isinstance(error, gate.Worse) else {})
            act = partial(record, plant, folder.name, refusal)
        except FileNotFoundError as error:
            raise UsageError(f"{error.filename}: expected it here, found none; restore it") from None
        else:
            said = gate.result(figures, release.task.target)
            act = partial(_passed, plant, release.id, policy, said, figures)
        if (verdict := _conclude(plant, folder.name, against, act)) is not None:
            return verdict
    raise Refusal(
        "internal", f"the champion has changed {_TRIES} times while release {folder.name} was tried"
    )


def record_fault(plant: PlantDirectory, release: str, fault: str) -> Verdict:
    """Refuse a release whose trial met a fault, so that nobody waits for a verdict; remove it to try again.

    Args:
        plant: The plant's directory.
        release: The release's id.
        fault: For the plant's own people.
    """
    fault_of = _refusal(Refusal("internal", fault))
    verdict = _conclude(plant, release, None, lambda: record(plant, release, fault_of))
    assert verdict
    return verdict


def approve(plant: PlantDirectory, release: str) -> Verdict:
    """Let a release go on that has passed the gate and waits for a person: to its trial, or it serves.

    Raises:
        UsageError: It does not wait for one.
        ReleaseRefused: It does not verify any more. One whose key was revoked waits no longer.
    """
    with deciding(plant):
        waiting = _expected(plant, release, (WAITING,), "waits for approval")
        try:
            verify_release(plant.releases / release, plant.release_public_key, plant.load().policy)
        except ReleaseRefused as error:
            if error.code == "revoked_key":
                record(plant, release, _refusal(error, waiting.figures))
            raise
        now = _serving(plant)
        if waiting.against is not None and waiting.against != now:
            held = f"it was held against {waiting.against or 'none'}, and {now or 'none'} serves now"
            try_again(plant, release, held)
            raise UsageError(f"release {release}: {held}: it is tried again, approve it after that")
        return _begin(plant, release, "approved by a person", waiting.figures, by_person=True)


def reject(plant: PlantDirectory, release: str, reason: str = "") -> Verdict:
    """Withdraw a release that waits for a person, or is on trial, at the word of a person of this plant.

    Raises:
        UsageError: It does neither.
    """
    with deciding(plant):
        states = (WAITING, SHADOW, CANARY)
        known = _expected(plant, release, states, "waits for approval or is on trial")
        verdict = _withdrawn(plant, release, "rejected", reason or "without a reason", known.figures)
        other = pointers.challenger(plant)
        if other is not None and other.release == release:
            pointers.withdraw(plant)
        return verdict


def retry(plant: PlantDirectory, release: str) -> None:
    """Have a release tried anew that was refused or withdrawn, once its cause is mended; the agent does it.

    Raises:
        UsageError: It was neither.
    """
    with deciding(plant):
        known = _expected(plant, release, (REFUSED, WITHDRAWN), "was refused or withdrawn")
        try_again(plant, release, f"a person wants it tried again; before it was {known.state}")


def _expected(plant: PlantDirectory, release: str, states: tuple[str, ...], what: str) -> Verdict:
    """Return a release's verdict, if it is in one of some states; else say what a person's word is for."""
    known = verdict_of(plant, release)
    if known is None or known.state not in states:
        state = known.state if known else "not tried here"
        raise UsageError(f"release {release}: expected one that {what}; it is {state}")
    return known


def standing(plant: PlantDirectory) -> list[tuple[str, Verdict]]:
    """Return how every release that came here stands now, by name: one alone, the champion, is active."""
    serving = _serving(plant)
    return [
        (name, replace(one, state=SUPERSEDED) if one.state == ACTIVE and serving != name else one)
        for name, one in verdicts(plant)
    ]


# --- the steps of a trial; who calls them holds `deciding` ----------------------------------------------


def to_canary(plant: PlantDirectory, release: str, share: float, why: str) -> Verdict:
    """Let the challenger answer a share of the machines."""
    pointers.challenge(plant, release, CANARY, share)
    return record(plant, release, Verdict(CANARY, "", why, _figures(plant, release)))


def promote(plant: PlantDirectory, release: str, why: str, figures: Mapping[str, float]) -> Verdict:
    """Make a release the champion; on probation, where the policy asks for one, beside the one before."""
    # First the pointers, then the record: who dies between them finds out and goes on, see `rollback.mend`.
    _replace_challenger(plant, release)
    now = pointers.activate(plant, release)
    _replace_waiting(plant, release)
    before = history.good_before(plant, release, now.previous)
    if before and plant.load().policy.release.probation.asked:
        pointers.challenge(plant, before, PROBATION)
    return record(plant, release, Verdict(ACTIVE, "", why, figures))


def withdraw(
    plant: PlantDirectory, release: str, code: str, why: str, figures: Mapping[str, float]
) -> Verdict:
    """End a release's trial; the champion answers alone."""
    verdict = _withdrawn(plant, release, code, why, figures)
    pointers.withdraw(plant)
    return verdict


def _withdrawn(
    plant: PlantDirectory, release: str, code: str, why: str, figures: Mapping[str, float]
) -> Verdict:
    return record(plant, release, Verdict(WITHDRAWN, code, f"{sentence(code)} [{code}]: {why}", figures))


def _serving(plant: PlantDirectory) -> str:
    """The champion, or empty."""
    now = pointers.champion(plant)
    return now.release if now else ""


def _conclude(
    plant: PlantDirectory, release: str, against: str | None, act: Callable[[], Verdict]
) -> Verdict | None:
    """Act on the gate's result, unless the release was tried before and has gone on since.

    Returns:
        The verdict; None if it would be of a comparison with another champion than ``against``.
    """
    with deciding(plant):
        before = verdict_of(plant, release)
        if before and before.state not in (WAITING, REFUSED):
            return before
        return act() if against is None or against == _serving(plant) else None


def _passed(
    plant: PlantDirectory, release: str, policy: Policy, said: str, figures: Mapping[str, float]
) -> Verdict:
    if policy.release.approval == "person":
        waiting = Verdict(WAITING, "", f"waits for a person: {said}", figures, against=_serving(plant))
        return record(plant, release, waiting)
    return _begin(plant, release, said, figures)


def _begin(
    plant: PlantDirectory, release: str, why: str, figures: Mapping[str, float], by_person: bool = False
) -> Verdict:
    """What passed the gate goes on trial beside the champion; with none, or no trial, it serves at once.

    One that takes other windows cannot answer beside the champion: a person says whether it serves.
    """
    now = pointers.champion(plant)
    if now is None or now.release == release or not plant.load().policy.release.trial.asked:
        return promote(plant, release, why, figures)
    if _terms(plant, release) != _terms(plant, now.release):
        if by_person:
            return promote(plant, release, why, figures)
        said = f"waits for a person: it takes other windows than {now.release}, beside which it was to answer"
        return record(plant, release, Verdict(WAITING, "", f"{said}; {why}", figures, against=now.release))
    _replace_challenger(plant, release)
    pointers.challenge(plant, release, SHADOW)
    return record(plant, release, Verdict(SHADOW, "", why, figures))


def _terms(plant: PlantDirectory, release: str) -> object:
    task = parse_task((plant.releases / release / TASK).read_bytes())
    return task.contract, task.window, task.target


def _replace_challenger(plant: PlantDirectory, release: str) -> None:
    """A challenger gives way to a newer release; the champion of before only stops answering beside."""
    other = pointers.challenger(plant)
    if other is not None and other.release != release and other.stage != PROBATION:
        withdraw(plant, other.release, "replaced", f"release {release} takes its place", {})


def _replace_waiting(plant: PlantDirectory, release: str) -> None:
    """What waits for a person and is older than the new champion waits no more: it would be a step back."""
    for name, one in verdicts(plant):
        if one.state == WAITING and name != release and is_older(plant, name, release):
            _withdrawn(plant, name, "replaced", f"release {release} serves", one.figures)


def _figures(plant: PlantDirectory, release: str) -> Mapping[str, float]:
    known = verdict_of(plant, release)
    return known.figures if known else {}


def _refusal(error: ReleaseRefused | Refusal, figures: Mapping[str, float] | None = None) -> Verdict:
    return Verdict(REFUSED, error.code, str(error), figures or {})
