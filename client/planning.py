"""What a task's rounds would cost a plant, before it takes part."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.client.lineages import charges_of
from interplant.client.quality import owed
from interplant.client.spending import entries_of
from interplant.core.errors import UsageError
from interplant.core.schema import PlantData, Task
from interplant.data.snapshots import most_readings
from interplant.privacy.plan import Event, Plan

ROUNDS: Final = (1, 2, 5, 10, 20, 50, 100)
"""After how many rounds the cost is told, beside the task's own number."""

NOISES: Final = (0.5, 1.0, 2.0)
"""Multiples of the task's own noise that are told of."""


@dataclass(frozen=True)
class Cost:
    """What stands on the account after so many rounds.

    Args:
        rounds: Rounds from now.
        epsilon: The whole history and these rounds, on one privacy unit.
        machine_epsilon: The same for a whole machine, after the task's own number of rounds.
        machine: That figure as a sentence; empty without it.
        reading: What it means for the value of one reading, which lies in many windows; empty where it lies
            in one.
    """

    rounds: int
    epsilon: float
    machine_epsilon: float | None
    machine: str
    reading: str = ""


@dataclass(frozen=True)
class Choice:
    """The same task with some noise.

    Args:
        noise: The noise multiplier.
        costs: After more and more rounds.
        rounds_left: Rounds that the cap covers (at most 10 000); None without one.
    """

    noise: float
    costs: list[Cost]
    rounds_left: int | None


@dataclass(frozen=True)
class Forecast:
    """What a task would cost.

    Args:
        task: Its name.
        unit: The privacy unit.
        units: Declared, public number of them.
        q: Probability with which each enters a step.
        delta: The probability beside epsilon.
        spent: Epsilon on the account now.
        budget: The cap, or None.
        choices: The task's own noise first.
    """

    task: str
    unit: str
    units: int
    q: float
    delta: float
    spent: float
    budget: float | None
    choices: list[Choice]


def forecast_at(directory: PlantDirectory, task: Task, machine_windows: int = 0) -> Forecast:
    """Forecast at a plant: its declared size, its budget, and what its ledger holds already."""
    plant = directory.load()
    policy, dataset, entries = plant.policy.privacy, plant.data.repository, entries_of(directory)
    charges = charges_of(directory, plant, entries)
    history = tuple(event for entry in charges for event in entry.events)
    machine = machine_windows or plant.data.declared_unit_windows or most_readings(directory.path / dataset)
    answer = owed(directory, plant, task)
    due = answer.events if answer else ()
    metrics = plant.policy.metrics
    return forecast(task, plant.data, policy.epsilon, policy.delta, machine, history, metrics, due)


def forecast(
    task: Task,
    data: PlantData,
    budget: float | None,
    delta: float,
    machine_windows: int = 0,
    history: tuple[Event, ...] = (),
    metrics: Collection[str] | None = None,
    due: tuple[Event, ...] = (),
) -> Forecast:
    """Compute what rounds of ``task`` would cost, with its own noise and with others. Nothing is charged.

    Args:
        task: What would be learned.
        data: Declared, public sizes.
        budget: Cap on epsilon, or None.
        delta: The delta of the cap.
        machine_windows: Windows of one machine, to say what the plan means for it; 0 leaves it out.
        history: What was charged before.
        metrics: Names that the plant's policy lets out; all that the task asks for if left out.
        due: What is charged once, before the first round.

    Raises:
        UsageError: The task is not private, so that nothing would be charged, or a value cannot be.
        Refusal: The size is not declared.
    """
    from interplant.privacy import accounting

    if not task.privacy.private:
        raise UsageError(
            f"task {task.name}: privacy.mechanism is {task.privacy.mechanism}, so there is nothing to plan"
        )
    plan = Plan.of(task, data, task.metrics if metrics is None else metrics)
    spent = accounting.spent(history, delta, machine_windows).epsilon
    history = (*history, *due)
    own = sorted({*ROUNDS, task.rounds})
    overlap = -(-task.window.length // task.window.stride) if plan.unit == "window" else 0
    choices = []
    for times in sorted(NOISES, key=lambda times: times != 1.0):
        chosen = replace(plan, noise=times * plan.noise)
        machine = machine_windows if times == 1.0 and plan.unit != "unit" else 0
        costs = [
            _cost(chosen, rounds, history, delta, machine, overlap if times == 1.0 else 0)
            if rounds == task.rounds
            else _cost(chosen, rounds, history, delta)
            for rounds in own
        ]
        left = (
            None
            if budget is None
            else accounting.rounds_left(chosen.events, history, budget, delta, machine_windows)
        )
        choices.append(Choice(chosen.noise, costs, left))
    return Forecast(task.name, plan.unit, plan.records, plan.q, delta, spent, budget, choices)


def _cost(
    plan: Plan,
    rounds: int,
    history: tuple[Event, ...],
    delta: float,
    machine_windows: int = 0,
    overlap: int = 0,
) -> Cost:
    """What stands on the account after ``rounds`` rounds.

    For a machine too if its windows are given, and for a reading if ``overlap`` windows hold it.
    """
    from interplant.privacy import accounting

    events = (*history, *(replace(event, steps=event.steps * rounds) for event in plan.events))
    epsilon = accounting.spent(events, delta, machine_windows).epsilon
    reading = ""
    if overlap > 1:
        reading = accounting.reading_sentence(accounting.machine_epsilon(events, delta, 2 * overlap), overlap)
    if not machine_windows:
        return Cost(rounds, epsilon, None, "", reading)
    machine = accounting.machine_epsilon(events, delta, machine_windows)
    return Cost(rounds, epsilon, machine, accounting.machine_sentence(machine, machine_windows), reading)
