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
from interplant.core.plant_config import SMALLEST_WINDOW
from interplant.core.release import Release, read_release, task_digest
from interplant.core.schema import Task
from interplant.data import blocks, events, memory
from interplant.data.blocks import Block, of_series
from interplant.data.contract import Floats, columns
from interplant.data.drift import Monitor, Watched
from interplant.data.events import ERRORS, INPUTS, PREDICTIONS, Event
from interplant.data.reference import Reference
from interplant.data.snapshots import Snapshot, keyed_digest
from interplant.data.survey import FEWEST_WINDOWS, build

WATCHED: Final = (INPUTS, PREDICTIONS, ERRORS)
"""What can be watched; each has its share of the plant's rate of false alarms, whether it is or not."""

MANY_WINDOWS: Final = 20
"""Into so many windows a small hold-out is divided, as long as they are not too short."""


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

    return _watch(plant, held, INPUTS, make, live)


def watch_series(
    plant: PlantDirectory,
    held: Against,
    name: str,
    past: Callable[[], tuple[Floats, Sequence[str]]],
    live: Block,
) -> Report:
    """Compare the champion's predictions, or errors of which the labels have come late; see `watch`.

    Where the past is short, windows are shorter, and each may alarm by chance the less: in as many
    predictions there are as few false alarms.

    Args:
        plant: The plant's directory.
        held: What `against` returned, with a release.
        name: ``predictions`` or ``errors``.
        past: Gives the champion's on its hold-out, in order (N, columns), and the columns' names; asked the
            first time.
        live: The champion's on live readings; their times increase, and what is not later than `mark` is
            passed over.

    Raises:
        UsageError: The hold-out is too small.
    """
    if name not in WATCHED[1:]:
        raise UsageError(f"{name!r}: expected one of {', '.join(WATCHED[1:])}")
    settings = plant.load().data.drift
    largest = settings.errors if name == ERRORS else settings.window

    def make() -> Reference:
        values, columns = past()
        fewest = FEWEST_WINDOWS * SMALLEST_WINDOW
        if len(values) < fewest:
            raise UsageError(
                f"the hold-out that release {held.release} is held against has {len(values)} windows with a "
                f"label, expected at least {fewest}; bring more machines, or hold out more of them"
            )
        window = max(SMALLEST_WINDOW, min(largest, len(values) // MANY_WINDOWS))
        return build(lambda: [of_series(values)], columns, window)

    return _watch(plant, held, name, make, [live])


def mark(plant: PlantDirectory, held: Against, name: str) -> float | None:
    """Return the time up to which a series has been compared; None before the first window."""
    return memory.load(_state(plant, held, name)).marks.get(0)


def begin_anew(plant: PlantDirectory, held: Against, name: str) -> None:
    """Forget the `mark`, as the log is another; what drifts, drifts on."""
    with takes_turns(_made(plant.drift) / "lock"):
        path = _state(plant, held, name)
        state = memory.load(path)
        state.marks.clear()
        memory.save(path, state)


def events_of(plant: PlantDirectory, report: Report) -> list[Event]:
    """Return all drifts that began with what a report is about, the oldest first."""
    watched = report.monitor.watched
    wanted = (watched.snapshot, watched.name, report.monitor.reference.window)
    found = [
        one for one in events.read(plant.drift_events) if (one.snapshot, one.watched, one.readings) == wanted
    ]
    return [one for one in found if watched.name == INPUTS or one.release == watched.release]


def _watch(
    plant: PlantDirectory, held: Against, name: str, make: Callable[[], Reference], live: Iterable[Block]
) -> Report:
    settings = plant.load().data.drift
    with takes_turns(_made(plant.drift) / "lock"):
        reference = _reference(plant.drift / f"reference-{_key(plant, held, name)}.npz", make)
        rate = settings.false_alarms / len(WATCHED) * min(1.0, reference.window / settings.window)
        watched = Watched(held.snapshot.digest, held.release, name, rate)
        path = _state(plant, held, name)
        monitor = Monitor(reference, watched, memory.load(path))
        before = monitor.state.windows
        began = events.append(plant.drift_events, monitor.watch(live))
        memory.save(path, monitor.state)
        if held.release:
            standing.note(plant, held.release, name, monitor.state.active)
    return Report(held, monitor, monitor.state.windows - before, began)


def _state(plant: PlantDirectory, held: Against, name: str) -> Path:
    return plant.drift / f"state-{_key(plant, held, name)}.npz"


def _key(plant: PlantDirectory, held: Against, name: str) -> str:
    """Name what is compared with what; predictions and errors are a release's own."""
    digests = f"{held.snapshot.digest[:12]}-{task_digest(held.task)[:12]}"
    whose = "" if name == INPUTS else f"-{held.release}"
    return f"{name}-{digests}-{plant.load().data.drift.window}{whose}"


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
    return any(name in one.snapshots for one in release.lineage.participants)


def _made(folder: Path) -> Path:
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
