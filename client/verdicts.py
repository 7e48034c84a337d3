"""What became of each release at a plant, and what of it the coordinator may know.

Figures are exact and stay in this plant, in ``releases/<id>.verdict.json`` beside the release, whose own
folder is never written to, and in the history (`interplant.client.history`); `report_for_coordinator` alone
says what may leave.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from interplant.client import history
from interplant.client.directory import PlantDirectory
from interplant.core.errors import InterplantError
from interplant.core.files import takes_turns, write_atomic
from interplant.core.release import check_id, is_id
from interplant.core.schema import Policy

log = logging.getLogger(__name__)

WAITING: Final = "waiting"
SHADOW: Final = "shadow"
CANARY: Final = "canary"
ACTIVE: Final = "active"
REFUSED: Final = "refused"
WITHDRAWN: Final = "withdrawn"
ROLLED_BACK: Final = "rolled_back"
SUPERSEDED: Final = "superseded"
RECEIVED: Final = "received"

_VERDICT: Final = ".verdict.json"
_OF_THE_FOLDER: Final = {"signature", "revoked_key", "tampered", "lineage", "task_invalid"}
_OF_THE_POLICY: Final = {"policy_task", "policy_model", "policy_privacy", "contract_version"}
_OF_THE_MODEL: Final = {
    *("model_missing", "model", "onnx", "runaway", "parity", "not_finite", "slow", "case")
}
DATA_FREE: Final = frozenset(_OF_THE_FOLDER | _OF_THE_POLICY | _OF_THE_MODEL)
"""Refusals that follow from the release and the policy alone, before any reading is looked at."""


@dataclass(frozen=True)
class Verdict:
    """What became of a release here.

    Args:
        state: ``waiting`` (for a person), ``shadow`` or ``canary`` (on trial), ``active``, ``refused`` (by
            the gate), ``withdrawn`` (from its trial) or ``rolled_back`` (the plant left it).
        code: Why, a key of `interplant.core.release.RELEASE_REFUSALS` or of
            `interplant.core.errors.REFUSALS`; empty otherwise.
        sentence: The same for the plant's own people, with figures.
        figures: Exact results: errors and scores on the plant's data. They stay in the plant.
        to: With ``rolled_back``: the release that the plant goes back to.
        against: With ``waiting``: the champion that the gate held it against; empty: there was none.
    """

    state: str
    code: str
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)
    to: str = ""
    against: str | None = None


def deciding(plant: PlantDirectory) -> AbstractContextManager[None]:
    """Hold the right to decide about this plant's releases: processes take turns at it."""
    return takes_turns(plant.releases_lock)


def record(plant: PlantDirectory, release: str, verdict: Verdict) -> Verdict:
    """Put a verdict on record, for the plant's own user: in the history, and in place of an earlier one."""
    content = json.dumps(asdict(verdict), indent=2) + "\n"
    write_atomic(_verdict_path(plant, release), content, mode=0o600)
    # Who sees the history grow finds the verdict; a line that a kill kept away is added by `rollback.mend`.
    told = asdict(verdict)
    del told["against"]
    history.append(plant, history.Step(history.now(), release, **told))
    return verdict


def try_again(plant: PlantDirectory, release: str, why: str) -> None:
    """Have a release tried anew, by whoever looks for `untried` ones; the reason stands in the history."""
    forget(plant, release)
    history.append(plant, history.Step(history.now(), release, RECEIVED, "", why))


def forget(plant: PlantDirectory, release: str) -> None:
    """Take a verdict from record: the release is to be tried again."""
    _verdict_path(plant, release).unlink(missing_ok=True)


def verdict_of(plant: PlantDirectory, release: str) -> Verdict | None:
    """Return what became of a release, or None if it was not tried (to its end) yet."""
    path = _verdict_path(plant, release)
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InterplantError(f"{path}: cannot be read: {error}; remove it and try again") from None


def known(plant: PlantDirectory, release: str) -> Verdict | None:
    """Return what became of a release, or None; one whose record cannot be read holds up no other."""
    try:
        return verdict_of(plant, release)
    except InterplantError as error:
        log.warning("%s", error)
        return None


def verdicts(plant: PlantDirectory) -> list[tuple[str, Verdict]]:
    """Return what became of every release that came here, by name."""
    names = sorted(path.name.removesuffix(_VERDICT) for path in plant.releases.glob(f"*{_VERDICT}"))
    return [(name, found) for name in names if is_id(name) and (found := known(plant, name))]


def untried(plant: PlantDirectory) -> list[str]:
    """Return the releases that lie here without a verdict: a process died while it tried them."""
    if not plant.releases.is_dir():
        return []
    names = sorted(path.name for path in plant.releases.iterdir() if path.is_dir())
    return [name for name in names if is_id(name) and not _verdict_path(plant, name).exists()]


def report_for_coordinator(policy: Policy, verdict: Verdict) -> tuple[str, str]:
    """Return state and code as far as the policy lets the coordinator know; nothing else leaves.

    With ``release.report: nothing`` the answer is the same for every result that depends on data, and with
    ``score`` too, but for a number beside it that is charged (`interplant.client.scores`); what follows from
    the release and the policy alone (`DATA_FREE`) is told. With ``verdict`` the plant declares the plain
    verdict public. A refusal with figures came after the gate, as of what waited until its key was revoked:
    that it waited depends on data.
    """
    free = verdict.state == REFUSED and verdict.code in DATA_FREE and not verdict.figures
    if policy.release.report == "verdict" or free:
        return verdict.state, verdict.code
    return RECEIVED, ""


def _verdict_path(plant: PlantDirectory, release: str) -> Path:
    return plant.releases / f"{check_id(release)}{_VERDICT}"
