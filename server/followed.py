"""Which tasks are followed without a command, and what plants have said of them.

All of it lies in the registry's history, under the task's name: what a plant proposed (``proposal.drift`` and
so on) and told of its budget (``proposal.budget``), what was decided and why (``automation.…``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from interplant.core import config
from interplant.core.automation_config import REASONS, Automation
from interplant.core.certificates import utc_now
from interplant.core.errors import InterplantError
from interplant.core.schema import Federation, Task
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
RESUMED: Final = "automation.resumed"
FAILED: Final = "automation.failed"
GAVE_UP: Final = "automation.gave_up"

_DECISIONS: Final = (BEGINS, WAITS, PROPOSED, APPROVED, DECLINED, STARTED, RESUMED, FAILED, GAVE_UP)

_PROPOSALS: Final = tuple(f"proposal.{reason}" for reason in REASONS)

_A_DAY: Final = 24
"""Words of its budget that a plant may say in a day, of one task."""

_FIRST_PAUSE: Final = timedelta(minutes=5)
_LONGEST_PAUSE: Final = timedelta(days=1)


class TooOftenError(InterplantError):
    """A plant says another number again and again."""


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
    """What the history of a task comes to. What a plant said that is not enrolled now is left out.

    Args:
        begins: When the automation was first seen; None before.
        proposals: By plant the reasons for which it proposes a run, since the last answer.
        runs: By plant how many more runs its budget pays, as it told last.
        word: The last of `PROPOSED` and `APPROVED` since then, or since a start failed; empty if neither.
        last: What was decided last, and why; None if nothing was.
        settled: When it was answered last: by a run (see `answered`), a decline, or by giving up.
        failed: How often a start or a run has failed since then.
        retry: When it may be tried again; None if none failed.
    """

    begins: datetime | None = None
    proposals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    runs: Mapping[str, int] = field(default_factory=dict)
    word: str = ""
    last: Event | None = None
    settled: datetime | None = None
    failed: int = 0
    retry: datetime | None = None


def followed(directory: CoordinatorDirectory) -> dict[str, Followed]:
    """Return the tasks with an automation, by name.

    Raises:
        UsageError: ``federation.yaml`` or a task's file is wrong.
    """
    return tasks_of(directory, directory.load())


def tasks_of(directory: CoordinatorDirectory, settings: Federation) -> dict[str, Followed]:
    """Return the tasks that ``federation.yaml`` follows, by name; see `followed`."""
    found = {}
    for policy in settings.automation:
        task = config.load(task_file(directory, policy), Task, policy.overrides)
        found[task.name] = Followed(policy, task)
    return found


def task_file(directory: CoordinatorDirectory, policy: Automation) -> Path:
    """Return the file of the task that an automation names.

    Raises:
        UsageError: There is no built-in task of that name.
    """
    named = Path(policy.task)
    plain = not named.suffix and len(named.parts) == 1
    return builtin(policy.task) if plain else directory.path / named


def said(registry: Registry, task: str) -> Said:
    """Read a task's history; what was proposed or due before the last answer counts no more.

    Args:
        registry: The coordinator's.
        task: Its name.
    """
    begun = registry.events(task, None, [BEGINS])
    last = registry.events(task, 1, _DECISIONS)
    settled = [one.time for one in registry.events(task, 1, [DECLINED, GAVE_UP])]
    end = max(filter(None, (*settled, answered(registry, task))), default=None)
    plants = {one.name for one in registry.plants() if one.is_enrolled}
    proposals: dict[str, list[str]] = {}
    for one in reversed(registry.events(task, None, _PROPOSALS, end)):
        reason = one.kind.partition(".")[2]
        if one.text in plants and reason not in proposals.setdefault(one.text, []):
            proposals[one.text].append(reason)
    failures = registry.events(task, None, [FAILED], end)
    words = registry.events(task, 1, [PROPOSED, APPROVED, FAILED], end)
    return Said(
        begins=begun[-1].time if begun else None,
        proposals=proposals,
        runs={plant: runs for plant, runs in _budgets(registry, task).items() if plant in plants},
        word=words[0].kind if words and words[0].kind != FAILED else "",
        last=last[0] if last else None,
        settled=end,
        failed=len(failures),
        retry=failures[0].time + pause(len(failures)) if failures else None,
    )


def answered(registry: Registry, task: str) -> datetime | None:
    """Return up to when runs of a task have answered what was proposed and due; None before the first.

    A run, whoever has queued it, answers what came before. One that a person has stopped also answers what
    came before the stop, like a decline. One that has failed by itself answers nothing.
    """
    runs = [one for one in registry.runs() if one.task_name == task and one.state != "failed"]
    stops = [one.finished for one in runs if one.state == "stopped"]
    return max(filter(None, (*stops, *(one.created for one in runs))), default=None)


def pause(failed: int) -> timedelta:
    """Return how long to wait after so many tries, one after the other, have come to nothing."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * (1 << min(failed - 1, 16)))


def _budgets(registry: Registry, task: str) -> dict[str, int]:
    runs = {}
    for text in registry.last_texts(task, BUDGET):
        plant, _, number = text.rpartition(" ")
        runs[plant] = int(number)
    return runs


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

    Raises:
        TooOftenError: It has told too many numbers today, and proposes nothing.
    """
    known = said(registry, task)
    new = False
    if runs is not None and known.runs.get(plant) != runs:
        often = _told_today(registry, task, plant) >= _A_DAY
        if often and not reason:
            raise TooOftenError(f"a budget is told {_A_DAY} times a day at most; say it again later")
        if not often:
            registry.add_event(BUDGET, task, f"{plant} {runs}")
            new = True
    if reason and reason not in known.proposals.get(plant, ()):
        registry.add_event(f"proposal.{reason}", task, plant)
        new = True
    return new


def _told_today(registry: Registry, task: str, plant: str) -> int:
    told = registry.events(task, None, [BUDGET], utc_now() - timedelta(days=1))
    return sum(one.text.rpartition(" ")[0] == plant for one in told)
