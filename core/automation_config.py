"""What happens without a command: the ``automation`` of ``plant.yaml`` and of ``federation.yaml``."""

from dataclasses import dataclass, field
from typing import Final

from omegaconf import MISSING

from interplant.core.possible import between, need, one_of
from interplant.core.week import check_times, check_zone

REASONS: Final = ("new_data", "drift", "error", "schedule", "person")
"""Why a retraining may be proposed. The first three depend on data."""

OF_DATA: Final = frozenset(REASONS[:3])

TOLD: Final = ("nothing", "declared")
"""Whether something that a plant would say of its own accord is said; ``declared``: as public."""

ACTIONS: Final = ("propose", "start")


@dataclass
class PlantAutomation:
    """What a plant does of its own accord. By itself a new plant does nothing.

    ``snapshots``: a snapshot is made when at least ``readings`` new readings are in the store and no more has
    come for ``rest_seconds``, or when the first of them waits for ``longest_seconds``.

    ``watch``: new readings are held against the champion's snapshot, its predictions and its errors, where
    labels come late, against those on its hold-out.

    ``propose`` says for which of `REASONS` the plant proposes a retraining. That new data, a drift or an
    error is there depends on data: such a proposal leaves only with ``tell: declared``. ``budget: declared``
    tells how many more runs the plant's budget pays, which follows from its cap and public numbers.

    ``schedule`` are the moments of its own proposals. In ``quiet`` times the plant neither trains nor
    proposes. Both count in ``zone``.
    """

    snapshots: bool = False
    readings: int = 1
    rest_seconds: float = 5.0
    longest_seconds: float = 3600.0
    watch: bool = False
    propose: list[str] = field(default_factory=list)
    tell: str = "nothing"
    budget: str = "nothing"
    schedule: list[str] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)
    zone: str = "UTC"

    @property
    def monitors(self) -> bool:
        """Whether a process has to look after the plant's data."""
        return bool(self.snapshots or self.watch or self.propose or self.budget != TOLD[0])

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        key = "automation"
        need(self.readings >= 1, f"{key}.readings", f"expected 1 or more, found {self.readings}")
        between(self.rest_seconds, 0.0, 86_400.0, f"{key}.rest_seconds")
        between(self.longest_seconds, self.rest_seconds, 1e7, f"{key}.longest_seconds")
        for reason in self.propose:
            one_of(reason, REASONS[:-1], f"{key}.propose")
        one_of(self.tell, TOLD, f"{key}.tell")
        one_of(self.budget, TOLD, f"{key}.budget")
        check_times(self.schedule, f"{key}.schedule", moments=True)
        check_times(self.quiet, f"{key}.quiet")
        check_zone(self.zone, f"{key}.zone")


@dataclass
class Automation:
    """When a task's runs start without a command, at the coordinator.

    ``task`` is a built-in task's name or a file beside ``federation.yaml``, ``overrides`` changes to it, as
    ``interplant run start`` takes them. A run starts from the task's newest good release.

    ``on`` lists the `REASONS` that are heeded; ``schedule`` are the moments of the coordinator's own.
    ``proposals`` is from how many plants one has to come. Two runs of a task begin at least ``apart_hours``
    apart. In ``quiet`` times none begins, nor outside ``maintenance`` windows, if there are any; both count
    in ``zone``. With ``action: propose`` a person approves each run.
    """

    task: str = MISSING
    overrides: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=lambda: list(REASONS))
    action: str = "propose"
    proposals: int = 1
    apart_hours: float = 24.0
    schedule: list[str] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)
    maintenance: list[str] = field(default_factory=list)
    zone: str = "UTC"

    def check(self, key: str) -> None:
        """Raise `Impossible` for the first value that cannot be; ``key`` is this one's own."""
        for reason in self.on:
            one_of(reason, REASONS, f"{key}.on")
        one_of(self.action, ACTIONS, f"{key}.action")
        need(self.proposals >= 1, f"{key}.proposals", f"expected 1 or more, found {self.proposals}")
        between(self.apart_hours, 0.0, 1e5, f"{key}.apart_hours")
        check_times(self.schedule, f"{key}.schedule", moments=True)
        check_times(self.quiet, f"{key}.quiet")
        check_times(self.maintenance, f"{key}.maintenance")
        check_zone(self.zone, f"{key}.zone")
