"""Whether a plant's readings fit a task's contract, and who pays for the answer.

With ``policy.privacy.data_refusals: declared`` the answer is told as it is, as a fact that the plant has
declared public. With ``billed`` one number is computed under differential privacy, of a store a second one
about what went to quarantine, charged to the ledger first, and remembered: the same question about the same
snapshot has the same answer, and costs nothing more. Which columns there are is public either way.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.lineages import lineage_of
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.files import write_atomic
from interplant.core.schema import Plant, PrivacyPolicy, Task
from interplant.data.shares import bad_shares, frames, intake_shares
from interplant.data.snapshots import Snapshot
from interplant.privacy.plan import Measurement, Plan, Statistic
from interplant.privacy.statistics import noised_vectors
from interplant.privacy.stream import Stream

DEVIATIONS = 2.0
"""Standard deviations of the noise by which the answer must pass the limit before a round is refused."""


@dataclass(frozen=True)
class Answer:
    """What is remembered of a question.

    Args:
        fits: What was told.
        entries: How many entries the ledger held when it was charged; it is worth nothing without them.
        head: Hash of the last one.
        code: The refusal's, where the data does not fit.
    """

    fits: bool
    entries: int
    head: str
    code: str = "contract"


def billed(policy: PrivacyPolicy, task: Task) -> bool:
    """Whether the answer is charged: the plant wants it so, and the task is private."""
    return task.privacy.private and policy.data_refusals == "billed"


def question(plan: Plan, policy: PrivacyPolicy, store: bool = False) -> Measurement:
    """Return what is charged for the answer.

    Args:
        plan: Its unit and public number of units.
        policy: How much noise.
        store: Whether the readings come from a store, of which a quarantine is asked about too.
    """
    names = ("contract", "quarantine") if store else ("contract",)
    statistics = tuple(Statistic(name, 1.0, policy.refusal_noise) for name in names)
    return Measurement(plan.unit, plan.records, plan.delta, statistics)


def owed(directory: PlantDirectory, plant: Plant, task: Task) -> Measurement | None:
    """Return what the answer about the newest snapshot is still to be charged; a round comes after it."""
    if not billed(plant.policy.privacy, task):
        return None
    try:
        snapshot = directory.repository().open()
        digest, store = snapshot.digest, _is_of_store(snapshot)
    except Refusal:
        digest, store = "", True  # there is none yet: the first one is asked about, by whichever way it comes
    if _key(lineage_of(directory, plant), digest, task) in _answers(directory.answers):
        return None
    return question(Plan.of(task, plant.data), plant.policy.privacy, store)


def require(
    directory: PlantDirectory,
    account: Account,
    snapshot: Snapshot,
    task: Task,
    plan: Plan,
    charge: Callable[[Measurement], object],
) -> None:
    """Refuse readings of which clearly too many break the contract; the first time, charge for the answer.

    Args:
        directory: The plant; its policy says how much noise.
        account: Whose ledger holds the charge of an answer that is remembered.
        snapshot: Opened; read only if its answer is not remembered.
        task: Contract, windows, unit.
        plan: The round's.
        charge: Writes a charge to the ledger; what it raises leaves the question unanswered.

    Raises:
        Refusal: ``contract`` or ``quarantine``; or ``ledger_behind``: the ledger does not hold the answer's
            charge.
    """
    key = _key(account.lineage, snapshot.digest, task)
    answer = _answers(directory.answers).get(key)
    if answer is None:
        asked = question(plan, directory.load().policy.privacy, _is_of_store(snapshot))
        charge(asked)
        wrong = [one.name for one in asked.statistics if _is_passed(one, snapshot, task, asked.records)]
        end = account.ledger.end()
        answer = Answer(not wrong, end.entries, end.hash, wrong[0] if wrong else "")
        answers = _answers(directory.answers) | {key: answer}
        kept = {name: asdict(own) for name, own in answers.items()}
        write_atomic(directory.answers, json.dumps(kept, indent=1) + "\n")
    account.ledger.require_receipt(answer.entries, answer.head)
    if not answer.fits:
        of = "of what came since the snapshot before" if answer.code == "quarantine" else "of the readings"
        raise Refusal(
            answer.code,
            f"under differential privacy, clearly more than {task.contract.strays:.0%} {of} break the "
            "contract; `interplant data check` shows which",
        )


def _is_passed(one: Statistic, snapshot: Snapshot, task: Task, records: int) -> bool:
    """Tell, with noise, whether a limit is passed."""
    # Noise alone must not refuse good data: a plant of 25 machines would be refused by chance.
    limit = DEVIATIONS * one.noise
    if one.name == "contract":
        limit += task.contract.strays * records
        blocks = bad_shares(frames(snapshot, task.split), task)
    else:
        blocks = intake_shares(snapshot.intake, task)
    total = noised_vectors((block[:, None] for block in blocks), 1, one, Stream())
    return bool(total[0] > limit)


def _is_of_store(snapshot: Snapshot) -> bool:
    return bool(snapshot.contract)


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
