"""What a plant does with a release: try it, activate it or refuse it.

It has been received and verified (`interplant.client.receiving`). The champion moves only after a release
has passed everything, and no release is ever deleted here, so the last good model always stays.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from interplant.client import gate
from interplant.client.champion import activate, champion
from interplant.client.directory import PlantDirectory
from interplant.client.receiving import verify_release
from interplant.client.verdicts import ACTIVE, REFUSED, WAITING, Verdict, record, verdict_of
from interplant.core.errors import Refusal, UsageError
from interplant.core.release import Release, ReleaseRefused
from interplant.core.schema import Policy


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
    except ReleaseRefused as error:
        return record(plant, folder.name, _refusal(error))
    now = champion(plant)
    outcome = gate.try_out(plant, release, now.release if now else None)
    if outcome.refused:
        verdict = _refusal(outcome.refused)
    else:
        verdict = _passed(plant, release, policy, outcome.figures)
    return record(plant, folder.name, replace(verdict, score=outcome.score))


def record_fault(plant: PlantDirectory, release: str, fault: str) -> Verdict:
    """Refuse a release whose trial met a fault, so that nobody waits for a verdict; remove it to try again.

    Args:
        plant: The plant's directory.
        release: The release's id.
        fault: For the plant's own people.
    """
    return record(plant, release, _refusal(Refusal("internal", fault)))


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
    return record(plant, release, replace(waiting, state=ACTIVE, sentence="approved by a person"))


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
