"""A release's score: one number about the plant's hold-out that may leave, bounded, noised and charged.

It is the release's training loss on the hold-out, clipped of each privacy unit to 0 to ``score_bound``, added
up over all units with Gaussian noise, and divided by a public number: `interplant.privacy.statistics` as for
metrics. It is charged before the hold-out is read, and committed and sealed by a receipt after.

What it must not follow is all that the plant has decided exactly: which release is champion, how the trial
ended, the plant's own model. So it is the release's loss alone, not what it is better by, and it is computed
whatever else goes wrong, with noise alone where there is nothing to sum. Nor may it come from the ONNX file:
that is the coordinator's program, in which one unit could change what is predicted for all. The installed
network predicts, with the release's weights, as in training.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.client import holdout, scores
from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.policy import check_columns, hold_to_terms
from interplant.client.scores import Score
from interplant.core import export, models
from interplant.core.errors import InterplantError
from interplant.core.release import WEIGHTS, Release
from interplant.core.schema import PRIVATE, Plant, Task
from interplant.core.targets import scaled
from interplant.data.snapshots import Snapshot
from interplant.privacy import statistics
from interplant.privacy.ledger import Ledger, Reservation
from interplant.privacy.plan import Measurement, Plan, Statistic
from interplant.privacy.stream import Stream

if TYPE_CHECKING:
    from interplant.data.windows import Windows

log = logging.getLogger(__name__)

RUN: Final = "release"
"""What stands in the ledger in place of a run; the round is 0."""


@dataclass(frozen=True)
class Paid:
    """A score that is on the ledger and not computed yet.

    Args:
        directory: The plant.
        plant: Its settings.
        account: The task's.
        release: What is scored.
        plan: Its unit and public number of units.
        one: What is told, with which noise.
        charge: The entry.
    """

    directory: PlantDirectory
    plant: Plant
    account: Account
    release: Release
    plan: Plan
    one: Statistic
    charge: Reservation

    def tell(self, snapshot: Snapshot, cut: "Callable[[], Windows]") -> Score:
        """Compute the score.

        Args:
            snapshot: Whose hold-out it is.
            cut: Gives its windows; if it cannot, noise alone is told: that too would be told of the data.
        """
        task = self.release.task
        try:
            windows = cut()
            model = models.build(task)
            models.set_parameters(model, export.read_weights(self.release.folder / WEIGHTS), frozen=True)
            y, machines = scaled(task.target, windows.y), windows.machine
            values = (
                statistics.unit_values("loss", model, windows.x, y, task.training.loss, self.plan, machines)
                if len(windows)
                else np.empty(0)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is: a score that stays away tells of the data
            log.warning("release %s: its score is noise alone: %s", self.release.id, error)
            values = np.empty(0)
        total = statistics.noised(values, self.one, Stream())
        self.account.ledger.commit(self.charge)
        self.account.seal(self.directory, self.plant, snapshot, PRIVATE, RUN, 0)
        return Score(total / held_out(self.plan, task), self.charge.id)


def score(directory: PlantDirectory, snapshot: Snapshot, release: Release) -> None:
    """Charge for a release's score, compute it and keep it, if the policy has one told.

    It is done before the trial, so that it cannot follow what the trial finds.
    """
    paid = pay(directory, release)
    if paid:
        found = paid.tell(snapshot, lambda: holdout.score_windows(directory, snapshot, release.task))
        scores.keep(directory, release.id, found)


def pay(directory: PlantDirectory, release: Release) -> Paid | None:
    """Charge for a release's score, if the policy has one told; durably, before this returns.

    Returns:
        None where nothing is to be told: the policy says so, the task is not private, so that nothing could
        be charged, or the budget or the ledger does not allow it. None of it follows from readings.
    """
    plant, task = directory.load(), release.task
    policy = plant.policy
    if policy.release.report != "score" or not task.privacy.private:
        return None
    one = Statistic("score", policy.release.score_bound, policy.release.score_noise)
    try:
        _check(directory, plant, task)
        plan = Plan.of(task, plant.data)
        asked = Measurement(task.privacy.unit, plan.records, policy.privacy.delta, (one,))
        account = Account.of(directory, plant, task, Ledger(directory.ledger))
        charge = account.reserve(asked, RUN, 0)
    except InterplantError as error:
        log.warning("release %s has no score: %s", release.id, error)
        return None
    return Paid(directory, plant, account, release, plan, one, charge)


def held_out(plan: Plan, task: Task) -> float:
    """Return how many units are held out by what the plant declares: by it the sum is divided.

    The declared size counts what is trained on; the task's split says what stands beside it.
    """
    share = task.split.holdout
    return max(1.0, plan.records * share / (1.0 - share))


def _check(directory: PlantDirectory, plant: Plant, task: Task) -> None:
    """What is checked of a round before it is charged: units, machines, terms, a model that can be run."""
    if task.privacy.unit not in plant.policy.privacy.units:
        raise InterplantError(f"privacy.unit {task.privacy.unit} is not in policy.privacy.units")
    check_columns(plant, task)
    hold_to_terms(directory, task)
    plan = Plan.of(task, plant.data)
    asked = Statistic("loss", 1.0, 1.0)
    probe = Plan(**{**plan.as_dict(), "statistics": (asked,)})
    statistics.check_model(models.build(task), task.shape, probe, task.training.loss)
