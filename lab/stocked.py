"""Plants whose readings come from files in a folder, as at a line: what follows by itself can be watched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interplant.client import intake
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory, data_repository
from interplant.core import config
from interplant.core.files import write_atomic
from interplant.core.schema import Plant, Source, Task
from interplant.data.frames import Dataset
from interplant.lab.federation import LocalFederation
from interplant.lab.prepared import offer_readings

if TYPE_CHECKING:
    import pandas as pd

INBOX: Final = "inbox"
"""The folder, in a plant's directory, in which its files arrive."""

SETTLES: Final = 0.5
"""Seconds for which a file has to rest in it before it is read."""

CONTRACT: Final = "contract.yaml"


@dataclass(frozen=True)
class Stock:
    """One plant to be.

    Args:
        name: The plant's.
        readings: What it has from the beginning, in the columns of the task's contract.
        simulated: Whether a simulator made them.
    """

    name: str
    readings: "pd.DataFrame"
    simulated: bool


def join(
    federation: LocalFederation,
    stock: Stock,
    task: Task,
    epsilon: float,
    change: Callable[[Plant], None] = lambda _: None,
) -> PlantDirectory:
    """Have a plant join, with a source that is a folder, its first file there, and a snapshot of it.

    Args:
        federation: That it joins.
        stock: The plant.
        task: What it offers, and the contract of its readings.
        epsilon: Its budget.
        change: Edits ``plant.yaml`` further.
    """

    def edit(plant: Plant) -> None:
        offered = offer_readings(
            Dataset(stock.readings, stock.readings.iloc[:0], stock.simulated), task, epsilon
        )
        offered(plant)
        plant.data.simulated = stock.simulated
        plant.data.contract = CONTRACT
        settled = {"path": INBOX, "settle_seconds": SETTLES}
        plant.data.sources = [Source(name=INBOX, kind="folder", args=settled)]
        change(plant)

    plant = federation.join(stock.name, edit)
    write_atomic(plant.path / CONTRACT, config.to_yaml(task.contract))
    (plant.path / INBOX).mkdir()
    arrive(plant, stock.readings, "history.csv")
    store = intake.store_of(plant)
    intake.bring(plant, store)
    data_repository(plant).freeze(store, "History", stock.simulated)
    return plant


def arrive(plant: PlantDirectory, readings: "pd.DataFrame", name: str) -> Path:
    """Put a file into a plant's folder, as a historian does that exports one."""
    path = plant.path / INBOX / name
    write_atomic(path, readings.to_csv(index=False))
    return path


def machines(readings: "pd.DataFrame", task: Task, first: int) -> "pd.DataFrame":
    """Return readings whose machines are numbered from ``first`` on: others than those that came before."""
    machine = task.contract.machine
    return readings.assign(**{machine: readings[machine] - readings[machine].min() + first})


def serving(plants: Sequence[PlantDirectory]) -> set[str]:
    """Return the releases that serve at plants; empty text for a plant without one."""
    found = [champion(plant) for plant in plants]
    return {one.release if one else "" for one in found}
