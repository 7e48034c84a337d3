"""What a plant says of its own accord: that a task should be learned again, and what its budget pays.

That there is new data, a drift or an error depends on data. Such a proposal is made only where the
plant's policy declares it public (``automation.tell: declared``); it says a reason's code and the task's
name, never a value. It waits in ``proposals/``, each once, until the agent has told it; what leaves passes
the gateway's log.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from interplant.client.directory import PlantDirectory
from interplant.client.gateway import let_out_words
from interplant.core.automation_config import OF_DATA, REASONS
from interplant.core.errors import UsageError
from interplant.core.files import append_line, disk_errors, write_atomic
from interplant.core.release import check_id
from interplant.core.schema import Plant
from interplant.core.week import covering

PERSON: Final = "person"


@dataclass(frozen=True)
class Proposal:
    """A word that waits to be told.

    Args:
        task: The task's name.
        reason: One of `REASONS`; empty where only the budget is told.
        made: When, ISO 8601, UTC.
        runs: How many more runs the budget pays; None if that is not told.
    """

    task: str
    reason: str
    made: str
    runs: int | None = None


def propose(
    plant: PlantDirectory, task: str, reason: str, runs: int | None, now: datetime
) -> Proposal | None:
    """Propose that a task be learned again, if the plant's policy lets it; either way it is noted.

    Args:
        plant: The plant's directory.
        task: The task's name.
        reason: One of `REASONS`.
        runs: How many more runs of the task the budget pays; None if that is not known or not limited.
        now: With its zone.

    Returns:
        What waits to be told now; None if nothing does, and ``automation.jsonl`` says why.
    """
    settings = plant.load()
    why = _hindrance(plant, settings, task, reason, runs)
    note(plant, "proposal", task=task, reason=reason, done=not why, why=why)
    if why:
        return None
    told = runs if settings.automation.budget == "declared" else None
    return _wait(plant, Proposal(task, reason, now.isoformat(timespec="seconds"), told))


def tell_budget(plant: PlantDirectory, task: str, runs: int, now: datetime) -> Proposal | None:
    """Tell how many more runs the budget pays, if the plant's policy lets it and the number is another.

    The time of a word is seen. Whoever calls this is moved by the clock or the ledger, never by readings.
    """
    if plant.load().automation.budget != "declared":
        return None
    if _told(plant).get(task) == runs:
        return None
    return _wait(plant, Proposal(task, "", now.isoformat(timespec="seconds"), runs))


def waiting(plant: PlantDirectory) -> list[Proposal]:
    """Return what waits to be told, the oldest first; a damaged file is dropped, as it says nothing."""
    found = []
    for path in plant.proposals.glob("*.json"):
        try:
            found.append(Proposal(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda one: (one.made, one.reason))


def due(plant: PlantDirectory, now: datetime) -> list[Proposal]:
    """Return what may be told now: nothing in the plant's quiet times, but for a person's word."""
    own = plant.load().automation
    quiet = bool(covering(own.quiet, now, own.zone))
    return [one for one in waiting(plant) if not quiet or one.reason == PERSON]


def tell(plant: PlantDirectory, proposal: Proposal, send: Callable[[str, str, int | None], bool]) -> bool:
    """Tell the coordinator one word, and forget it once it has heard.

    Args:
        plant: The plant's directory.
        proposal: What waits.
        send: Task, reason and runs to the coordinator; returns whether it is heeded there.
    """
    words = {"task": proposal.task, "reason": proposal.reason}
    if proposal.runs is not None:
        words["runs"] = str(proposal.runs)
    let_out_words(plant, "proposal", words)
    heeded = send(proposal.task, proposal.reason, proposal.runs)
    if proposal.runs is not None:
        write_atomic(plant.told_runs, json.dumps(_told(plant) | {proposal.task: proposal.runs}) + "\n", 0o600)
    (plant.proposals / _name(proposal)).unlink(missing_ok=True)
    if proposal.reason:
        why = "" if heeded else "the coordinator has no automation of this task for this reason"
        note(plant, "told", task=proposal.task, reason=proposal.reason, done=heeded, why=why)
    return heeded


def note(plant: PlantDirectory, what: str, **words: Any) -> None:
    """Add a line to the plant's own record of what it did, or did not, of its own accord."""
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "what": what, **words}
    append_line(plant.automation, json.dumps(entry))


def noted(plant: PlantDirectory) -> list[dict[str, Any]]:
    """Return that record, the oldest first, without a line that a kill has cut off."""
    try:
        lines = plant.automation.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found


def _hindrance(plant: PlantDirectory, settings: Plant, task: str, reason: str, runs: int | None) -> str:
    own = settings.automation
    if reason not in REASONS:
        raise UsageError(f"reason: expected one of {', '.join(REASONS)}, found {reason!r}")
    person = reason == PERSON
    hindrances = {
        f"{task!r} is not in policy.tasks": task not in settings.policy.tasks,
        "the privacy budget pays no further run; see `interplant plant status`": runs == 0,
        f"{reason} is not in automation.propose": not person and reason not in own.propose,
        "what depends on data is not told, as automation.tell is nothing": reason in OF_DATA
        and own.tell != "declared",
        "the plant is paused": not person and plant.paused.exists(),
    }
    return next((why for why, holds in hindrances.items() if holds), "")


def _told(plant: PlantDirectory) -> dict[str, int]:
    try:
        return dict(json.loads(plant.told_runs.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}  # told again


def _wait(plant: PlantDirectory, proposal: Proposal) -> Proposal:
    with disk_errors(plant.proposals):
        plant.proposals.mkdir(mode=0o700, exist_ok=True)
    write_atomic(plant.proposals / _name(proposal), json.dumps(asdict(proposal)) + "\n", 0o600)
    return proposal


def _name(proposal: Proposal) -> str:
    return f"{check_id(proposal.task)}.{proposal.reason or 'budget'}.json"
