"""What a task's rounds would cost a plant, before it takes part."""

from dataclasses import dataclass
from typing import Final

from interplant.client.directory import PlantDirectory
from interplant.client.spending import entries_of
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.data.snapshots import most_readings
from interplant.privacy.plan import Event, Plan

ROUNDS: Final = (1, 2, 5, 10, 20, 50, 100)
"""After how many rounds the cost is told, beside the task's own number."""


@dataclass(frozen=True)
class Cost:
    """What stands on the account after so many rounds.

    Args:
        rounds: Rounds from now.
        epsilon: The whole history and these rounds, on one privacy unit.
        machine_epsilon: The same for a whole machine, after the task's own number of rounds.
        machine: That figure as a sentence; empty without it.
    """

    rounds: int
    epsilon: float
    machine_epsilon: float | None
    machine: str


@dataclass(frozen=True)
class Forecast:
    """What a task would cost.

    Args:
        task: Its name.
        unit: The privacy unit.
        windows: Declared, public size of the data.
        delta: The probability beside epsilon.
        spent: Epsilon on the account now.
        costs: After more and more rounds.
        budget: The cap, or None.
        rounds_left: Rounds of this task that the cap covers (at most 10 000); None without one.
    """

    task: str
    unit: str
    windows: int
    delta: float
    spent: float
    costs: list[Cost]
    budget: float | None
    rounds_left: int | None


def forecast_at(directory: PlantDirectory, task: Task, machine_windows: int = 0) -> Forecast:
    """Forecast at a plant: its declared size, its budget, and what its ledger holds already."""
    plant = directory.load()
    policy, dataset = plant.policy.privacy, plant.data.repository
    history = tuple(
        entry.plan.event for entry in entries_of(directory) if entry.plan and entry.lineage == dataset
    )
    machine = machine_windows or most_readings(directory.path / dataset)
    windows = plant.data.declared_windows
    return forecast(task, windows, policy.epsilon, policy.delta, machine, history)


def forecast(
    task: Task,
    windows: int,
    budget: float | None,
    delta: float,
    machine_windows: int = 0,
    history: tuple[Event, ...] = (),
) -> Forecast:
    """Compute what rounds of ``task`` would cost. Nothing is charged.

    Args:
        task: What would be learned.
        windows: Declared, public number of windows.
        budget: Cap on epsilon, or None.
        delta: The delta of the cap.
        machine_windows: Windows of one machine, to say what the plan means for it; 0 leaves it out.
        history: What was charged before.

    Raises:
        UsageError: The task is not private, so that nothing would be charged, or a value cannot be.
        Refusal: The size is not declared.
    """
    from interplant.privacy import accounting

    if task.privacy.mechanism == "none":
        raise UsageError(f"task {task.name}: privacy.mechanism is none, so there is nothing to plan")
    event = Plan.of(task, windows).event

    def cost(rounds: int) -> Cost:
        events = (*history, Event(event.unit, event.q, event.noise, event.steps * rounds))
        epsilon = accounting.spent(events, delta).epsilon
        # A second of work each: said for the task's own number of rounds.
        if not machine_windows or rounds != task.rounds:
            return Cost(rounds, epsilon, None, "")
        machine = accounting.machine_epsilon(events, delta, machine_windows)
        return Cost(rounds, epsilon, machine, accounting.machine_sentence(machine, machine_windows))

    return Forecast(
        task.name,
        event.unit,
        windows,
        delta,
        accounting.spent(history, delta).epsilon,
        [cost(rounds) for rounds in sorted({*ROUNDS, task.rounds})],
        budget,
        None if budget is None else accounting.rounds_left(event, history, budget, delta),
    )
