"""Looks at a plant's data that a person asks for and the ledger is charged for: sizes, and sensors' ranges.

What comes out may leave the plant: as a declared size in ``plant.yaml``, or as ranges that a person carries
to the task's contract. It stands in ``audit.jsonl``.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interplant.client.account import Account
from interplant.client.directory import PlantDirectory
from interplant.client.gateway import let_out_measured
from interplant.client.policy import check_columns
from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.core.schema import PRIVATE, Plant, Task
from interplant.data.shares import Bins, count_units, frames
from interplant.data.snapshots import Snapshot
from interplant.data.windows import rounded
from interplant.privacy.ledger import Ledger, Reservation
from interplant.privacy.plan import SIZES, Measurement, Statistic
from interplant.privacy.statistics import noised, noised_vectors
from interplant.privacy.stream import Stream

RUN = "measure"
"""What stands in the ledger in place of a run."""


@dataclass(frozen=True)
class Measured:
    """What a look at the data brought, and what it cost.

    Args:
        what: ``sizes`` or ``ranges``.
        unit: The privacy unit that was charged.
        noise: Standard deviation of the noise, as a multiple of what one unit can add.
        before: Epsilon on the account before, at ``delta``.
        after: And after.
        delta: The probability beside it.
        found: Sizes by key of ``plant.yaml``; or ranges by condition (the first is unnamed where the
            contract has none) and sensor, None where there were too few readings to tell.
    """

    what: str
    unit: str
    noise: float
    before: float
    after: float
    delta: float
    found: dict[str, Any]


def measure_sizes(directory: PlantDirectory, task: Task, noise: float) -> Measured:
    """Count the privacy units of a task under differential privacy.

    Args:
        directory: The plant.
        task: Its windows and privacy unit.
        noise: Standard deviation, in units.

    Returns:
        The size to declare, to two digits and at least 1: neither more nor less than the noised count.

    Raises:
        UsageError: The task is not private, or a value cannot be.
        Refusal: The budget, the ledger or the data is not there.
    """
    one = Statistic("units", 1.0, noise)
    taken = _Look.at(directory, task, one)
    count = count_units(frames(taken.snapshot, task.split), task)
    size = max(1, rounded(max(0, round(noised(np.ones(count), one, Stream())))))
    return taken.result("sizes", one, {SIZES[task.privacy.unit]: size})


def measure_ranges(
    directory: PlantDirectory, task: Task, noise: float, bins: int = 64, tail: float = 0.005
) -> Measured:
    """Find where almost all readings of each sensor lie, under differential privacy.

    Each unit adds, for each sensor, the share of its readings in each of equal bins over what the contract
    accepts; all bins of all sensors and conditions are one Gaussian mechanism. The ranges are read off the
    noised sums.

    Args:
        directory: The plant.
        task: Its contract declares wide ranges; its privacy unit is what is charged.
        noise: Standard deviation of the noise in each bin, in units times the root of the number of sensors.
        bins: How many for each sensor.
        tail: Share of the readings that may lie beyond either end.

    Raises:
        UsageError: The task is not private, or a value cannot be.
        Refusal: The budget, the ledger or the data is not there.
    """
    if not 2 <= bins <= 4096:
        raise UsageError(f"bins: expected 2 to 4096, found {bins}")
    if not 0 <= tail < 0.5:
        raise UsageError(f"tail: expected 0 to less than 0.5, found {tail}")
    over = Bins.of(task.contract, bins)
    one = Statistic("ranges", over.bound, noise)
    taken = _Look.at(directory, task, one)
    size = math.prod(over.shape)
    sums = noised_vectors(over.shares(frames(taken.snapshot, task.split), task), size, one, Stream())
    found = _ranges(task.contract, over, sums.reshape(over.shape), one, tail)
    return taken.result("ranges", one, found)


def _ranges(
    contract: Contract, over: Bins, sums: NDArray[np.float64], one: Statistic, tail: float
) -> dict[str, Any]:
    found = over.quantiles(sums, one.noise * one.bound, tail)
    names = [condition.name for condition in contract.conditions] or [""]
    return {
        name: {
            sensor: None if ends is None else [float(f"{end:.6g}") for end in ends]
            for sensor, ends in zip(contract.sensors, own, strict=True)
        }
        for name, own in zip(names, found, strict=True)
    }


@dataclass(frozen=True)
class _Look:
    """One charged look: the charge is on disk before the readings are read."""

    directory: PlantDirectory
    plant: Plant
    account: Account
    snapshot: Snapshot
    charge: Reservation
    before: float

    @classmethod
    def at(cls, directory: PlantDirectory, task: Task, one: Statistic) -> "_Look":
        plant, privacy = directory.load(), task.privacy
        _check_task(task, plant.policy.privacy.units)
        check_columns(plant, task)
        asked = Measurement(privacy.unit, 0, plant.policy.privacy.delta, (one,))
        repository = directory.repository()
        snapshot = repository.open()
        account = Account.of(directory, plant, task, Ledger(directory.ledger))
        before = account.spent().epsilon
        charge = account.reserve(asked, RUN, 0)
        return cls(directory, plant, account, snapshot, charge, before)

    def result(self, what: str, one: Statistic, found: dict[str, Any]) -> Measured:
        """Say what was found and what it cost, and log it."""
        account, unit = self.account, self.charge.plan.unit
        account.ledger.commit(self.charge)
        account.seal(self.directory, self.plant, self.snapshot, PRIVATE, RUN, 0)
        after, delta = account.spent().epsilon, account.caps.delta
        made = Measured(what, unit, one.noise, self.before, after, delta, found)
        let_out_measured(self.directory, asdict(made))
        return made


def _check_task(task: Task, units: list[str]) -> None:
    privacy = task.privacy
    if not privacy.private:
        raise UsageError(
            f"task {task.name}: privacy.mechanism is {privacy.mechanism}, so that nothing would be charged"
        )
    if privacy.unit not in units:
        allowed = ", ".join(units) or "none"
        raise UsageError(
            f"task {task.name}: privacy.unit: expected one of policy.privacy.units ({allowed}), "
            f"found {privacy.unit}"
        )
