"""Whether a plant's readings fit a task's contract, and who pays for the answer.

With ``policy.privacy.data_refusals: declared`` the answer is told as it is, as a fact that the plant has
declared public. With ``billed`` one number is computed under differential privacy, charged to the ledger
first, and remembered: the same question about the same snapshot has the same answer, and costs nothing
more. Which columns there are, and of which types, is public either way.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.files import write_atomic
from interplant.core.schema import Plant, PrivacyPolicy, Task
from interplant.data import contract
from interplant.data.shares import bad_shares
from interplant.data.snapshots import Repository
from interplant.privacy.plan import Event, Measurement, Plan, Statistic
from interplant.privacy.statistics import noised
from interplant.privacy.stream import Stream

if TYPE_CHECKING:
    import pandas as pd

DEVIATIONS = 2.0
"""Standard deviations of the noise by which the answer must pass the limit before a round is refused."""


def billed(policy: PrivacyPolicy, task: Task) -> bool:
    """Whether the answer is charged: the plant wants it so, and the task is private."""
    return task.privacy.private and policy.data_refusals == "billed"


def question(plan: Plan, policy: PrivacyPolicy) -> Measurement:
    """Return what is charged for the answer: the sum over all units of the share of bad readings."""
    return Measurement(
        plan.unit, plan.records, plan.delta, (Statistic("contract", 1.0, policy.refusal_noise),)
    )


def owed(directory: PlantDirectory, plant: Plant, task: Task) -> tuple[Event, ...]:
    """Return what the answer about the newest snapshot is still to be charged; a round comes after it."""
    if not billed(plant.policy.privacy, task):
        return ()
    try:
        digest = Repository(directory.path / plant.data.repository).open().digest
    except Refusal:
        digest = ""  # there is none yet: the first one is asked about
    events = question(Plan.of(task, plant.data), plant.policy.privacy).events
    return events if known(directory, digest, task) is None else ()


def known(directory: PlantDirectory, digest: str, task: Task) -> bool | None:
    """Return the remembered answer, None if this was not asked yet.

    Args:
        directory: The plant.
        digest: The snapshot's.
        task: Its contract, windows and privacy unit are the question.
    """
    return _answers(directory.answers).get(_key(digest, task))


def require(
    directory: PlantDirectory,
    readings: "pd.DataFrame",
    digest: str,
    task: Task,
    asked: Measurement,
    charge: Callable[[Measurement], object],
) -> None:
    """Refuse readings of which clearly too many break the contract; the first time, charge for the answer.

    Args:
        directory: The plant.
        readings: The snapshot's.
        digest: The snapshot's.
        task: Contract, windows, unit.
        asked: What `question` returned.
        charge: Writes a charge to the ledger; what it raises leaves the question unanswered.

    Raises:
        Refusal: ``contract``.
    """
    contract.require_columns(readings, task.contract)
    fits = known(directory, digest, task)
    if fits is None:
        charge(asked)
        (one,) = asked.statistics
        # Noise alone must not refuse good data: a plant of 25 machines would be refused by chance.
        limit = contract.STRAY_SHARE * asked.records + DEVIATIONS * one.noise
        fits = noised(bad_shares(readings, task), one, Stream()) <= limit
        answers = _answers(directory.answers) | {_key(digest, task): fits}
        write_atomic(directory.answers, json.dumps(answers, indent=1) + "\n")
    if not fits:
        raise Refusal(
            "contract",
            f"under differential privacy, clearly more than {contract.STRAY_SHARE:.0%} of the readings break "
            "the contract; `interplant data check` shows which",
        )


def _key(digest: str, task: Task) -> str:
    asked = [digest, config.dump(task.contract), config.dump(task.window), task.privacy.unit]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _answers(path: Path) -> dict[str, bool]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not (isinstance(found, dict) and all(isinstance(fits, bool) for fits in found.values())):
        raise Refusal(
            "ledger", f"{path} is damaged; restore it, or remove it: its answers are then charged anew"
        )
    return found
