"""Whether a plant's readings fit a task's contract, and who pays for the answer.

With ``policy.privacy.data_refusals: declared`` the answer is told as it is, as a fact that the plant has
declared public. With ``billed`` one number is computed under differential privacy, charged to the ledger
first, and remembered: the same question about the same snapshot has the same answer, and costs nothing
more. Which columns there are is public either way.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.lineages import lineage_of
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.files import write_atomic
from interplant.core.schema import Plant, PrivacyPolicy, Task
from interplant.data.shares import bad_shares
from interplant.data.snapshots import Snapshot
from interplant.privacy.plan import Measurement, Plan, Statistic
from interplant.privacy.statistics import noised
from interplant.privacy.stream import Stream

if TYPE_CHECKING:
    import pandas as pd

DEVIATIONS = 2.0
"""Standard deviations of the noise by which the answer must pass the limit before a round is refused."""


@dataclass(frozen=True)
class Answer:
    """What is remembered of a question.

    Args:
        fits: What was told.
        entries: How many entries the ledger held when it was charged; it is worth nothing without them.
        head: Hash of the last one.
    """

    fits: bool
    entries: int
    head: str


def billed(policy: PrivacyPolicy, task: Task) -> bool:
    """Whether the answer is charged: the plant wants it so, and the task is private."""
    return task.privacy.private and policy.data_refusals == "billed"


def question(plan: Plan, policy: PrivacyPolicy) -> Measurement:
    """Return what is charged for the answer: the sum over all units of the share of bad readings."""
    return Measurement(
        plan.unit, plan.records, plan.delta, (Statistic("contract", 1.0, policy.refusal_noise),)
    )


def owed(directory: PlantDirectory, plant: Plant, task: Task) -> Measurement | None:
    """Return what the answer about the newest snapshot is still to be charged; a round comes after it."""
    if not billed(plant.policy.privacy, task):
        return None
    try:
        digest = directory.repository().open().digest
    except Refusal:
        digest = ""  # there is none yet: the first one is asked about
    if _key(lineage_of(directory, plant), digest, task) in _answers(directory.answers):
        return None
    return question(Plan.of(task, plant.data), plant.policy.privacy)


def require(
    directory: PlantDirectory,
    account: Account,
    readings: "pd.DataFrame",
    digest: str,
    task: Task,
    asked: Measurement,
    charge: Callable[[Measurement], object],
) -> None:
    """Refuse readings of which clearly too many break the contract; the first time, charge for the answer.

    Args:
        directory: The plant.
        account: Whose ledger holds the charge of an answer that is remembered.
        readings: The snapshot's.
        digest: The snapshot's.
        task: Contract, windows, unit.
        asked: What `question` returned.
        charge: Writes a charge to the ledger; what it raises leaves the question unanswered.

    Raises:
        Refusal: ``contract``; or ``ledger_behind``: the ledger does not hold the answer's charge.
    """
    key = _key(account.lineage, digest, task)
    answer = _answers(directory.answers).get(key)
    if answer is None:
        charge(asked)
        (one,) = asked.statistics
        # Noise alone must not refuse good data: a plant of 25 machines would be refused by chance.
        limit = task.contract.strays * asked.records + DEVIATIONS * one.noise
        fits = noised(bad_shares(readings, task), one, Stream()) <= limit
        end = account.ledger.end()
        answer = Answer(fits, end.entries, end.hash)
        answers = _answers(directory.answers) | {key: answer}
        kept = {name: asdict(own) for name, own in answers.items()}
        write_atomic(directory.answers, json.dumps(kept, indent=1) + "\n")
    account.ledger.require_receipt(answer.entries, answer.head)
    if not answer.fits:
        raise Refusal(
            "contract",
            f"under differential privacy, clearly more than {task.contract.strays:.0%} of the readings break "
            "the contract; `interplant data check` shows which",
        )


def require_intake(snapshot: Snapshot, task: Task) -> None:
    """Abstain if more of what came since the snapshot before is in quarantine than the contract allows.

    Raises:
        Refusal: ``quarantine``.
    """
    came = sum(snapshot.sources.values()) + snapshot.quarantined
    if snapshot.quarantined > task.contract.strays * came:
        raise Refusal(
            "quarantine",
            f"{snapshot.quarantined} of {came} readings since the snapshot before: `interplant data check` "
            "shows why; mend it, release them, make a snapshot",
        )


def _key(lineage: str, digest: str, task: Task) -> str:
    parts = (task.contract, task.window, task.target, task.split)
    asked = [lineage, digest, *map(config.dump, parts), task.privacy.unit]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _answers(path: Path) -> dict[str, Answer]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): Answer(**own) for key, own in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise Refusal(
            "ledger", f"{path} is damaged; restore it, or remove it: its answers are then charged anew"
        ) from None
