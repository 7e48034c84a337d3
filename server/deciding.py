"""Whether a task's next run starts, is put before a person, or waits: `decide`, over plain facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from interplant.core.automation_config import Automation
from interplant.core.week import covering, latest

START: Final = "start"
PROPOSE: Final = "propose"
WAIT: Final = "wait"
NOTHING: Final = "nothing"

WAYS_OUT: Final = "wait for new machines' data, have a person there raise the budget, or serve on"


@dataclass(frozen=True)
class Facts:
    """What is known when a decision is due.

    Args:
        now: With its zone.
        begins: When the automation was first seen: moments before it are no schedule.
        proposals: By plant the reasons for which it proposes a run.
        runs: By plant how many more runs its budget pays, of those that tell.
        last: When the last run of the task was queued, whatever became of it.
        settled: When what was due was answered last: moments before it count no more.
        retry: When a start or a run that failed may be tried again; None if none did.
        busy: A sentence on a run that has to end before; empty if none has.
        plants: How many are enrolled.
        quorum: Fewest plants whose updates make a round.
        proposed: Whether the run lies before a person, and that was said last.
        approved: Whether a person has approved it.
    """

    now: datetime
    begins: datetime
    proposals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    runs: Mapping[str, int] = field(default_factory=dict)
    last: datetime | None = None
    settled: datetime | None = None
    retry: datetime | None = None
    busy: str = ""
    plants: int = 1
    quorum: int = 1
    proposed: bool = False
    approved: bool = False


@dataclass(frozen=True)
class Decision:
    """What shall happen: `START`, `PROPOSE` (to a person), `WAIT` or `NOTHING`, and why, in one sentence."""

    kind: str
    why: str


def decide(policy: Automation, facts: Facts) -> Decision:
    """Decide on a task's next run; the same facts come to the same decision.

    Args:
        policy: Of ``federation.yaml``.
        facts: What is known.
    """
    if facts.retry and facts.now < facts.retry:
        return Decision(NOTHING, "")  # the history says of the failure when it is tried again
    reasons = _reasons(policy, facts)
    if not reasons and not facts.approved:
        return Decision(NOTHING, _too_few(policy, facts))
    hindrance = facts.busy or _budgets(facts) or closed(policy, facts.now)
    if not facts.approved:
        # A person who approves has seen when the last run was.
        hindrance = hindrance or _apart(policy, facts)
    if hindrance:
        return Decision(WAIT, f"{reasons or 'a person has approved it'}; {hindrance}")
    if facts.approved:
        return Decision(START, f"a person has approved it; {reasons}".rstrip("; "))
    if policy.action == START:
        return Decision(START, reasons)
    return Decision(PROPOSE, reasons)


def _reasons(policy: Automation, facts: Facts) -> str:
    """Why a run is due, as a sentence; empty if it is not."""
    heeded = _heeded(policy, facts)
    found = []
    if len(heeded) >= policy.proposals:
        found.append("proposed by " + ", ".join(f"{name} ({own})" for name, own in heeded.items()))
    due = latest(policy.schedule, facts.now, policy.zone) if "schedule" in policy.on else None
    if due and due > max(filter(None, (facts.begins, facts.settled))):
        found.append(f"due by the schedule since {due:%Y-%m-%d %H:%M} UTC")
    return "; ".join(found)


def _heeded(policy: Automation, facts: Facts) -> dict[str, str]:
    own = {
        name: ", ".join(one for one in reasons if one in policy.on)
        for name, reasons in sorted(facts.proposals.items())
    }
    return {name: reasons for name, reasons in own.items() if reasons}


def _too_few(policy: Automation, facts: Facts) -> str:
    heeded = _heeded(policy, facts)
    if not heeded:
        return ""
    said = ", ".join(f"{name} ({own})" for name, own in heeded.items())
    return f"proposed by {said}; expected {policy.proposals} plants, found {len(heeded)}"


def _budgets(facts: Facts) -> str:
    spent = sorted(name for name, runs in facts.runs.items() if runs < 1)
    left = facts.plants - len(spent)
    if not spent or left >= facts.quorum:
        return ""
    return (
        f"the budgets of {', '.join(spent)} pay no further run, and with {left} plants there is no quorum "
        f"of {facts.quorum}: {WAYS_OUT}"
    )


def closed(policy: Automation, now: datetime) -> str:
    """Say that no run starts or goes on by itself at this time of the week; empty if one may."""
    if quiet := covering(policy.quiet, now, policy.zone):
        return f"it is a quiet time ({quiet}, {policy.zone})"
    if policy.maintenance and not covering(policy.maintenance, now, policy.zone):
        return f"it is no maintenance window ({', '.join(policy.maintenance)}, {policy.zone})"
    return ""


def _apart(policy: Automation, facts: Facts) -> str:
    if facts.last is None or facts.now >= facts.last + timedelta(hours=policy.apart_hours):
        return ""
    when = f"{facts.last:%Y-%m-%d %H:%M} UTC"
    return f"the last run was queued at {when}, and runs are {policy.apart_hours:g} h apart"
