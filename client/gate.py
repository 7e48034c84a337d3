"""The gate: a plant's own test of a release, in its trainer's process.

First what the release alone decides (`check_model`): the model is installed, takes the weights, agrees with
its ONNX, is quick enough, and passes the sanity cases. Then what the plant's readings decide (`measure`):
whether its error on the hold-out is no worse than that of what serves now, by a margin, for sure enough.

The decision is exact, and everything here stays in the plant, but for a score that is charged.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from interplant.client import bounded, comparison, holdout, intake, sanity, scoring
from interplant.client.comparison import BETTER, LEAST, Compared
from interplant.client.directory import PlantDirectory
from interplant.client.holdout import CHAMPION, CODES, LOCAL, MEAN, Champion, Holdout
from interplant.client.tries import Tries
from interplant.core import export, measures, models
from interplant.core.errors import InterplantError
from interplant.core.measures import Predicted
from interplant.core.release import ONNX, WEIGHTS, Release, ReleaseRefused
from interplant.core.schema import ReleasePolicy, Task
from interplant.core.targets import TIME, VALUE, Target
from interplant.data.snapshots import Snapshot

if TYPE_CHECKING:
    from torch import nn

PLAUSIBLE: Final = (-1.0, 2.0)
"""Predictions of a time or a value on the hold-out lie in this range, of which 0 to 1 is the declared one."""

NAMES: Final = {"rmse": "error", "brier": "Brier score", "macro_f1_missing": "1 less macro F1"}
"""What the errors of `interplant.core.measures` are called."""

_WHOSE: Final = {
    CHAMPION: "the champion's",
    MEAN: "of predicting the mean:",
    LOCAL: "the plant's own model's",
}


def try_out(plant: PlantDirectory, release: Release, champion: str | None) -> dict[str, float]:
    """Try a release, and before that compute its score if one is told; see `check_model` and `measure`.

    Args:
        plant: The plant.
        release: The challenger, verified.
        champion: Release that serves now, if there is one.
    """
    check_model(plant, release)
    snapshot = holdout.opened(plant)
    scoring.score(plant, snapshot, release)
    return measure(plant, snapshot, release, champion)


# --- what the release alone decides ----------------------------------------------------------------


def check_model(plant: PlantDirectory, release: Release) -> None:
    """Check what needs no reading: contract, model, weights, ONNX, latency, sanity cases.

    Raises:
        ReleaseRefused: ``model_missing``, ``model``, ``onnx``, ``runaway``, ``parity``, ``not_finite``,
            ``slow``, ``case`` or ``own_case``.
        Refusal: ``contract_version``.
    """
    task, policy = release.task, plant.load().policy.release
    intake.require_version(plant, task)
    model = _model(release)
    probes, cases = export.probes(task), sanity.asked(task, policy)
    ran = _first_run(release, [*probes, *(case.windows for case in cases)], policy.latency_ms)
    try:
        export.parity(model, ran.predictions[: len(probes)], task)
    except InterplantError as error:
        raise ReleaseRefused("parity", str(error)) from None
    if not all(np.isfinite(found).all() for found in ran.predictions[: len(probes)]):
        raise ReleaseRefused("not_finite")
    if failed := sanity.failed(cases, ran.predictions[len(probes) :], task):
        raise ReleaseRefused("own_case" if failed[0].own else "case", failed[1])
    if ran.milliseconds > policy.latency_ms:
        raise ReleaseRefused(
            "slow",
            f"{ran.milliseconds:.3g} ms of processor time a window; policy.release.latency_ms is "
            f"{policy.latency_ms:g}",
        )


def _model(release: Release) -> "nn.Module":
    try:
        model = models.build(release.task)
    except InterplantError as error:
        raise ReleaseRefused("model_missing", str(error)) from None
    try:
        models.set_parameters(model, export.read_weights(release.folder / WEIGHTS), frozen=True)
    except InterplantError as error:
        raise ReleaseRefused("model", str(error)) from None
    return model


def _first_run(release: Release, arrays: list[export.Floats], latency_ms: float) -> bounded.Ran:
    """Run a release's ONNX for the first time, on made-up windows."""
    try:
        return bounded.run(release.folder / ONNX, arrays, release.task.target.outputs, latency_ms)
    except bounded.RunawayError as error:
        raise ReleaseRefused("runaway", str(error)) from None
    except InterplantError as error:
        raise ReleaseRefused("onnx", str(error)) from None


# --- what the plant's readings decide --------------------------------------------------------------


