"""The gate: a plant's own test of a release, in its trainer's process.

First what the release alone decides: the model is installed, takes the weights, agrees with its ONNX.
Then what the plant's data decides: the error on held-out machines, against what serves now.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.client.directory import PlantDirectory
from interplant.client.quality import billed
from interplant.core import export, models
from interplant.core.errors import InterplantError
from interplant.core.release import ONNX, TASK, WEIGHTS, Release, ReleaseRefused, parse_task
from interplant.core.schema import Task
from interplant.data import snapshots

if TYPE_CHECKING:
    from interplant.data.frames import Dataset
    from interplant.data.windows import Windows

PLAUSIBLE: Final = (-1.0, 2.0)
"""Predictions on the hold-out lie in this range, in units of the cap."""


@dataclass(frozen=True)
class _Rival:
    """What a challenger is measured against: its error in cycles, and what may not be exceeded."""

    code: str
    name: str
    rmse: float
    limit: float


def check_model(release: Release) -> None:
    """Check that the model is installed, takes the weights, agrees with its ONNX, and gives finite numbers.

    Looks at the release alone, never at data.

    Raises:
        ReleaseRefused: ``model_missing``, ``model``, ``parity`` or ``not_finite``.
    """
    try:
        model = models.build(release.task)
    except InterplantError as error:
        raise ReleaseRefused("model_missing", str(error)) from None
    try:
        models.set_parameters(model, export.read_weights(release.folder / WEIGHTS), frozen=True)
    except InterplantError as error:
        raise ReleaseRefused("model", str(error)) from None
    try:
        export.parity(model, release.folder / ONNX, release.task)
    except InterplantError as error:
        raise ReleaseRefused("parity", str(error)) from None
    if not all(np.isfinite(export.predict(model, x)).all() for x in export.probes(release.task)):
        raise ReleaseRefused("not_finite")


def measure(plant: PlantDirectory, release: Release, champion: str | None, margin: float) -> dict[str, float]:
    """Try a release on the plant's hold-out.

    Args:
        plant: Its newest snapshot's held-out machines are the test.
        release: The challenger, verified.
        champion: Release that serves now; without one the challenger has to beat predicting the mean
            capped target of the plant's training windows.
        margin: Share by which the challenger's error may exceed the champion's.

    Returns:
        Root mean square errors in cycles, the limit, and on how many windows and machines: exact
        figures, which stay in the plant.

    Raises:
        ReleaseRefused: ``worse`` or ``baseline`` (as `Worse`), ``implausible``, ``no_holdout`` or
            ``other_task``.
        Refusal: ``no_snapshot`` or ``contract``: there is nothing to test on.
    """
    other = parse_task((plant.releases / champion / TASK).read_bytes()) if champion else None
    if other and other.name != release.task.name:
        raise ReleaseRefused("other_task", f"the champion {champion} is for {other.name!r}")
    dataset = _dataset(plant, release.task)
    if dataset.holdout.empty:
        raise ReleaseRefused("no_holdout")
    windows, rival = _rival(plant, dataset, release.task, champion, other, margin)
    predicted = export.predict_onnx(release.folder / ONNX, windows.x)
    _check_plausible(predicted)
    rmse = _rmse(predicted, windows, release.task)
    figures = {
        "rmse": rmse,
        f"rmse_{rival.name}": rival.rmse,
        "limit": rival.limit,
        "windows": len(windows),
        "machines": len(np.unique(windows.machine)),
    }
    if not rmse <= rival.limit:
        raise Worse(rival, figures)
    return figures


class Worse(ReleaseRefused):
    """A challenger that lost, with its figures for the plant's own record."""

    def __init__(self, rival: _Rival, figures: Mapping[str, float]) -> None:
        self.figures = figures
        super().__init__(rival.code, result(figures))


def _rival(
    plant: PlantDirectory,
    dataset: "Dataset",
    task: Task,
    champion: str | None,
    other: Task | None,
    margin: float,
) -> tuple["Windows", _Rival]:
    """The challenger's windows of the hold-out, and what it has to beat on them.

    All windows of the held-out machines, as in serving; one a machine where the two tasks cut them
    differently, so that both predict the same.
    """
    from interplant.data import windows as cutting

    # Where the plant bills whether its data fits a contract, a verdict must not tell it for nothing.
    checked = billed(plant.load().policy.privacy, task)
    training_windows = partial(cutting.training_windows, checked=checked)
    last_windows = partial(cutting.last_windows, checked=checked)
    if champion is None or other is None:
        windows = training_windows(dataset.holdout, task)
        mean = float(training_windows(dataset.train, task).y.mean(dtype=np.float64))
        rmse = _rmse(np.full(len(windows), mean / task.target.cap), windows, task)
        return windows, _Rival("baseline", "mean", rmse, np.nextafter(rmse, 0.0))
    same = (task.contract, task.window, task.target) == (other.contract, other.window, other.target)
    cut = training_windows if same else last_windows
    windows = cut(dataset.holdout, task)
    x = windows.x if same else cut(dataset.holdout, other).x
    predicted = export.predict_onnx(plant.releases / champion / ONNX, x)
    rmse = _rmse(predicted, windows, other)
    return windows, _Rival("worse", "champion", rmse, rmse * (1.0 + margin))


def _dataset(plant: PlantDirectory, task: Task) -> "Dataset":
    repository = plant.repository()
    return snapshots.load(repository.open(), task.split)


def _rmse(predicted: export.Floats, windows: "Windows", task: Task) -> float:
    """Root mean square error in cycles of predictions in units of the task's cap."""
    error = predicted.astype(np.float64) * task.target.cap - windows.y
    return float(np.sqrt(np.mean(error[np.isfinite(windows.y)] ** 2)))


def _check_plausible(predicted: export.Floats) -> None:
    low, high = PLAUSIBLE
    # Written so that NaN counts as outside.
    outside = int((~((predicted >= low) & (predicted <= high))).sum())
    if outside:
        raise ReleaseRefused("implausible", f"{outside} of {len(predicted)} predictions on the hold-out")


def result(figures: Mapping[str, float]) -> str:
    """Return the figures of a trial as one sentence for the plant's own people."""
    rival = "champion" if "rmse_champion" in figures else "mean"
    name = "the champion's" if rival == "champion" else "of predicting the mean:"
    return (
        f"error on the hold-out {figures['rmse']:.2f} cycles, {name} {figures[f'rmse_{rival}']:.2f}, "
        f"at most {figures['limit']:.2f} allowed"
    )
