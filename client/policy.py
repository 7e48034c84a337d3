"""The plant has the last word: what the coordinator asks is held against ``plant.yaml``."""

import hashlib
import json
from datetime import datetime

from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.files import disk_errors, write_atomic
from interplant.core.schema import Plant, Task
from interplant.core.week import covering
from interplant.privacy.plan import SIZES


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


def check_not_quiet(plant: Plant, now: datetime) -> None:
    """Raise `Refusal` ``quiet`` in a time of the week in which the plant does not train."""
    own = plant.automation
    if span := covering(own.quiet, now, own.zone):
        raise Refusal("quiet", f"automation.quiet: {span}, {own.zone}")


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
    if not task.privacy.private and not policy.privacy.allow_none:
        raise Refusal(
            "policy_privacy", f"privacy: {task.privacy.mechanism}, and policy.privacy.allow_none is false"
        )
    if task.privacy.private:
        _admit_private(plant, task)


def check_columns(plant: Plant, task: Task) -> None:
    """Refuse a contract that takes another column for the machine, or for the time, than the plant.

    Where machines are protected, a task that called the cycle a machine would protect none.

    Raises:
        Refusal: ``policy_privacy``.
    """
    for key in ("machine", "time"):
        expected, found = getattr(plant.data, key), getattr(task.contract, key)
        if found != expected:
            raise Refusal("policy_privacy", f"contract.{key} is {found!r}, data.{key} is {expected!r}")


def hold_to_terms(directory: PlantDirectory, task: Task) -> None:
    """Refuse a private task that asks for another contract, windows, target or unit than when it first came.

    Whether data fits a contract is a fact about the data, told for nothing: who could ask again and
    again, each time with other ranges or classes, would read the readings off the refusals. And windows
    and units are what epsilon counts.

    Raises:
        Refusal: ``policy_terms``; the plant's people agree to the new ones by hand.
    """
    if not task.privacy.private:
        return
    parts = (task.contract, task.window, task.target, task.split)
    asked = json.dumps([*map(config.dump, parts), task.privacy.unit])
    terms = hashlib.sha256(asked.encode()).hexdigest()
    known = _terms(directory)
    if known.get(task.name, terms) != terms:
        raise Refusal(
            "policy_terms", f"to agree to the new ones, remove {task.name!r} from {directory.terms}"
        )
    if task.name not in known:
        write_atomic(directory.terms, json.dumps(known | {task.name: terms}, indent=1) + "\n")


def _terms(directory: PlantDirectory) -> dict[str, str]:
    try:
        known = json.loads(directory.terms.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise Refusal("policy_terms", f"{directory.terms} is damaged; restore it, or remove it to begin anew")
    return known


def _admit_private(plant: Plant, task: Task) -> None:
    check_columns(plant, task)
    allowed = plant.policy.privacy
    if task.privacy.unit not in allowed.units:
        raise Refusal("policy_privacy", f"unit {task.privacy.unit!r} is not in policy.privacy.units")
    if task.privacy.delta > allowed.delta:
        raise Refusal("policy_privacy", f"delta {task.privacy.delta} is above {allowed.delta}")
    if getattr(plant.data, SIZES[task.privacy.unit]) < 1:
        raise Refusal("undeclared_size", f"data.{SIZES[task.privacy.unit]} is 0")
