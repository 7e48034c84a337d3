"""A plant's hold-out as a release meets it: windows that two models can predict, and what it has to beat."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from interplant.client import bounded, local_model
from interplant.client.bounded import RunawayError
from interplant.client.directory import PlantDirectory
from interplant.client.intake import require_kept
from interplant.client.quality import billed
from interplant.core import measures
from interplant.core.errors import InterplantError
from interplant.core.measures import Predicted
from interplant.core.release import ONNX, TASK, Release, ReleaseRefused, parse_task
from interplant.core.schema import Task
from interplant.core.targets import TIME, Target
from interplant.data.cuts import held_out_keys, windows_of
from interplant.data.snapshots import Snapshot

if TYPE_CHECKING:
    import pandas as pd

    from interplant.core.export import Floats
    from interplant.data.windows import Windows

CHAMPION: Final = "champion"
MEAN: Final = "mean"
LOCAL: Final = "local"

CODES: Final = {CHAMPION: "worse", MEAN: "baseline", LOCAL: "local"}
"""With which code a challenger is refused that does not hold against a rival."""


@dataclass(frozen=True)
class Holdout:
    """What a release is tried on.

    Args:
        keys: Machine and time of each of its readings.
        windows: Those of the hold-out, cut as the release's task says.
        rivals: By name, how each is held against: its target and what it predicts, and the labels.
    """

    keys: "pd.DataFrame"
    windows: "Windows"
    rivals: dict[str, tuple[Target, Predicted]]


@dataclass(frozen=True)
class Champion:
    """The release that serves now.

    Args:
        id: Its name.
        task: Of what.
    """

    id: str
    task: Task

    @classmethod
    def of(cls, plant: PlantDirectory, release: str) -> "Champion":
        """Read what lies in the plant's folder of releases."""
        return cls(release, parse_task((plant.releases / release / TASK).read_bytes()))


def opened(plant: PlantDirectory) -> Snapshot:
    """Return the plant's newest snapshot.

    Raises:
        Refusal: ``no_snapshot``: it has none.
    """
    return plant.repository().open()


def score_windows(plant: PlantDirectory, snapshot: Snapshot, task: Task) -> "Windows":
    """Cut all windows of the hold-out, whatever serves now; see `interplant.client.scoring`."""
    return _windows(plant, snapshot, task, held=True)


def prepare(
    plant: PlantDirectory, snapshot: Snapshot, release: Release, champion: Champion | None
) -> Holdout:
    """Read the hold-out, and have every rival predict it.

    All windows of the held-out readings, as in serving; the last one of each machine where the two tasks cut
    them differently, so that both predict the same.

    Args:
        plant: The plant.
        snapshot: Its newest.
        release: The challenger.
        champion: What serves now. Without one the rival always predicts the same: the mean target of the
            plant's training windows, or the shares of their classes.

    Raises:
        ReleaseRefused: ``no_holdout``, or ``stopped``: the champion no longer runs.
        Refusal: ``contract`` or ``contract_version``: there is nothing to test on.
    """
    task, policy = release.task, plant.load().policy
    require_kept(snapshot, task)
    keys = held_out_keys(snapshot, task)
    if keys.empty:
        raise ReleaseRefused("no_holdout")
    if champion is None:
        windows = _some(_windows(plant, snapshot, task, held=True))
        always = measures.constant(task.target, _some(_windows(plant, snapshot, task)).y, len(windows))
        rivals = {MEAN: (task.target, Predicted(always, windows.y))}
    else:
        windows, found = _beside(plant, champion, snapshot, task)
        rivals = {CHAMPION: found}
    if policy.release.local:
        learned = _some(_windows(plant, snapshot, task))
        own = local_model.predictions(plant, snapshot.digest, task, learned, windows.x[:])
        rivals[LOCAL] = (task.target, Predicted(own, windows.y))
    return Holdout(keys, windows, rivals)


def predicted(release: Release, windows: "Windows", latency_ms: float) -> "Floats":
    """Have a release's ONNX predict windows; see `interplant.client.bounded`.

    Raises:
        ReleaseRefused: ``stopped``. Whether it runs here may depend on the readings.
    """
    model, outputs = release.folder / ONNX, release.task.target.outputs
    return _run(lambda: bounded.run(model, [windows.x[:]], outputs, latency_ms, timed=False))


def _run(work: Callable[[], bounded.Ran]) -> "Floats":
    try:
        return work().predictions[0]
    except (RunawayError, InterplantError) as error:
        raise ReleaseRefused("stopped", str(error)) from None


def _beside(
    plant: PlantDirectory, champion: Champion, snapshot: Snapshot, task: Task
) -> tuple["Windows", tuple[Target, Predicted]]:
    """The challenger's windows, and what the champion predicts of the same readings."""
    other = champion.task
    same = (task.contract, task.window, task.target) == (other.contract, other.window, other.target)
    windows = _some(_windows(plant, snapshot, task, held=True, last=not same))
    # Divided, and asked about, as the challenger's task says: both predict the same.
    alike = replace(other, split=task.split, privacy=task.privacy)
    old = windows if same else _windows(plant, snapshot, alike, held=True, last=True)
    model, latency = plant.releases / champion.id / ONNX, plant.load().policy.release.latency_ms
    found = _run(lambda: bounded.run(model, [old.x[:]], other.target.outputs, latency, timed=False))
    labels = windows.y if task.target.kind == TIME else old.y
    return windows, (other.target, Predicted(found, labels))


def _windows(
    plant: PlantDirectory, snapshot: Snapshot, task: Task, held: bool = False, last: bool = False
) -> "Windows":
    from interplant.data.mapped import Cut

    # Where the plant bills whether its data fits a contract, a verdict must not tell it for nothing.
    checked = billed(plant.load().policy.privacy, task)
    return windows_of(snapshot, task, plant.windows, Cut(held, last, checked))


def _some(windows: "Windows") -> "Windows":
    """Refuse to judge by no window: none of the held-out labels may be known."""
    if not len(windows):
        raise ReleaseRefused("no_holdout")
    return windows


def question(champion: Champion | None, margin: float, rivals: list[str]) -> str:
    """Name what a release is held against, for the record of tries."""
    return json.dumps([champion.id if champion else "", margin, sorted(rivals)])
