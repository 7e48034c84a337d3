"""The whole loop on this machine: read `run_demo` from top to bottom.

A demo's folder: ``prepared/`` (the plants' data, kept), ``federation/`` (keys, ledgers, releases;
fresh each time) and ``runs/<id>/`` (what came of it).
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from interplant.client import verdicts
from interplant.client.directory import PlantDirectory
from interplant.core import config, keyring
from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, only_one, write_atomic
from interplant.core.release import ReleaseRefused, read_release
from interplant.core.schema import Rounds, Task
from interplant.data.snapshots import keyed_digest
from interplant.data.tasks import builtin
from interplant.lab import baselines, carriers, summary
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.prepared import Prepared, Source, offer, prepare
from interplant.lab.summary import PlantResult, Summary
from interplant.server.run_folder import RunFolder

if TYPE_CHECKING:
    from interplant.lab.loop import LoopResult

PRESETS: Final[dict[str, tuple[str, ...]]] = {
    "simulated": (),
    "cmapss": ("rounds=30", "training.steps=30", "privacy.noise=1.2"),
}
"""Changes to the turbofan task, by dataset."""

BUDGETS: Final = {"simulated": 4.0, "cmapss": 3.0}
"""Each demo plant's budget of ε for a window, by dataset."""

_FLOWER_ROUNDS: Final = 4
"""Rounds on stock Flower, where each costs 10 to 30 seconds; the number of steps stays."""

_MARK: Final = "made-by-demo"


class Teller(Protocol):
    """Hears how the demo gets on."""

    def stage(self, text: str) -> None:
        """Something new begins."""

    def round(self, label: str, done: int, rounds: int) -> None:
        """So many rounds of a run are done; told again and again."""


class Silent:
    """A teller that tells nobody."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def round(self, label: str, done: int, rounds: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Settings:
    """What to demonstrate.

    Args:
        path: The demo's folder.
        source: The plants' data.
        engine: ``grpc``, ``simulate`` or ``flower``.
        rounds: Instead of the preset's number, if not 0.
        seed: Of the model and the batches; the simulator's is in ``source``.
        port: Of the coordinator; a free one if 0.
        overrides: Further changes to the task, such as ``training.steps=5``.
        loop: Whether to show also how the loop closes by itself, with simulated data and real processes.
        started: When the command began, as `time.time`.
    """

    path: Path
    source: Source = field(default_factory=Source)
    engine: str = "grpc"
    rounds: int = 0
    seed: int = 0
    port: int = 0
    overrides: tuple[str, ...] = ()
    loop: bool = True
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.engine not in carriers.ENGINES:
            known = ", ".join(carriers.ENGINES)
            raise UsageError(f"engine: expected one of {known}, found {self.engine!r}")
        if self.rounds < 0 or self.seed < 0:
            raise UsageError("rounds and seed: expected numbers from 0 (0 rounds: as many as are usual)")

    def task(self) -> Task:
        """Return the task with privacy; see `interplant.lab.baselines.public`."""
        words = [*PRESETS[self.source.dataset], f"seed={self.seed}", *self.overrides]
        if self.rounds:
            words.append(f"rounds={self.rounds}")
        task = config.load(builtin("turbofan"), Task, words)
        if self.engine == "flower" and not self.rounds and task.rounds > _FLOWER_ROUNDS:
            steps = task.rounds * task.training.steps // _FLOWER_ROUNDS
            task = replace(task, rounds=_FLOWER_ROUNDS, training=replace(task.training, steps=steps))
        return task

    @property
    def budget(self) -> float:
        """Each plant's budget of ε."""
        return BUDGETS[self.source.dataset]


def run_demo(settings: Settings, tell: Teller | None = None) -> Summary:
    """Run the whole loop, and leave ``runs/<id>/summary.json`` and a picture beside it.

    Args:
        settings: What to demonstrate.
        tell: Hears how it gets on.

    Raises:
        UsageError: The folder is somebody else's, or the data is not there.
        InterplantError: A process died, a run did not finish; the sentence says where to look.
    """
    tell = tell or Silent()
    task = settings.task()
    with disk_errors(settings.path):
        settings.path.mkdir(parents=True, exist_ok=True)
    with only_one(settings.path / "demo.lock", "a demo"):
        plants = prepare(settings.path / "prepared", settings.source, task, tell.stage)
        with local_federation(_fresh(settings.path / "federation")) as federation:
            carrier = carriers.build(settings.engine, federation, settings.port)
            tell.stage(f"starting a coordinator and {len(plants)} plants ({settings.engine} engine)")
            carrier.enrol(plants, lambda one: offer(one, task, settings.budget))
            rules = Rounds(quorum=len(plants))
            plain = carrier.run(baselines.public(task), rules, False, _watch(tell, "without privacy", task))
            private = carrier.run(task, rules, True, _watch(tell, "with privacy", task))
            tell.stage("each plant verifies the signed release and tries it on its own machines")
            release = carrier.release(private)
        tell.stage("training each plant alone and all data pooled, to compare; measuring")
        made = _summary(settings, task, plants, federation, plain, private, release, carrier.memory_mb)
        loop = _loop(settings, tell)
    return _publish(replace(made, loop=asdict(loop) if loop else None), loop, settings.path, tell)


