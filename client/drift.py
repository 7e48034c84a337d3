"""The plant's drift monitor: live readings against the snapshot that the champion was trained on.

Everything that is computed and kept here is numbers about data. It lies in the plant's ``drift/`` and
``drift.jsonl``, readable by the plant's user alone; no message carries any of it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interplant.client import standing
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.core import keyring
from interplant.core.errors import UsageError
from interplant.core.files import disk_errors, takes_turns
from interplant.core.release import Release, read_release, task_digest
from interplant.core.schema import Task
from interplant.data import blocks, events, memory
from interplant.data.blocks import Block, of_series
from interplant.data.contract import Floats, columns
from interplant.data.drift import Monitor, Watched
from interplant.data.events import Event
from interplant.data.reference import Reference
from interplant.data.snapshots import Snapshot, keyed_digest
from interplant.data.survey import build

WATCHED: Final = ("inputs", "predictions", "errors")
"""What can be watched; each has its share of the plant's rate of false alarms, whether it is or not."""


@dataclass(frozen=True)
class Against:
    """What live readings are held against.

    Args:
        snapshot: Opened.
        task: Whose contract says what the readings are.
        release: The champion that learned from the snapshot, or None.
    """

    snapshot: Snapshot
    task: Task
    release: str | None


@dataclass(frozen=True)
class Report:
    """What one comparison came to.

    Args:
        against: The snapshot and the release.
        monitor: As it is now.
        windows: How many were compared this time.
        began: Drifts that began in them.
    """

    against: Against
    monitor: Monitor
    windows: int
    began: Sequence[Event]


def against(plant: PlantDirectory, task: Task, snapshot: str | None = None) -> Against:
    """Return the champion's task and the snapshot that it was trained on, or the one that is named.

    Args:
        plant: The plant's directory.
        task: Says what readings are, where there is no champion.
        snapshot: Digest of another snapshot, or its first digits.

    Raises:
        UsageError: There is no champion and no snapshot is named, or the champion did not learn here.
    """
    serving = _champion(plant)
    repository = plant.repository()
    if snapshot is not None:
        named = repository.open(snapshot)
        release = serving.id if serving and _learned(plant, serving, named) else None
        return Against(named, serving.task if serving else task, release)
    if serving is None:
        raise UsageError(
            "expected a release that serves here, or a snapshot to compare with: name one with --snapshot, "
            "`interplant data log` lists them"
        )
    for one in repository.log():
        if _learned(plant, serving, one):
            return Against(repository.open(one.digest), serving.task, serving.id)
    raise UsageError(
        f"release {serving.id}: it was trained on no snapshot of this plant; name one to compare with by "
        "--snapshot, `interplant data log` lists them"
    )


def watch(plant: PlantDirectory, held: Against, live: Iterable[Block]) -> Report:
    """Compare live readings, write down what began to drift, and remember where it stopped.

    The events are on disk before the place is: after a crash the same readings are compared again, and make
    the same events, which are written once.

    Args:
        plant: The plant's directory.
        held: What `against` returned.
        live: Readings, in the order of `interplant.data.blocks.of_frame`.
    """
    contract = held.task.contract
    window = plant.load().data.drift.window

    def make() -> Reference:
        return build(
            lambda: blocks.of_snapshot(held.snapshot, contract, held.task.split), columns(contract), window
        )

    return _watch(plant, held, "inputs", make, live)


def watch_series(
    plant: PlantDirectory, held: Against, name: str, past: Floats, live: Floats, times: Floats
) -> Report:
    """Compare predictions, or errors of which the labels have come late; see `watch`.

    Args:
        plant: The plant's directory.
        held: What `against` returned.
        name: ``predictions`` or ``errors``.
        past: The champion's on the snapshot's readings, in order (N,); used the first time.
        live: The champion's on live readings (M,).
        times: Of the live ones, increasing (M,).
    """
    window = plant.load().data.drift.window
    return _watch(
        plant, held, name, lambda: build(lambda: [of_series(past)], [name], window), [of_series(live, times)]
    )


def events_of(plant: PlantDirectory, report: Report) -> list[Event]:
    """Return all drifts that began with what a report is about, the oldest first."""
    monitor = report.monitor
    wanted = (monitor.watched.snapshot, monitor.watched.name, monitor.reference.window)
    found = events.read(plant.drift_events)
    return [one for one in found if (one.snapshot, one.watched, one.readings) == wanted]


def _watch(
    plant: PlantDirectory, held: Against, name: str, make: Callable[[], Reference], live: Iterable[Block]
) -> Report:
    if name not in WATCHED:
        raise UsageError(f"{name!r}: expected one of {', '.join(WATCHED)}")
    settings = plant.load().data.drift
    key = f"{name}-{held.snapshot.digest[:12]}-{task_digest(held.task)[:12]}-{settings.window}"
    with takes_turns(_made(plant.drift) / "lock"):
        reference = _reference(plant.drift / f"reference-{key}.npz", make)
        watched = Watched(held.snapshot.digest, held.release, name, settings.false_alarms / len(WATCHED))
        path = plant.drift / f"state-{key}.npz"
        monitor = Monitor(reference, watched, memory.load(path))
        before = monitor.state.windows
        began = events.append(plant.drift_events, monitor.watch(live))
        memory.save(path, monitor.state)
        if held.release:
            standing.note(plant, held.release, name, monitor.state.active)
    return Report(held, monitor, monitor.state.windows - before, began)


def _reference(path: Path, make: Callable[[], Reference]) -> Reference:
    """The statistics at ``path``, computed the first time."""
    try:
        return Reference.load(path)
    except FileNotFoundError:
        made = make()
    made.save(path)
    return made


def _champion(plant: PlantDirectory) -> Release | None:
    now = champion(plant)
    if now is None:
        return None
    return read_release(plant.releases / now.release, keyring.read(plant.release_public_key), kept=True)


def _learned(plant: PlantDirectory, release: Release, snapshot: Snapshot) -> bool:
    """Whether a release's lineage names a snapshot, which it does under the plant's secret."""
    name = keyed_digest(snapshot.digest, plant.snapshot_key.read_bytes())
    return any(one.snapshot == name for one in release.lineage.participants)


def _made(folder: Path) -> Path:
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
