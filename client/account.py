"""The account at a plant that a task's numbers are charged to: ledger, lineage, budgets."""

from dataclasses import dataclass

from interplant.client import receipts
from interplant.client.directory import PlantDirectory
from interplant.client.lineages import former_names, lineage_of
from interplant.core.schema import Plant, Task
from interplant.privacy.ledger import Caps, Ledger, Reservation
from interplant.privacy.plan import Charged


@dataclass(frozen=True)
class Account:
    """What is charged where.

    Args:
        ledger: The plant's.
        lineage: Names the dataset: a budget is not renewed by a new version or a copy.
        caps: The budgets of ``plant.yaml``.
        task: The task's name.
    """

    ledger: Ledger
    lineage: str
    caps: Caps
    task: str

    @classmethod
    def of(cls, directory: PlantDirectory, plant: Plant, task: Task, ledger: Ledger) -> "Account":
        """Open the account of ``task``; what an earlier version charged under a folder's name counts on.

        Raises:
            Refusal: ``ledger_behind`` or ``ledger``.
        """
        receipts.require(directory, ledger)
        lineage = lineage_of(directory, plant)
        for former in former_names(directory, plant, lineage, ledger.lineages()):
            ledger.alias(lineage, former)
        policy = plant.policy.privacy
        caps = Caps(
            policy.epsilon, policy.delta, policy.tasks.get(task.name), plant.data.declared_unit_windows
        )
        return cls(ledger, lineage, caps, task.name)

    def require(self, charged: Charged) -> None:
        """Refuse what `reserve` would refuse now; nothing is charged and no data needs to be read.

        Raises:
            Refusal: ``budget_spent`` or ``ledger``.
        """
        self.ledger.require(charged, task=self.task, lineage=self.lineage, caps=self.caps)

    def reserve(self, charged: Charged, run: str, round: int) -> Reservation:
        """Charge, durably, before this returns; see `Ledger.reserve`."""
        return self.ledger.reserve(
            charged, run=run, round=round, task=self.task, lineage=self.lineage, caps=self.caps
        )

    def epsilon(self) -> float:
        """Return what the account holds at the policy's delta."""
        return float(self.ledger.spent(self.lineage, self.caps.delta, self.caps.unit_windows).epsilon)
