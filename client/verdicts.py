"""What became of each release at a plant, and what of it the coordinator may know.

Figures are exact and stay in this plant, in ``releases/<id>.verdict.json`` beside the release, whose own
folder is never written to; `report_for_coordinator` alone says what may leave.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.release import check_id
from interplant.core.schema import Policy

ACTIVE: Final = "active"
WAITING: Final = "waiting"
REFUSED: Final = "refused"
RECEIVED: Final = "received"

_VERDICT: Final = ".verdict.json"
_OF_THE_FOLDER: Final = {"signature", "tampered", "lineage", "task_invalid"}
_OF_THE_POLICY: Final = {"policy_task", "policy_model", "policy_privacy", "contract_version"}
_OF_THE_MODEL: Final = {
    *("model_missing", "model", "onnx", "runaway", "parity", "not_finite", "slow", "case")
}
DATA_FREE: Final = frozenset(_OF_THE_FOLDER | _OF_THE_POLICY | _OF_THE_MODEL)
"""Refusals that follow from the release and the policy alone, before any reading is looked at."""


@dataclass(frozen=True)
class Score:
    """A number about the plant's hold-out that may leave, and what paid for it.

    Args:
        value: Noised; noise may bring it below 0.
        charge: The ledger's entry that paid.
    """

    value: float
    charge: str


@dataclass(frozen=True)
class Verdict:
    """What became of a release here.

    Args:
        state: ``active``, ``waiting`` (for a person) or ``refused``.
        code: Why it was refused, a key of `interplant.core.release.RELEASE_REFUSALS` or of
            `interplant.core.errors.REFUSALS`; empty otherwise.
        sentence: The same for the plant's own people, with figures.
        figures: Exact results: errors and scores on the plant's hold-out. They stay in the plant.
        score: What may be told beside all of this, where the policy has a score told.
    """

    state: str
    code: str
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)
    score: Score | None = None


def record(plant: PlantDirectory, release: str, verdict: Verdict) -> Verdict:
    """Put a verdict on record, for the plant's own user only, in place of an earlier one."""
    content = json.dumps(asdict(verdict), indent=2) + "\n"
    write_atomic(_verdict_path(plant, release), content, mode=0o600)
    return verdict


def forget(plant: PlantDirectory, release: str) -> None:
    """Take a verdict from record: the release is to be tried again."""
    _verdict_path(plant, release).unlink(missing_ok=True)


def verdict_of(plant: PlantDirectory, release: str) -> Verdict | None:
    """Return what became of a release, or None if it was not tried (to its end) yet."""
    path = _verdict_path(plant, release)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        score = found.pop("score", None)
        return Verdict(**found, score=score and Score(**score))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
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


@dataclass(frozen=True)
class Report:
    """What the coordinator may know of a verdict.

    Args:
        state: Of the release here, or ``received``, which tells nothing of the trial.
        code: Why it was refused, if that is told.
        score: If one is told.
    """

    state: str
    code: str = ""
    score: Score | None = None


def report_for_coordinator(policy: Policy, verdict: Verdict) -> Report:
    """Return what the policy lets the coordinator know; nothing else leaves.

    With ``release.report: nothing`` the answer is the same for every result that depends on data, and with
    ``score`` too, but for a noised number that the ledger was charged for; what follows from the release and
    the policy alone (`DATA_FREE`) is told. With ``verdict`` the plant declares the plain verdict public.
    """
    if verdict.state == REFUSED and verdict.code in DATA_FREE:
        return Report(verdict.state, verdict.code)
    if policy.release.report == "verdict":
        return Report(verdict.state, verdict.code)
    return Report(RECEIVED, score=verdict.score if policy.release.report == "score" else None)


def _verdict_path(plant: PlantDirectory, release: str) -> Path:
    return plant.releases / f"{check_id(release)}{_VERDICT}"
