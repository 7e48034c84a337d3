"""Light plants: many real agents in one process, which do all that a plant does but train.

Each has its own enrolment, certificate, connection, policy, outbox, ledger, keys and audit log, and runs the
installed ClientApp; its trainer answers at once with an update of zeros (but for one element) and a signed
receipt, through the gateway. What is left out is the data repository and the trainer's process. `start`
runs this module.
"""

import subprocess
import sys
import threading
from pathlib import Path

from still import still

from interplant.client import joining, link
from interplant.client.agent import Agent
from interplant.client.directory import PlantDirectory
from interplant.client.trained import Trained
from interplant.core import logs, processes
from interplant.core.files import write_atomic
from interplant.core.schema import Task
from interplant.core.tensors import Tensors
from interplant.data.frames import Dataset
from interplant.lab.federation import LocalFederation
from interplant.lab.virtual import VirtualDirectory, VirtualRepository
from interplant.privacy.ledger import Ledger
from interplant.server.authority import Authority


class Still:
    """Trains nothing.

    Args:
        plant: The plant's directory.
    """

    def __init__(self, plant: VirtualDirectory) -> None:
        self._plant = plant
        self._ledger: Ledger | None = None

    def train(self, run: str, number: int, task: Task, weights: Tensors) -> Trained:
        """Return an update that moves one weight, with a signed receipt."""
        self._ledger = self._ledger or Ledger(self._plant.ledger)
        trained = still(self._plant, self._ledger, run, number, task, weights)
        # Or else the weights would stay the same, and nobody would need to fetch them.
        next(iter(trained.update.values())).reshape(-1)[0] = 1e-6
        return trained

    def try_release(self, release: str) -> None:
        """Do nothing: runs of benchmarks end without a release."""

    def warm_up(self) -> None:
        """Do nothing: there is no process."""

    def release_if_idle(self, seconds: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def join(federation: LocalFederation, names: list[str]) -> None:
    """Enrol plants over the coordinator's port, as ``interplant plant join`` does, without a repository."""
    authority = Authority.open(federation.coordinator)
    for name in names:
        file = federation.path / f"{name}.join"
        write_atomic(file, authority.invite(name), 0o600)
        joining.join_federation(federation.plant(name).path, joining.read_join_file(file), link.enrol)
        file.unlink()
    authority.registry.close()


def start(federation: LocalFederation, names: list[str], child: str = "light") -> None:
    """Run the agents of these plants in one process, which ends with the federation."""
    federation.children[child] = processes.start(
        [sys.executable, __file__, *(str(federation.plant(name).path) for name in names)],
        federation.log_of(child),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def main(paths: list[str]) -> None:
    """Run the agents of the plants in these directories until a polite end."""
    processes.follow_parent()
    logs.setup()
    stopping = threading.Event()
    processes.on_stop_signals(stopping)
    agents = [Agent(plant, Still(plant), stopping) for plant in map(_directory, paths)]
    threads = [threading.Thread(target=agent.run) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _directory(path: str) -> VirtualDirectory:
    """A plant's directory: its settings are read once, its readings are never made."""
    plain = PlantDirectory(Path(path))
    return VirtualDirectory(plain.path, plain.load(), VirtualRepository(plain.path.name, _no_readings))


def _no_readings() -> Dataset:
    raise AssertionError("a light plant does not look at data")


if __name__ == "__main__":
    main(sys.argv[1:])
