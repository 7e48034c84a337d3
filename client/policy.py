"""The plant has the last word: what the coordinator asks is held against ``plant.yaml``."""

from interplant.client.directory import PlantDirectory
from interplant.core.errors import Refusal
from interplant.core.files import disk_errors, write_atomic
from interplant.core.schema import Plant, Task


def pause(plant: PlantDirectory) -> bool:
    """Have every round refused with ``paused`` from now on; return whether that is new."""
    new = not plant.paused.exists()
    if new:
        write_atomic(plant.paused, "rounds are refused while this file is here\n")
    return new


def resume(plant: PlantDirectory) -> bool:
    """Take part in rounds again; return whether that is new."""
    new = plant.paused.exists()
    with disk_errors(plant.paused):
        plant.paused.unlink(missing_ok=True)
    return new


def check_not_paused(plant: PlantDirectory) -> None:
    """Raise `Refusal` ``paused`` while the plant's engineer wants no rounds."""
    if plant.paused.exists():
        raise Refusal("paused", "`interplant plant resume` takes part again")


def admit(plant: Plant, task: Task) -> None:
    """Refuse a task that the plant's policy does not cover.

    The privacy budget is not looked at here: the ledger does that when it is charged.

    Raises:
        Refusal: The first thing that the policy does not allow.
    """
    policy = plant.policy
    if task.name not in policy.tasks:
        raise Refusal("policy_task", f"{task.name!r} is not in policy.tasks")
    if task.model.name not in policy.models:
        raise Refusal("policy_model", f"{task.model.name!r} is not in policy.models")
    if task.strategy.name not in policy.strategies:
        raise Refusal("policy_strategy", f"{task.strategy.name!r} is not in policy.strategies")
    if task.privacy.mechanism == "none" and not policy.privacy.allow_none:
        raise Refusal("policy_privacy", "privacy: none, and policy.privacy.allow_none is false")
    if task.privacy.mechanism != "none":
        _admit_private(plant, task)


def _admit_private(plant: Plant, task: Task) -> None:
    allowed = plant.policy.privacy
    if task.privacy.unit not in allowed.units:
        raise Refusal("policy_privacy", f"unit {task.privacy.unit!r} is not in policy.privacy.units")
    if task.privacy.delta > allowed.delta:
        raise Refusal("policy_privacy", f"delta {task.privacy.delta} is above {allowed.delta}")
    if plant.data.declared_windows < 1:
        raise Refusal("undeclared_size")
