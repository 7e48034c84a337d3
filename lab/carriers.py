"""How the demo's runs are carried: one class an engine, the same five verbs.

`GrpcCarrier` is the real thing: processes, TLS, releases pushed. The other two have no coordinator
process; they sign with the same keys, and hand the release to each plant's own deployment code.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from interplant.client import deployment, receiving, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.joining import JoinFile, join_federation, read_join_file
from interplant.core import certificates
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.core.release import ReleaseRefused
from interplant.core.schema import Federation, Plant, Rounds, Task
from interplant.lab.federation import LocalFederation
from interplant.lab.prepared import Prepared
from interplant.server.authority import Authority
from interplant.server.run_folder import RunFolder
from interplant.server.stopping import learned_enough

log = logging.getLogger(__name__)

Watch = Callable[[int], None]
"""Hears how many rounds are done, again and again while a run goes on."""

Offer = Callable[[Prepared], Callable[[Plant], None]]

_SAMPLE_SECONDS = 1.0
_VERDICT_SECONDS = 180.0


class Carrier(Protocol):
    """What the demo asks of an engine."""

    def enrol(self, plants: Sequence[Prepared], offer: Offer) -> None:
        """Make every plant part of the federation, with its data and its policy, and ready."""

    def run(self, task: Task, rules: Rounds, release: bool, watch: Watch) -> RunFolder:
        """Carry out a run; return its folder when all rounds are done."""

    def release(self, run: RunFolder) -> str:
        """Release what a run has learned; return its id when every plant has its verdict."""

    @property
    def memory_mb(self) -> float:
        """Most memory (PSS) that the federation's processes were seen to take together; 0: not seen."""


@dataclass
class GrpcCarrier:
    """The default engine: a coordinator and plants as processes, mutual TLS, work and releases pushed."""

    federation: LocalFederation
    port: int = 0
    seconds: float = 1800.0
    peak: list[float] = field(default_factory=lambda: [0.0])
    looked: list[float] = field(default_factory=lambda: [0.0])

    @property
    def memory_mb(self) -> float:
        """See `Carrier`."""
        return self.peak[0]

    def enrol(self, plants: Sequence[Prepared], offer: Offer) -> None:
        """Start the coordinator; let each plant join, with its data in place, and start it."""
        self.federation.create("demo", _at(self.port))
        threading.Thread(target=_load_torch, daemon=True).start()
        self.federation.start_coordinator()
        for one in plants:
            plant = self.federation.join(one.name, offer(one))
            one.place(plant.path)
            self.federation.start_plant(one.name)
        self.federation.until_online([one.name for one in plants])

    def run(self, task: Task, rules: Rounds, release: bool, watch: Watch) -> RunFolder:
        """See `Carrier`."""
        started = self.federation.start_run(task, release, rounds=rules)

        def look(run: object) -> None:
            watch(getattr(run, "round", 0))
            self._sample()

        ended = self.federation.until_over(started.id, self.seconds, look)
        watch(ended.round)
        if ended.state != "finished":
            raise InterplantError(f"run {ended.id} is {ended.state}: {ended.reason}")
        return RunFolder(self.federation.coordinator.runs / ended.id)

    def release(self, run: RunFolder) -> str:
        """Wait for the verdicts: the run has ended with a release, which is pushed."""
        with closing(self.federation.registry) as registry:
            release = next(one.id for one in registry.releases() if one.run == run.order().run)
        plants = [self.federation.plant(name) for name in _names(self.federation)]

        def tried() -> bool:
            self._sample()
            return all(verdicts.verdict_of(plant, release) is not None for plant in plants)

        self.federation.until(tried, _VERDICT_SECONDS, f"every plant to try release {release}")
        return release

    def _sample(self) -> None:
        if time.monotonic() - self.looked[0] >= _SAMPLE_SECONDS:
            self.looked[0] = time.monotonic()
            self.peak[0] = max(self.peak[0], self.federation.memory_mb())


