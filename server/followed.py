"""Which tasks are followed without a command, and what plants have said of them.

All of it lies in the registry's history, under the task's name: what a plant proposed (``proposal.drift`` and
so on) and told of its budget (``proposal.budget``), what was decided and why (``automation.…``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from interplant.core import config
from interplant.core.automation_config import REASONS, Automation
from interplant.core.schema import Task
from interplant.data.tasks import builtin
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Event
from interplant.server.registry import Registry

BUDGET: Final = "proposal.budget"

BEGINS: Final = "automation.begins"
WAITS: Final = "automation.waits"
PROPOSED: Final = "automation.proposed"
APPROVED: Final = "automation.approved"
DECLINED: Final = "automation.declined"
STARTED: Final = "automation.started"
FAILED: Final = "automation.failed"

_SETTLED: Final = (DECLINED, FAILED)
"""After one of these what was proposed before counts no more; after a start, what came before its run."""

_READ: Final = 2000
"""Lines of a task's history that are looked at."""


@dataclass(frozen=True)
class Followed:
    """A task and the rules by which its runs start.

    Args:
        policy: Of ``federation.yaml``.
        task: What it names, with its changes.
    """

    policy: Automation
    task: Task


@dataclass(frozen=True)
class Said:
    """What the history of a task comes to.

    Args:
        begins: When the automation was first seen; None before.
        proposals: By plant the reasons for which it proposes a run, since the last was settled.
        runs: By plant how many more runs its budget pays, as it told last.
        word: The last of `PROPOSED` and `APPROVED` since then; empty if neither.
        last: What was decided last, and why; None if nothing was.
    """

    begins: datetime | None = None
    proposals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    runs: Mapping[str, int] = field(default_factory=dict)
    word: str = ""
    last: Event | None = None


def followed(directory: CoordinatorDirectory) -> dict[str, Followed]:
    """Return the tasks with an automation, by name.

    Raises:
        UsageError: ``federation.yaml`` or a task's file is wrong.
    """
    found = {}
    for policy in directory.load().automation:
        named = Path(policy.task)
        plain = not named.suffix and len(named.parts) == 1
        path = builtin(policy.task) if plain else directory.path / named
        task = config.load(path, Task, policy.overrides)
        found[task.name] = Followed(policy, task)
    return found


def said(registry: Registry, task: str, since: datetime | None = None) -> Said:
    """Read a task's history.

    Args:
        registry: The coordinator's.
        task: Its name.
        since: When its last run was queued: what was proposed before counts no more.
    """
    events = registry.events(task, _READ)
    begins = next((one.time for one in reversed(events) if one.kind == BEGINS), None)
    last = next((one for one in events if one.kind.startswith("automation.")), None)
    settled = next((one.time for one in events if one.kind in _SETTLED), None)
    ends = [time for time in (since, settled) if time is not None]
    fresh = [one for one in events if not ends or one.time > max(ends)]
    proposals: dict[str, list[str]] = {}
    for one in reversed(fresh):
        kind, _, reason = one.kind.partition(".")
        if kind == "proposal" and reason in REASONS and reason not in proposals.setdefault(one.text, []):
            proposals[one.text].append(reason)
    runs: dict[str, int] = {}
    for one in reversed(events):
        if one.kind == BUDGET:
            plant, _, number = one.text.rpartition(" ")
            runs[plant] = int(number)
    word = next((one.kind for one in fresh if one.kind in (PROPOSED, APPROVED)), "")
    return Said(begins, {name: own for name, own in proposals.items() if own}, runs, word, last)


def last_queued(registry: Registry, task: str) -> datetime | None:
    """Return when the newest run of a task was queued, by whomever; None before the first."""
    return next((one.created for one in registry.runs() if one.task_name == task), None)


def hear(registry: Registry, plant: str, task: str, reason: str, runs: int | None) -> bool:
    """Note what a plant says of a followed task, each thing once; return whether it was new.

    Args:
        registry: The coordinator's.
        plant: Who speaks.
        task: A followed task's name.
        reason: One of `REASONS`, or empty.
        runs: How many more runs the plant's budget pays; None if it does not tell.
    """
    known = said(registry, task, last_queued(registry, task))
    new = False
    if runs is not None and known.runs.get(plant) != runs:
        registry.add_event(BUDGET, task, f"{plant} {runs}")
        new = True
    if reason and reason not in known.proposals.get(plant, ()):
        registry.add_event(f"proposal.{reason}", task, plant)
        new = True
    return new
