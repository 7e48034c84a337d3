"""How a plant stands: what `plant status` shows. Light: no torch, no Flower."""

from dataclasses import dataclass

from interplant.client import champion as pointers
from interplant.client import connection, verdicts
from interplant.client.connection import Connection
from interplant.client.directory import PlantDirectory
from interplant.client.runway import Runway, told
from interplant.client.serving_status import ServingStatus, serving_status
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
        runway: How many more runs of the champion's task the budget pays; None if nothing limits it.
        champion: The release that serves, or None.
        challenger: The release that answers beside it, or None.
        stage: ``shadow``, ``canary`` or ``probation``, or empty.
        waiting: Releases that wait for a person.
        kept_replies: Replies that the coordinator has not merged yet.
        serving: What answers requests, and where.
    """

    plant: str
    federation: str
    connection: Connection
    paused: bool
    budgets: list[Spending]
    runway: Runway | None
    champion: str | None
    challenger: str | None
    stage: str
    waiting: list[str]
    kept_replies: int
    serving: ServingStatus


def status(plant: PlantDirectory) -> PlantStatus:
    """Look at a plant's directory; nothing is asked of the network.

    Raises:
        UsageError: This is no plant directory, or ``plant.yaml`` is wrong.
        InterplantError: The ledger or the champion's pointer cannot be read.
    """
    settings, champion, second = plant.load(), pointers.champion(plant), pointers.challenger(plant)
    return PlantStatus(
        settings.name,
        settings.federation,
        connection.current(plant),
        plant.paused.exists(),
        spending(plant),
        told(plant),
        champion.release if champion else None,
        second.release if second else None,
        second.stage if second else "",
        [name for name, verdict in verdicts.verdicts(plant) if verdict.state == verdicts.WAITING],
        len(list(plant.outbox.glob("*.parcel"))),
        serving_status(plant),
    )
