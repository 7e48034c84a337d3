"""Real federations for the system tests: processes, TLS, repositories; nothing is mocked."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from interplant.core import config
from interplant.core.schema import Plant, Task
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation

PLANTS = ("north", "south")


def turbofan(*words: str) -> Task:
    """The built-in task with changes."""
    return config.load(builtin("turbofan"), Task, words)


def willing(plant: Plant) -> None:
    """A policy that takes part in everything; the data is simulated."""
    plant.policy.tasks = ["turbofan", "turbofan-own-model"]
    plant.policy.privacy.allow_none = True
    plant.policy.privacy.epsilon = 20.0
    plant.policy.release.approval = "auto"
    plant.policy.release.report = "verdict"
    plant.data.declared_windows = 2000
    plant.connection.backoff_max_seconds = 1.0


def add_plant(federation: LocalFederation, name: str, change: Callable[[Plant], None] = willing) -> None:
    """Join a plant with a small snapshot of its own."""
    federation.join(name, change)
    number = len(list((federation.path / "plants").iterdir()))
    Repository(federation.plant(name).data).snapshot(simulate(number, 24, seed=0))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two willing plants, online, shared by a module's tests; at the end nothing is left running."""
    path = tmp_path_factory.mktemp("federation")
    with local_federation(path) as made:
        made.create("test", lambda settings: setattr(settings.rounds, "quorum", 2))
        made.start_coordinator()
        for name in PLANTS:
            add_plant(made, name)
            made.start_plant(name)
        made.until_online(PLANTS)
        yield made
    assert processes_of(path) == []


def processes_of(path: Path) -> list[str]:
    """Command lines of the processes whose words name a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(path) in word for word in words) and process.pid != psutil.Process().pid:
            found.append(" ".join(words))
    return found


def child_of(parent: "subprocess.Popen[bytes]", module: str) -> psutil.Process:
    """The descendant of a process that runs a module."""
    for process in psutil.Process(parent.pid).children(recursive=True):
        if module in process.cmdline():
            return process
    raise AssertionError(f"no {module} under {parent.pid}")
