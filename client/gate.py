"""The gate: a plant's own test of a release, in its trainer's process.

First what the release alone decides: the model is installed, takes the weights, agrees with its ONNX.
Then what the plant's data decides: the error on held-out machines, against what serves now.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.client.directory import PlantDirectory
from interplant.client.quality import billed
from interplant.core import export, measures, models
from interplant.core.errors import InterplantError
from interplant.core.release import ONNX, TASK, WEIGHTS, Release, ReleaseRefused, parse_task
from interplant.core.schema import Task
from interplant.core.targets import TIME, VALUE, Target

if TYPE_CHECKING:
    from interplant.data.windows import Windows

PLAUSIBLE: Final = (-1.0, 2.0)
"""Predictions of a time or a value on the hold-out lie in this range, of which 0 to 1 is the declared one."""

NAMES: Final = {"rmse": "error", "brier": "Brier score", "macro_f1_missing": "1 less macro F1"}
"""What the errors of `interplant.core.measures` are called."""


@dataclass(frozen=True)
class _Rival:
    """What a challenger is measured against: its error, and what may not be exceeded."""

    code: str
    name: str
    error: float
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
    outputs, probes = release.task.target.outputs, export.probes(release.task)
    if not all(np.isfinite(export.predict(model, x, outputs=outputs)).all() for x in probes):
        raise ReleaseRefused("not_finite")


def measure(plant: PlantDirectory, release: Release, champion: str | None, margin: float) -> dict[str, float]:
    """Try a release on the plant's hold-out.

    Args:
        plant: Its newest snapshot's held-out machines are the test.
        release: The challenger, verified.
        champion: Release that serves now; without one the challenger has to beat predicting always the
            same: the mean target of the plant's training windows, or the shares of their classes.
        margin: Share by which the challenger's error may exceed the champion's.

    Returns:
        The errors of `interplant.core.measures.MEASURES`, the challenger's other scores, the limit, and on
        how many windows and machines: exact figures, which stay in the plant.

    Raises:
        ReleaseRefused: ``worse`` or ``baseline`` (as `Worse`), ``implausible``, ``no_holdout`` or
            ``other_task``.
        Refusal: ``no_snapshot`` or ``contract``: there is nothing to test on.
    """
    other = parse_task((plant.releases / champion / TASK).read_bytes()) if champion else None
    if other and (other.name, other.target.kind) != (release.task.name, release.task.target.kind):
        raise ReleaseRefused(
            "other_task", f"the champion {champion} is for {other.name!r}, a {other.target.kind}"
        )
    windows, rival = _rival(plant, release.task, champion, other, margin)
    target = release.task.target
    predicted = export.predict_onnx(release.folder / ONNX, windows.x, outputs=target.outputs)
    _check_plausible(predicted, target)
    found = measures.scores(target, measures.Predicted(predicted, windows.y))
    measure = measures.MEASURES[target.kind]
    figures = {
        **{name: value for name, value in found.items() if np.isfinite(value)},
        f"{measure}_{rival.name}": rival.error,
        "limit": rival.limit,
        "windows": len(windows),
        "machines": len(np.unique(windows.machine)),
    }
    if not found[measure] <= rival.limit:
        raise Worse(rival, figures, target)
    return figures


class Worse(ReleaseRefused):
    """A challenger that lost, with its figures for the plant's own record."""

    def __init__(self, rival: _Rival, figures: Mapping[str, float], target: Target) -> None:
        self.figures = figures
        super().__init__(rival.code, result(figures, target))


def _rival(
    plant: PlantDirectory, task: Task, champion: str | None, other: Task | None, margin: float
) -> tuple["Windows", _Rival]:
    """The challenger's windows of the hold-out, and what it has to beat on them.

    All windows of the held-out machines, as in serving; one a machine where the two tasks cut them
    differently, so that both predict the same.
    """
    from interplant.data.cuts import windows_of
    from interplant.data.mapped import Cut

    # Where the plant bills whether its data fits a contract, a verdict must not tell it for nothing.
    checked = billed(plant.load().policy.privacy, task)
    snapshot = plant.repository().open()
    if champion is None or other is None:
        windows = _some(windows_of(snapshot, task, plant.windows, Cut(held=True, checked=checked)))
        learned = _some(windows_of(snapshot, task, plant.windows, Cut(checked=checked))).y
        error = _error(measures.constant(task.target, learned, len(windows)), windows, task)
        return windows, _Rival("baseline", "mean", error, np.nextafter(error, 0.0))
    same = (task.contract, task.window, task.target) == (other.contract, other.window, other.target)
    cut = Cut(held=True, last=not same, checked=checked)
    windows = _some(windows_of(snapshot, task, plant.windows, cut))
    old = windows if same else windows_of(snapshot, other, plant.windows, cut)
    predicted = export.predict_onnx(plant.releases / champion / ONNX, old.x, outputs=other.target.outputs)
    error = _error(predicted, windows if task.target.kind == TIME else old, other)
    return windows, _Rival("worse", "champion", error, error * (1.0 + margin))


def _some(windows: "Windows") -> "Windows":
    """Refuse to judge by no window: none of the held-out labels may be known."""
    if not len(windows):
        raise ReleaseRefused("no_holdout")
    return windows


def _error(predicted: export.Floats, windows: "Windows", task: Task) -> float:
    return measures.error(task.target, measures.Predicted(predicted, windows.y))


def _check_plausible(predicted: export.Floats, target: Target) -> None:
    low, high = PLAUSIBLE if target.kind in (TIME, VALUE) else (-np.inf, np.inf)
    # Written so that NaN counts as outside; log-odds have no ends, and must only be finite.
    inside = (predicted >= low) & (predicted <= high) & np.isfinite(predicted)
    outside = int((~inside).reshape(len(predicted), -1).any(axis=1).sum())
    if outside:
        raise ReleaseRefused("implausible", f"{outside} of {len(predicted)} predictions on the hold-out")


def result(figures: Mapping[str, float], target: Target) -> str:
    """Return the figures of a trial as one sentence for the plant's own people."""
    measure = measures.MEASURES[target.kind]
    rival = "champion" if f"{measure}_champion" in figures else "mean"
    name = "the champion's" if rival == "champion" else "of predicting the mean:"
    unit, digits = (" cycles" if target.kind == TIME else "", 2) if measure == "rmse" else ("", 4)
    said = (figures[measure], figures[f"{measure}_{rival}"], figures["limit"])
    own, others, limit = (f"{value:.{digits}f}" for value in said)
    return f"{NAMES[measure]} on the hold-out {own}{unit}, {name} {others}, at most {limit} allowed"
