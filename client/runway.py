"""How many more runs of a task a plant's privacy budget pays, told before it is spent.

A spent budget is an ordinary state: the plant serves on, and `WAYS_OUT` are what can be done.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from interplant.client import quality
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.client.lineages import charges_of
from interplant.client.spending import entries_of
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.files import write_atomic
from interplant.core.release import TASK, parse_task
from interplant.core.schema import Plant, Task
from interplant.privacy.history import Entry
from interplant.privacy.plan import Measurement, Plan

WAYS_OUT: Final = (
    "wait for machines that no run has seen: their readings alone, in a repository of their own "
    "(data.repository), have a budget of their own",
    "have a person raise policy.privacy.epsilon in plant.yaml",
    "serve on: what serves keeps serving, and releases of the other plants are still tried here",
)


@dataclass(frozen=True)
class Runway:
    """What is left for one task.

    Args:
        task: Its name.
        rounds: Rounds of a run.
        rounds_left: Rounds that the budget still pays, at most 10 000.
        runs: Whole runs among them.
    """

    task: str
    rounds: int
    rounds_left: int
    runs: int

    @property
    def spent(self) -> bool:
        """Whether no whole run is left."""
        return self.runs < 1


def champions_task(plant: PlantDirectory) -> Task | None:
    """Return the task of the release that serves here; None before the first, or if it was removed."""
    now = champion(plant)
    if now is None:
        return None
    path = plant.releases / now.release / TASK
    return parse_task(path.read_bytes(), str(path)) if path.is_file() else None


def runway(plant: PlantDirectory, task: Task | None = None) -> Runway | None:
    """Return how many more runs of a task the plant's budget pays.

    The figure follows from the cap, the ledger and the plan's public numbers, never from readings. It is
    kept beside the ledger and computed anew only when one of them has changed.

    Args:
        plant: The plant's directory.
        task: By default that of the release that serves here.

    Returns:
        None where nothing limits it: there is no such task, or it is not private.

    Raises:
        Refusal: ``undeclared_size``, or ``ledger``.
    """
    task = task or champions_task(plant)
    if task is None or not task.privacy.private:
        return None
    settings, entries = plant.load(), entries_of(plant)
    charges = charges_of(plant, settings, entries)
    basis = _basis(plant, settings, task, charges)
    kept = _kept(plant.runway)
    if kept.get("basis") == basis:
        return Runway(**kept["runway"])
    left = _rounds_left(plant, settings, task, charges)
    found = Runway(task.name, task.rounds, left, left // task.rounds)
    write_atomic(plant.runway, json.dumps({"basis": basis, "runway": asdict(found)}) + "\n", 0o600)
    return found


def told(plant: PlantDirectory) -> Runway | None:
    """Return `runway` of what serves here; None also where no round would be admitted, which says why."""
    try:
        return runway(plant)
    except Refusal:
        return None


def in_words(left: Runway) -> str:
    """Say how many more runs the budget pays, and the ways out before it pays none."""
    said = f"the budget pays {left.runs} more, of {left.rounds} rounds each ({left.rounds_left} rounds)"
    if left.runs > 1:
        return said
    return f"{said}; {'' if left.spent else 'then '}{'; or '.join(WAYS_OUT)}"


def document(left: Runway | None) -> dict[str, Any] | None:
    """Return the same for ``--json``."""
    if left is None:
        return None
    return {**asdict(left), "ways_out": list(WAYS_OUT) if left.runs <= 1 else []}


def _rounds_left(plant: PlantDirectory, settings: Plant, task: Task, charges: list[Entry]) -> int:
    """Rounds that the budget of all tasks, and the task's own if it has one, pay both."""
    from interplant.privacy import accounting

    policy, windows = settings.policy.privacy, settings.data.declared_unit_windows
    plan = Plan.of(task, settings.data, settings.policy.metrics)
    answer = _answer(settings, task)
    due = answer.events if answer else ()
    found = []
    for cap, own in ((policy.epsilon, charges), (policy.tasks.get(task.name), _of(task, charges))):
        if cap is not None:
            history = [event for entry in own for event in entry.events]
            found.append(accounting.rounds_left(plan.events, (*history, *due), cap, policy.delta, windows))
    return min(found)


def _answer(settings: Plant, task: Task) -> Measurement | None:
    """What a run may have to pay for the answer about the plant's readings.

    Whether the newest snapshot's is still owed depends on when it was made: it is always counted.
    """
    if not quality.billed(settings.policy.privacy, task):
        return None
    return quality.question(Plan.of(task, settings.data), settings.policy.privacy)


def _of(task: Task, charges: list[Entry]) -> list[Entry]:
    # What a repair charges may have been any task's.
    return [entry for entry in charges if entry.task in (task.name, "")]


def _basis(plant: PlantDirectory, settings: Plant, task: Task, charges: list[Entry]) -> list[Any]:
    return [
        charges[-1].hash if charges else "",
        config.to_json(settings.policy.privacy),
        config.to_json(task),
        list(settings.policy.metrics),
        [settings.data.declared_windows, settings.data.declared_units, settings.data.declared_unit_windows],
    ]


def _kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}  # computing again is always right
    good = isinstance(kept, dict) and isinstance(kept.get("runway"), dict)
    return kept if good and kept["runway"].keys() == {"task", "rounds", "rounds_left", "runs"} else {}
