"""The account at a plant that a task's numbers are charged to: ledger, lineage, budgets."""

from dataclasses import dataclass

from interplant.client import receipts
from interplant.client.directory import PlantDirectory
from interplant.client.lineages import former_names, lineage_of
from interplant.core.receipt import Receipt
from interplant.core.schema import PRIVATE, Plant, Task
from interplant.data.snapshots import Snapshot, keyed_digest
from interplant.privacy.accounting import Spent
from interplant.privacy.ledger import Caps, Ledger, Reservation
from interplant.privacy.plan import Charged, Event


@dataclass(frozen=True)
class Together:
    """Events of several charges."""

    events: tuple[Event, ...]


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
        lineage = lineage_of(directory, plant)
        with receipts.require(directory, ledger):
            for former in former_names(directory, plant, lineage, ledger.lineages()):
                ledger.alias(lineage, former)
        policy = plant.policy.privacy
        caps = Caps(
            policy.epsilon, policy.delta, policy.tasks.get(task.name), plant.data.declared_unit_windows
        )
        return cls(ledger, lineage, caps, task.name)

    def require(self, *charges: Charged) -> None:
        """Refuse what `reserve` would refuse now; nothing is charged and no data needs to be read.

        Args:
            charges: What will be charged, all together.

        Raises:
            Refusal: ``budget_spent`` or ``ledger``.
        """
        together = Together(tuple(event for one in charges for event in one.events))
        self.ledger.require(together, task=self.task, lineage=self.lineage, caps=self.caps)

    def reserve(self, charged: Charged, run: str, round: int) -> Reservation:
        """Charge, durably, before this returns; see `Ledger.reserve`."""
        return self.ledger.reserve(
            charged, run=run, round=round, task=self.task, lineage=self.lineage, caps=self.caps
        )

    def spent(self) -> Spent:
        """Return what the account holds at the policy's delta."""
        return self.ledger.spent(self.lineage, self.caps.delta, self.caps.unit_windows)

    def seal(
        self,
        directory: PlantDirectory,
        plant: Plant,
        snapshot: Snapshot,
        mechanism: str,
        run: str,
        round: int,
    ) -> Receipt:
        """Sign what the account holds, and keep the receipt: a ledger that goes back is noticed by it.

        Args:
            directory: The plant's key signs.
            plant: Its name.
            snapshot: What was charged for.
            mechanism: Of the task.
            run: The run.
            round: The round in it.
        """
        private = mechanism == PRIVATE
        spent = self.spent() if private else Spent(0.0, 0.0, 0.0)
        unsigned = Receipt(
            plant=plant.name,
            snapshot=keyed_digest(snapshot.digest, directory.snapshot_key.read_bytes()),
            mechanism=mechanism,
            unit=spent.unit,
            epsilon=float(spent.epsilon),
            delta=self.caps.delta if private else 0.0,
            simulated=snapshot.simulated,
            run=run,
            round=round,
        )
        return receipts.sign(directory, unsigned, self.ledger)