def measure(
    plant: PlantDirectory, snapshot: Snapshot, release: Release, champion: str | None
) -> dict[str, float]:
    """Try a release on the plant's hold-out.

    It passes if, against each rival, the upper bound of its error lies within the margin; see
    `interplant.client.comparison`, and `interplant.client.tries` for the level of the bound. That it must
    hold against all of them needs no further correction (intersection-union: Berger, 1982).

    Args:
        plant: The plant.
        snapshot: Its newest.
        release: The challenger.
        champion: Release that serves now, if there is one.

    Returns:
        The errors of `interplant.core.measures.MEASURES`, the challenger's other scores, limits and bounds,
        and on how many windows, machines and units: exact figures, which stay in the plant.

    Raises:
        ReleaseRefused: ``worse``, ``baseline`` or ``local`` (as `Worse`), ``implausible``, ``stopped``,
            ``no_holdout``, ``holdout_small`` or ``other_task``.
        Refusal: ``contract`` or ``contract_version``: there is nothing to test on.
    """
    task, policy = release.task, plant.load().policy.release
    serving = _fitting(release, Champion.of(plant, champion)) if champion else None
    held = holdout.prepare(plant, snapshot, release, serving)
    span = -(-task.window.length // task.window.stride)
    units = comparison.units_of(held.windows.machine, span)
    if units.count < LEAST:
        raise ReleaseRefused(
            "holdout_small", f"expected at least {LEAST} independent {units.kind}, found {units.count}"
        )
    tries = Tries(plant)
    question = holdout.question(serving, policy.margin, list(held.rivals))
    own = tries.begin(release.sha256, question, held.keys, task.contract, 1.0 - policy.confidence)
    predicted = holdout.predicted(release, held.windows, policy.latency_ms)
    _check_plausible(predicted, task.target)
    found = judge(held, task, Predicted(predicted, held.windows.y), units, policy, own.level)
    tries.end(own, all(one.passed for one in found.values()))
    figures = _figures(held, task, predicted, found)
    figures |= {"units": units.count, "try": own.number, "level": own.level}
    for name, one in found.items():
        if not one.passed:
            raise Worse(CODES[name], figures, task.target)
    return figures


def judge(
    held: Holdout,
    task: Task,
    predicted: Predicted,
    units: comparison.Units,
    policy: ReleasePolicy,
    level: float,
) -> dict[str, Compared]:
    """Hold a challenger's predictions against each rival's; the mean has to be beaten."""
    return {
        name: comparison.compare(
            (task.target, predicted), rival, units, BETTER if name == MEAN else policy.margin, level
        )
        for name, rival in held.rivals.items()
    }


class Worse(ReleaseRefused):
    """A challenger that did not hold against a rival, with its figures for the plant's own record."""

    def __init__(self, code: str, figures: Mapping[str, float], target: Target) -> None:
        self.figures = figures
        super().__init__(code, result(figures, target))


def _fitting(release: Release, champion: Champion) -> Champion:
    """Refuse a release that cannot be compared with the champion."""
    task, other = release.task, champion.task
    if (other.name, other.target.kind) != (task.name, task.target.kind):
        raise ReleaseRefused(
            "other_task", f"the champion {champion.id} is for {other.name!r}, a {other.target.kind}"
        )
    return champion


def _check_plausible(predicted: export.Floats, target: Target) -> None:
    low, high = PLAUSIBLE if target.kind in (TIME, VALUE) else (-np.inf, np.inf)
    # Written so that NaN counts as outside; log-odds have no ends, and must only be finite.
    inside = (predicted >= low) & (predicted <= high) & np.isfinite(predicted)
    outside = int((~inside).reshape(len(predicted), -1).any(axis=1).sum())
    if outside:
        raise ReleaseRefused("implausible", f"{outside} of {len(predicted)} predictions on the hold-out")


def _figures(
    held: Holdout, task: Task, predicted: export.Floats, found: Mapping[str, Compared]
) -> dict[str, float]:
    measure = measures.MEASURES[task.target.kind]
    scores = measures.scores(task.target, Predicted(predicted, held.windows.y))
    figures: dict[str, float] = {name: value for name, value in scores.items() if np.isfinite(value)}
    for name, one in found.items():
        figures |= {f"{measure}_{name}": one.rival, f"limit_{name}": one.limit}
        figures |= {f"low_{name}": one.low, f"high_{name}": min(one.high, 1e9)}
    return figures | {"windows": len(held.windows), "machines": len(np.unique(held.windows.machine))}


def result(figures: Mapping[str, float], target: Target) -> str:
    """Return the figures of a trial as one sentence for the plant's own people."""
    measure = measures.MEASURES[target.kind]
    unit, digits = (" cycles" if target.kind == TIME else "", 2) if measure == "rmse" else ("", 4)
    parts = [f"{NAMES[measure]} on the hold-out {figures[measure]:.{digits}f}{unit}"]
    for name in (CHAMPION, MEAN, LOCAL):
        if (rival := figures.get(f"{measure}_{name}")) is not None:
            bound = _bound(figures[f"high_{name}"])
            limit = figures[f"limit_{name}"]
            parts.append(f"{_WHOSE[name]} {rival:.{digits}f}, {bound}, at most {limit:.{digits}f} allowed")
    sure = 100.0 * (1.0 - figures["level"])
    return f"{'; '.join(parts)} ({sure:.5g} % sure by {figures['units']:g} units, try {figures['try']:g})"


def _bound(high: float) -> str:
    """Say what the upper bound of the ratio of two errors means."""
    if high >= comparison.WIDEST:
        return "against which nothing can be told"
    return (
        f"surely at least {-100 * high:.3g} % lower"
        if high < 0
        else f"surely at most {100 * high:.3g} % higher"
    )
