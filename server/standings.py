"""How the tasks stand whose runs start without a command: rules, proposals, decisions, budgets."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from interplant.core.automation_config import Automation
from interplant.core.certificates import utc_now
from interplant.core.week import begin_of, covering, end_of, upcoming
from interplant.server.deciding import WAYS_OUT
from interplant.server.directory import CoordinatorDirectory
from interplant.server.followed import Said, followed, last_queued, said
from interplant.server.registry import Registry

_STEPS: Final = 64
"""Ends of quiet times and begins of maintenance windows that are looked at for the next run's."""


@dataclass(frozen=True)
class Standing:
    """How a followed task stands.

    Args:
        task: Its name.
        action: ``start`` or ``propose``.
        state: The last decision: ``waits``, ``proposed`` (to a person), ``approved``, ``declined``,
            ``started``, ``resumed``, ``failed``, ``gave_up``, ``begins``; empty before the first.
        why: Its reasons.
        since: When.
        proposals: By plant the reasons for which it proposes a run.
        runs: By plant how many more runs its budget pays, of those that tell.
        policy: The rules of ``federation.yaml``.
        next_scheduled: When a run is due by the schedule next; None if ``on`` or ``schedule`` has none.
        not_before: Before this none starts by itself: runs are apart, a failed start waits, it is a quiet
            time or no maintenance window. None if nothing is in the way, or always something.
        ways_out: What can be done, where a plant's budget pays no more than one further run; else empty.
    """

    task: str
    action: str
    state: str
    why: str
    since: datetime | None
    proposals: dict[str, list[str]]
    runs: dict[str, int]
    policy: Automation
    next_scheduled: datetime | None
    not_before: datetime | None
    ways_out: str


def standings(directory: CoordinatorDirectory, registry: Registry) -> list[Standing]:
    """Return how each followed task stands."""
    now = utc_now()
    return [_standing(registry, name, one.policy, now) for name, one in followed(directory).items()]


def _standing(registry: Registry, name: str, policy: Automation, now: datetime) -> Standing:
    queued = last_queued(registry, name)
    known = said(registry, name)
    last = known.last
    return Standing(
        task=name,
        action=policy.action,
        state=last.kind.partition(".")[2] if last else "",
        why=last.text if last else "",
        since=last.time if last else None,
        proposals={plant: list(reasons) for plant, reasons in known.proposals.items()},
        runs=dict(known.runs),
        policy=policy,
        next_scheduled=upcoming(policy.schedule, now, policy.zone) if "schedule" in policy.on else None,
        not_before=_not_before(policy, known, queued, now),
        ways_out=WAYS_OUT if any(left <= 1 for left in known.runs.values()) else "",
    )


def _not_before(policy: Automation, known: Said, queued: datetime | None, now: datetime) -> datetime | None:
    apart = queued + timedelta(hours=policy.apart_hours) if queued else None
    at = max(filter(None, (now, apart, known.retry)))
    for _ in range(_STEPS):
        if quiet := end_of(policy.quiet, at, policy.zone):
            at = max(quiet, at + timedelta(seconds=1))
        elif policy.maintenance and not covering(policy.maintenance, at, policy.zone):
            at = begin_of(policy.maintenance, at, policy.zone) or at
        else:
            return at if at > now else None
    return None  # quiet times leave no room in a fortnight or so
