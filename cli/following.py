"""How commands show the tasks whose runs start without a command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interplant.cli.output import facts, table

if TYPE_CHECKING:
    from interplant.server.standings import Standing

NOTHING = "No task is followed: federation.yaml has no automation."


def text(found: Sequence["Standing"]) -> str:
    """Return, of each task, who proposes a run, what was decided and why, what is due, and budgets."""
    if not found:
        return NOTHING
    columns = ["task", "action", "proposed by", "decision", "at", "why"]
    rows = [
        [one.task, one.action, _proposed_by(one), one.state or "-", one.since, one.why or "-"]
        for one in found
    ]
    return "\n\n".join([table(columns, rows), *(facts(_rules(one)) for one in found)])


def _rules(one: "Standing") -> dict[str, object]:
    own, zone = one.policy, f" ({one.policy.zone})"
    plants = "one plant" if own.proposals == 1 else f"{own.proposals} plants"
    lines: dict[str, object] = {
        f"rules of {one.task}": f"on {', '.join(own.on) or 'nothing'}, from {plants}; "
        f"runs {own.apart_hours:g} h apart",
        "quiet": ", ".join(own.quiet) + zone if own.quiet else None,
        "maintenance": ", ".join(own.maintenance) + zone if own.maintenance else None,
        "next by schedule": f"{one.next_scheduled:%Y-%m-%d %H:%M} UTC" if one.next_scheduled else None,
        "not before": f"{one.not_before:%Y-%m-%d %H:%M} UTC" if one.not_before else None,
    }
    lines |= {f"budget of {plant}": _pays(runs, one.ways_out) for plant, runs in sorted(one.runs.items())}
    return {name: value for name, value in lines.items() if value is not None}


def _pays(runs: int, ways_out: str) -> str:
    if runs > 1:
        return f"pays {runs} more runs"
    return f"pays one more run; then {ways_out}" if runs else f"pays no further run: {ways_out}"


def _proposed_by(one: "Standing") -> str:
    said = [f"{plant} ({', '.join(reasons)})" for plant, reasons in one.proposals.items()]
    return ", ".join(said) or "-"
