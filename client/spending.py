"""What a plant has spent of its privacy budgets, in words that nobody misreads."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from interplant.client.directory import PlantDirectory
from interplant.client.lineages import charges_of, lineage_of
from interplant.core.files import write_atomic
from interplant.core.schema import Plant, PrivacyPolicy
from interplant.data.snapshots import most_readings
from interplant.privacy.history import Entry
from interplant.privacy.ledger import Ledger


@dataclass(frozen=True)
class Spending:
    """One dataset's account.

    Args:
        dataset: Folder of the dataset, or its lineage if it is not the present one.
        lineage: Name of the dataset over all its snapshots and copies.
        unit: What one neighbour differs by.
        rounds: Charges on the ledger; a round that was tried twice counts twice.
        epsilon: Spent, at ``delta``.
        delta: The probability beside it.
        budget: The cap of ``plant.yaml``.
        left: What the cap leaves.
        tasks: Spent by each task alone and its own cap, if it has one; they do not add up to ``epsilon``.
        machine_windows: Windows of the machine with the most, at most; 0 if there is no snapshot.
        machine: What the same charges mean for that machine, as a sentence.
    """

    dataset: str
    lineage: str
    unit: str
    rounds: int
    epsilon: float
    delta: float
    budget: float
    left: float
    tasks: dict[str, dict[str, float | None]]
    machine_windows: int
    machine: str


def spending(directory: PlantDirectory) -> list[Spending]:
    """Return the account of each dataset that was charged, and of the present one in any case.

    Figures are kept beside the ledger and computed anew only when it, the policy or the data changed.

    Raises:
        Refusal: ``ledger``: it is damaged or cannot be read.
    """
    plant = directory.load()
    entries = entries_of(directory)
    present, own = lineage_of(directory, plant), charges_of(directory, plant, entries)
    others = {entry.lineage for entry in entries if entry.events} - {entry.lineage for entry in own}
    charges = {
        name: [entry for entry in entries if entry.lineage == name and entry.events] for name in others
    }
    kept = _kept(directory)
    found = {
        name: _account(directory, plant, name, name == present, of, kept.get(name, {}))
        for name, of in sorted({**charges, present: own}.items())
    }
    changed = {name: content for name, (content, fresh) in found.items() if fresh}
    if changed:
        write_atomic(directory.spending, json.dumps(kept | changed, indent=1) + "\n", 0o600)
    return [Spending(**content["account"]) for content, _ in found.values()]


def entries_of(directory: PlantDirectory) -> list[Entry]:
    """Return the ledger's entries; none, and no file made, if nothing was ever charged."""
    return Ledger(directory.ledger).entries() if directory.ledger.exists() else []


def _account(
    directory: PlantDirectory,
    plant: Plant,
    name: str,
    present: bool,
    charges: list[Entry],
    kept: dict[str, Any],
) -> tuple[dict[str, Any], bool]:
    """One dataset's account with what it was computed from, and whether it was computed anew."""
    policy, sizes = plant.policy.privacy, plant.data
    windows = sizes.declared_unit_windows
    if present:
        windows = windows or most_readings(directory.path / sizes.repository)
    caps = dict(sorted(policy.tasks.items()))
    basis = [charges[-1].hash if charges else "", policy.epsilon, policy.delta, caps, windows]
    if kept.get("basis") == basis:
        return kept, False
    dataset = sizes.repository if present else name
    account = _figures(dataset, name, charges, policy, windows)
    return {"basis": basis, "account": asdict(account)}, bool(charges)


def _figures(
    dataset: str,
    lineage: str,
    charges: list[Entry],
    policy: PrivacyPolicy,
    windows: int,
) -> Spending:
    budget, delta = policy.epsilon, policy.delta
    events = [event for entry in charges for event in entry.events]
    tasks: dict[str, dict[str, float | None]] = {}
    unit, epsilon, machine = ", ".join(policy.units), 0.0, "nothing was spent"
    if events:
        from interplant.privacy import accounting

        spent = accounting.spent(events, delta, windows)
        unit, epsilon = spent.unit, spent.epsilon
        for task in sorted({entry.task for entry in charges} - {""}):
            # What a repair charges may have been any task's.
            own = [event for entry in charges if entry.task in (task, "") for event in entry.events]
            alone = accounting.spent(own, delta, windows).epsilon
            tasks[task] = {"epsilon": alone, "budget": policy.tasks.get(task)}
        machine = f"a machine with many {unit}s has a higher epsilon than {epsilon:.2f}"
        if unit == "unit":
            machine = "epsilon is a machine's"
        elif windows:
            machine = accounting.machine_sentence(accounting.machine_epsilon(events, delta, windows), windows)
    left = max(0.0, budget - epsilon)
    return Spending(
        dataset, lineage, unit, len(charges), epsilon, delta, budget, left, tasks, windows, machine
    )


def _kept(directory: PlantDirectory) -> dict[str, Any]:
    try:
        kept = json.loads(directory.spending.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        # Computing again is always right.
        return {}
    if not isinstance(kept, dict):
        return {}
    return {name: content for name, content in kept.items() if _is_account(content)}


def _is_account(content: Any) -> bool:
    """Tell whether this is what this version keeps."""
    account = content.get("account") if isinstance(content, dict) else None
    return isinstance(account, dict) and account.keys() == {field.name for field in fields(Spending)}
