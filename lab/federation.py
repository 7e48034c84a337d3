"""A real federation on this machine: real processes, real TLS, real repositories, loopback only.

The demo, the system tests and the benchmarks stand on it.
"""

import contextlib
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from interplant.client.directory import PlantDirectory
from interplant.client.setup import join_plant
from interplant.core import config, processes
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.core.schema import Federation, Plant, Rounds, Task
from interplant.server import control, runs, setup
from interplant.server.authority import Authority
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Run
from interplant.server.registry import Registry

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between looks at the registry. Only who waits for a person's screen polls; rounds do not."""


@dataclass
class LocalFederation:
    """A coordinator and plants as processes of this machine.

    Args:
        path: ``coordinator/`` and ``plants/<name>/`` lie in it.
        children: Running processes by name.
    """

    path: Path
    children: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def coordinator(self) -> CoordinatorDirectory:
        """The coordinator's directory."""
        return CoordinatorDirectory(self.path / "coordinator")

    @property
    def registry(self) -> Registry:
        """The coordinator's registry, opened anew."""
        return Registry.open(self.coordinator.path)

    def plant(self, name: str) -> PlantDirectory:
        """A plant's directory."""
        return PlantDirectory(self.path / "plants" / name)

    def create(self, name: str, change: Callable[[Federation], None] = lambda _: None) -> None:
        """Make the federation and its ``federation.yaml``; ``change`` edits it before it is written."""
        address = f"127.0.0.1:{free_port()}"
        setup.init(self.coordinator.path, name, address, address)
        settings = self.coordinator.load()
        change(settings)
        write_atomic(self.coordinator.config, config.to_yaml(settings))

    def start_coordinator(self, seconds: float = 30.0) -> None:
        """Start ``coordinator serve`` and wait until it answers."""
        self._start("coordinator", ["coordinator", "serve", "--dir", str(self.coordinator.path)])
        self.until(
            lambda: control.reload(self.coordinator), seconds, "the coordinator to answer", "coordinator"
        )

    def join(self, name: str, change: Callable[[Plant], None] = lambda _: None) -> PlantDirectory:
        """Enrol a plant and have it join; ``change`` edits its ``plant.yaml``."""
        file = self.path / f"{name}.join"
        write_atomic(file, Authority.open(self.coordinator).invite(name), 0o600)
        plant = join_plant(file, self.plant(name).path)
        file.unlink()
        self.edit(name, change)
        return plant

    def edit(self, name: str, change: Callable[[Plant], None]) -> None:
        """Change a plant's ``plant.yaml``."""
        settings = self.plant(name).load()
        change(settings)
        write_atomic(self.plant(name).config, config.to_yaml(settings))

    def start_plant(self, name: str) -> None:
        """Start ``plant serve``; see `until_online`."""
        self._start(name, ["plant", "serve", "--dir", str(self.plant(name).path)])

    def until_online(self, names: Iterable[str], seconds: float = 60.0) -> None:
        """Wait until these plants are connected."""
        wanted = set(names)
        self.until(
            lambda: wanted <= {name for name, here in control.online(self.coordinator).items() if here},
            seconds,
            f"{', '.join(sorted(wanted))} to connect",
        )

    def start_run(
        self, task: Task, release: bool = True, start_from: str = "", rounds: Rounds | None = None
    ) -> Run:
        """Start a run; see `interplant.server.runs.start_run`."""
        return runs.start_run(self.coordinator, task, release, start_from, rounds)

    def until_over(
        self, run: str, seconds: float = 300.0, watch: Callable[[Run], None] = lambda _: None
    ) -> Run:
        """Wait until a run is finished, failed, stopped or paused; ``watch`` sees each look."""
        registry, found = self.registry, [self.registry.run(run)]

        def over() -> bool:
            found[0] = registry.run(run)
            watch(found[0])
            return found[0].is_over or found[0].state == "paused"

        try:
            self.until(over, seconds, f"run {run} to end")
        finally:
            registry.close()
        return found[0]

    def until(self, true: Callable[[], bool], seconds: float, what: str, child: str = "") -> None:
        """Wait until something is true.

        Raises:
            InterplantError: It is not after ``seconds``, or the process ``child`` has ended.
        """
        end = time.monotonic() + seconds
        while not true():
            process = self.children.get(child)
            if process and process.poll() is not None:
                raise InterplantError(f"{child} ended: {last_line(self.log_of(child))}")
            if time.monotonic() > end:
                raise InterplantError(f"waited {seconds:g} s for {what}; logs are in {self.path / 'logs'}")
            time.sleep(POLL)

    def stop(self, name: str, kill: bool = False) -> None:
        """End one process politely, or with SIGKILL; its children end with it."""
        child = self.children.pop(name)
        if kill:
            child.kill()
        processes.stop(child)

    def close(self) -> None:
        """End everything that was started."""
        for child in self.children.values():
            child.terminate()
        for name in reversed(list(self.children)):
            self.stop(name)

    def log_of(self, name: str) -> Path:
        """Path of a process's log."""
        return self.path / "logs" / f"{name}.log"

    def memory_mb(self) -> float:
        """Proportional set size of all processes together, in MB."""
        return sum(pss_mb(child.pid) for child in self.children.values())

    def _start(self, name: str, words: list[str]) -> None:
        self.log_of(name).parent.mkdir(parents=True, exist_ok=True)
        command = processes.python_module("interplant.cli.main", *words)
        with processes.uninterrupted():
            self.children[name] = processes.start(
                command, self.log_of(name), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )


@contextlib.contextmanager
def local_federation(path: Path) -> Iterator[LocalFederation]:
    """Hand out a federation at ``path`` and end its processes at the end, whatever happens."""
    federation = LocalFederation(path)
    try:
        yield federation
    finally:
        federation.close()


def free_port() -> int:
    """Find a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pss_mb(pid: int) -> float:
    """Proportional set size of a process and its descendants, in MB; 0 for one that is gone."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError):
                total += process.memory_full_info().pss / 2**20
    return total


def last_line(path: Path) -> str:
    """Last line of a log."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it said nothing"