def runs_folder(path: Path, made: Summary) -> Path:
    """Return the folder of a demo's results."""
    return path / "runs" / made.run


def _fresh(folder: Path) -> Path:
    """Return a federation's folder with nothing in it; an old one goes only if a demo made it."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise UsageError(f"{folder}: expected what an earlier demo made, found something else; choose --dir")
    with disk_errors(folder):
        if folder.exists():
            # The mark goes last, so that a removal that was interrupted is taken up again.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == _MARK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomic(folder / _MARK, "The demo removes this folder when it starts again.\n")
    return folder


def _watch(tell: Teller, label: str, task: Task) -> carriers.Watch:
    return lambda done: tell.round(f"training {label}", done, task.rounds)


def _loop(settings: Settings, tell: Teller) -> "LoopResult | None":
    """Show in a federation of its own how a sensor that drifts leads to a new model."""
    if not (settings.loop and settings.source.simulated and settings.engine == "grpc"):
        return None
    from interplant.lab.loop import run_loop

    return run_loop(_fresh(settings.path / "loop"), tell, settings.seed)


def _publish(made: Summary, loop: "LoopResult | None", path: Path, tell: Teller) -> Summary:
    from interplant.lab.loop_plot import draw_loop
    from interplant.lab.plot import draw

    folder = runs_folder(path, made)
    tell.stage("drawing the pictures")
    draw(made, folder / "summary.png")
    if loop:
        draw_loop(loop, folder / "loop.png")
    made.write(folder)
    return made


def _summary(
    settings: Settings,
    task: Task,
    plants: Sequence[Prepared],
    federation: LocalFederation,
    plain: RunFolder,
    private: RunFolder,
    release: str,
    memory_mb: float,
) -> Summary:
    """Collect what the runs have left on the plants' and the coordinator's disks, and measure."""
    directories = {one.name: federation.plant(one.name) for one in plants}
    measured = baselines.measure_in_child(
        task,
        {name: plant.path for name, plant in directories.items()},
        {"federated": plain.weights, "private": private.weights},
        federation.path / "logs" / "measure.log",
    )
    return Summary(
        run=private.order().run,
        dataset=settings.source.dataset,
        simulated=settings.source.simulated,
        engine=settings.engine,
        seed=settings.seed,
        plants=tuple(_plant(one, directories[one.name], measured[one.name], task, release) for one in plants),
        rounds=task.rounds,
        seconds=_seconds(settings, list(directories.values()), [plain, private]),
        memory_mb=round(memory_mb, 1),
        release=_release(release, list(directories.values())),
    )


def _plant(
    prepared: Prepared, plant: PlantDirectory, measured: dict[str, Any], task: Task, release: str
) -> PlantResult:
    verdict = verdicts.verdict_of(plant, release)
    policy, errors = plant.load().policy.privacy, measured["rmse"]
    return PlantResult(
        name=prepared.name,
        snapshot=prepared.snapshot,
        snapshot_keyed=keyed_digest(prepared.snapshot, plant.snapshot_key.read_bytes()),
        rows=prepared.rows,
        machines=prepared.machines,
        rmse_alone=errors["alone"],
        rmse_pooled=errors["pooled"],
        rmse_federated=errors["federated"],
        rmse_federated_private=errors["private"],
        privacy_unit=task.privacy.unit,
        epsilon=measured["epsilon"],
        delta=policy.delta,
        epsilon_budget=policy.epsilon,
        machine_windows=measured["machine_windows"],
        machine_epsilon=measured["machine_epsilon"],
        release=release,
        release_state=verdict.state if verdict else "unknown",
        release_reason=verdict.sentence if verdict else "",
    )


def _seconds(
    settings: Settings, plants: Sequence[PlantDirectory], runs: Sequence[RunFolder]
) -> dict[str, float]:
    entries = [[json.loads(line) for line in plant.rounds.read_text().splitlines()] for plant in plants]
    training = summary.slowest(entries)
    records = [(run, run.records()) for run in runs]
    extra = [summary.overhead(found, training, run.order().run) for run, found in records]
    first = min(entry["first_step"] for plant in entries for entry in plant)
    return {
        "total": time.time() - settings.started,
        "train": sum(one["seconds"] for _, found in records for one in found),
        "overhead_per_round": max(extra),
        "to_first_training": first - settings.started,
    }


def _release(release: str, plants: Sequence[PlantDirectory]) -> dict[str, Any]:
    """Verify the release at every plant, with the plant's own key, once more."""
    digests = {_verified(plant, release) for plant in plants}
    good = len(digests) == 1 and "" not in digests
    return {"id": release, "sha256": max(digests), "signature_verified": good}


def _verified(plant: PlantDirectory, release: str) -> str:
    try:
        key = keyring.read(plant.release_public_key)
        return read_release(plant.releases / release, key).sha256
    except ReleaseRefused:
        return ""
