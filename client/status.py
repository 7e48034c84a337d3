"""How a plant stands: what `plant status` shows. Light: no torch, no Flower."""

from dataclasses import dataclass

from interplant.client import champion as pointers
from interplant.client import connection, verdicts
from interplant.client.connection import Connection
from interplant.client.directory import PlantDirectory
from interplant.client.spending import Spending, spending


@dataclass(frozen=True)
class PlantStatus:
    """A plant at one moment.

    Args:
        plant: Its name.
        federation: The federation it has joined.
        connection: How it stands with the coordinator.
        paused: Whether rounds are refused.
        budgets: Privacy spent, by dataset.
        champion: The release that serves, or None.
        waiting: Releases that wait for a person.
        kept_replies: Replies that the coordinator has not merged yet.
    """

    plant: str
    federation: str
    connection: Connection
    paused: bool
    budgets: list[Spending]
    champion: str | None
    waiting: list[str]
    kept_replies: int


def status(plant: PlantDirectory) -> PlantStatus:
    """Look at a plant's directory; nothing is asked of the network.

    Raises:
        UsageError: This is no plant directory, or ``plant.yaml`` is wrong.
        InterplantError: The ledger or the champion's pointer cannot be read.
    """
    settings, champion = plant.load(), pointers.champion(plant)
    return PlantStatus(
        settings.name,
        settings.federation,
        connection.current(plant),
        plant.paused.exists(),
        spending(plant),
        champion.release if champion else None,
        [name for name, verdict in verdicts.verdicts(plant) if verdict.state == verdicts.WAITING],
        len(list(plant.outbox.glob("*.parcel"))),
    )
