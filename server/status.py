"""How a coordinator stands: what `coordinator status` shows. Light: no torch, no Flower."""

from dataclasses import dataclass
from datetime import datetime

from interplant.core import certificates
from interplant.server import control
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry
from interplant.server.standings import Standing, standings

_LATEST = 10


@dataclass(frozen=True)
class PlantState:
    """A plant as the coordinator knows it."""

    name: str
    state: str
    online: bool
    last_seen: datetime | None
    protocol: str | None


@dataclass(frozen=True)
class RunState:
    """A run in one line."""

    run: str
    task: str
    state: str
    round: int
    rounds: int
    reason: str


@dataclass(frozen=True)
class CoordinatorStatus:
    """A coordinator at one moment.

    Args:
        federation: Its name.
        address: What plants dial.
        serving: Whether `coordinator serve` answers here.
        certificate_until: End of the server certificate's validity; it renews itself.
        plants: All plants by name, revoked ones too.
        runs: The latest runs, the newest first.
        releases: Ids of the latest releases, the newest first.
        automation: How the tasks stand whose runs start without a command.
    """

    federation: str
    address: str
    serving: bool
    certificate_until: datetime
    plants: list[PlantState]
    runs: list[RunState]
    releases: list[str]
    automation: list[Standing]


def status(directory: CoordinatorDirectory) -> CoordinatorStatus:
    """Look at a coordinator's directory, and ask the serving process who is connected."""
    federation, registry = directory.load(), Registry.open(directory)
    serving = control.reload(directory)
    online = control.online(directory) if serving else {}
    return CoordinatorStatus(
        federation.name,
        federation.address,
        serving,
        certificates.identity(certificates.read_pem(directory.server_certificate)).not_after,
        [
            PlantState(one.name, one.state, online.get(one.name, False), one.last_seen, one.protocol)
            for one in registry.plants()
        ],
        [
            RunState(one.id, one.task_name, one.state, one.round, one.rounds, one.reason)
            for one in registry.runs()[:_LATEST]
        ],
        [one.id for one in registry.releases()[:_LATEST]],
        standings(directory, registry),
    )