@dataclass
class SimulateCarrier:
    """The simulate engine: the plants' real directories, all trained in this process."""

    federation: LocalFederation
    memory_mb: float = 0.0
    engine: str = "simulate"

    def enrol(self, plants: Sequence[Prepared], offer: Offer) -> None:
        """Make the same federation and the same plants, without a network."""
        self.federation.create("demo")
        for one in plants:
            path = self.federation.plant(one.name).path
            join_offline(self.federation, one.name, path)
            one.place(path)
            self.federation.edit(one.name, offer(one))

    def run(self, task: Task, rules: Rounds, release: bool, watch: Watch) -> RunFolder:
        """See `Carrier`."""
        run = self._order(task, rules, release)
        self._carry_out(run, watch)
        return run

    def release(self, run: RunFolder) -> str:
        """Sign the release, and let each plant receive and try it."""
        folder = package_run(self.federation, run)
        for name in _names(self.federation):
            deliver(self.federation.plant(name), folder)
        return folder.name

    def _order(self, task: Task, rules: Rounds, release: bool) -> RunFolder:
        from interplant.server.run_folder import make_order
        from interplant.server.runs import new_run_id

        run_id = new_run_id()
        run = RunFolder(self.federation.coordinator.runs / run_id)
        run.create(make_order(run_id, task, rules, self.engine, release))
        return run

    def _carry_out(self, run: RunFolder, watch: Watch) -> None:
        from interplant.lab.simulation import SimulatedGrid
        from interplant.server import rounds

        plants = [self.federation.plant(name) for name in _names(self.federation)]
        grid = SimulatedGrid(plants, run.order().run_id)
        rounds.carry_out(grid, run, lambda record: watch(record["round"]))


@dataclass
class FlowerCarrier(SimulateCarrier):
    """The flower engine: Flower's own SuperLink, SuperNodes and ``flwr run``, untouched."""

    engine: str = "flower"
    port: int = 0
    seconds: float = 1800.0

    def _carry_out(self, run: RunFolder, watch: Watch) -> None:
        from interplant.lab.flower_engine import run_on_flower

        names = _names(self.federation)
        watch(0)
        done = run_on_flower(
            self.federation.path / "logs" / "flower" / run.order().run,
            "interplant.server.rounds:app",
            "interplant.client.app:app",
            {name: {"plant": str(self.federation.plant(name).path.resolve())} for name in names},
            {"run": str(run.path.resolve())},
            timeout=self.seconds,
            port=self.port,
        )
        state = run.restore()
        task = run.task()
        if (
            done.status != "completed"
            or state is None
            or (state.round < task.rounds and not learned_enough(task, run))
        ):
            raise InterplantError(
                f"the run on Flower is {done.status}: {done.details}; see {done.log[-200:]}"
            )
        watch(state.round)


ENGINES: Final = ("grpc", "simulate", "flower")


def build(engine: str, federation: LocalFederation, port: int = 0) -> Carrier:
    """Make the carrier of an engine.

    Raises:
        UsageError: There is no such engine.
    """
    if engine == "grpc":
        return GrpcCarrier(federation, port)
    if engine == "simulate":
        return SimulateCarrier(federation)
    if engine == "flower":
        return FlowerCarrier(federation, port=port)
    raise UsageError(f"engine: expected one of {', '.join(ENGINES)}, found {engine!r}")


def join_offline(federation: LocalFederation, name: str, path: Path) -> PlantDirectory:
    """Enrol a plant and have it join as over the network, its request handed over directly."""
    authority = Authority.open(federation.coordinator)
    file = federation.path / f"{name}.join"
    write_atomic(file, authority.invite(name), 0o600)

    def enrol(join: JoinFile, request: bytes) -> bytes:
        return authority.accept(certificates.identity(join.certificate), request)

    try:
        return join_federation(path, read_join_file(file), enrol)
    finally:
        file.unlink()
        authority.registry.close()


def package_run(federation: LocalFederation, run: RunFolder) -> Path:
    """Build and sign the release of a finished run; return its folder."""
    from interplant.server.packaging import PackageOrder, package_in_child
    from interplant.server.releases import lineage_of

    state, task = run.restore(), run.task()
    assert state is not None, "only a finished run is released"
    release = f"{task.name}-{run.order().run}"
    folder = federation.coordinator.releases / release
    order = PackageOrder(
        run.weights, task, lineage_of(release, run, state), federation.coordinator.release_key
    )
    package_in_child(order, folder)
    return folder


def deliver(plant: PlantDirectory, release: Path) -> None:
    """Let a plant receive, verify and try a release that lies in a folder of this machine."""
    collected = receiving.incoming(plant, release.name)
    for file in release.iterdir():
        write_atomic(collected / file.name, file.read_bytes())
    try:
        receiving.accept(plant, release.name)
        deployment.try_release(plant, plant.releases / release.name)
    except ReleaseRefused as error:
        log.warning("%s refuses release %s: %s", plant.path.name, release.name, error)


def _load_torch() -> None:
    """Load torch while the processes start; the first weights of a run are made in this one."""
    importlib.import_module("torch")


def _names(federation: LocalFederation) -> list[str]:
    return sorted(path.name for path in (federation.path / "plants").iterdir())


def _at(port: int) -> Callable[[Federation], None]:
    def change(settings: Federation) -> None:
        if port:
            settings.listen = settings.address = f"127.0.0.1:{port}"

    return change
