"""Sanity cases: made-up windows for a release's model, and whether its predictions lie where they must."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from interplant.core.cases import STEPS, Case
from interplant.core.errors import UsageError
from interplant.core.export import Floats
from interplant.core.possible import Impossible
from interplant.core.schema import ReleasePolicy, Task
from interplant.core.targets import EVENT, TIME, VALUE, restored

SLACK: Final = 1e-4
"""Of the declared range: what rounding may do to a prediction that must not fall or rise."""


@dataclass(frozen=True)
class Asked:
    """A case as windows.

    Args:
        case: What is asked.
        own: Whether it is the plant's: which of those a release fails is no business of the coordinator's.
        windows: Inputs, float32 (1 or `STEPS`, channels, length).
    """

    case: Case
    own: bool
    windows: Floats


def asked(task: Task, policy: ReleasePolicy) -> list[Asked]:
    """Return the task's cases and the plant's own for this task, as windows.

    Raises:
        UsageError: A case of ``plant.yaml`` does not fit the task.
    """
    own = [(place, case) for place, case in enumerate(policy.cases) if case.task in ("", task.name)]
    for place, case in own:
        try:
            case.check_fits(f"policy.release.cases.{place}", task.contract, task.window.length, task.target)
        except Impossible as error:
            raise UsageError(f"plant.yaml: {error.key}: {error}, for task {task.name}") from None
    every = [(case, False) for case in task.cases] + [(case, True) for _, case in own]
    return [Asked(case, plants, _windows(case, task)) for case, plants in every]


def failed(cases: Sequence[Asked], predictions: Sequence[Floats], task: Task) -> tuple[Asked, str] | None:
    """Return the first case that a model fails, and what was found; None if it passes all.

    Args:
        cases: What was asked.
        predictions: The model's, of each case's windows.
        task: Its target.
    """
    for one, predicted in zip(cases, predictions, strict=True):
        found = _wrong(one.case, predicted, task)
        if found:
            return one, f"{one.case.name}: {found}"
    return None


def _wrong(case: Case, predicted: Floats, task: Task) -> str:
    if not np.isfinite(predicted).all():
        return "predicted no finite number"
    if case.classes:
        chosen = task.target.classes[int(predicted[0].argmax())]
        return "" if chosen in case.classes else f"expected one of {case.classes}, predicted {chosen!r}"
    values = _in_labels(predicted, task)
    if case.within:
        low, high = case.within
        inside = low <= values[0] <= high
        return "" if inside else f"expected {low:g} to {high:g}, predicted {values[0]:.4g}"
    steps = np.diff(values) * (1.0 if case.rises else -1.0)
    if (steps >= -SLACK * _width(task)).all():
        return ""
    word, column = ("fall", case.rises) if case.rises else ("rise", case.falls)
    shown = ", ".join(f"{value:.4g}" for value in values)
    return f"expected that it does not {word} with {column}, predicted {shown}"


def _in_labels(predicted: Floats, task: Task) -> Any:
    """Predictions in the label's unit; of an event its probability."""
    if task.target.kind == EVENT:
        from scipy.special import expit

        return expit(predicted.astype(np.float64))
    return restored(task.target, predicted.astype(np.float64))


def _width(task: Task) -> float:
    target = task.target
    return {TIME: target.cap, VALUE: target.high - target.low}.get(target.kind, 1.0)


def _windows(case: Case, task: Task) -> Floats:
    """The case's inputs, normalised as readings are; one window, or one for each step of a direction."""
    from interplant.data.features import features
    from interplant.data.windows import BOUND, normalise

    contract, length = task.contract, task.window.length
    names = [*contract.settings, *contract.sensors]
    # What is not a number becomes the middle of its range where readings are normalised.
    readings = np.full((length, len(names)), np.nan)
    for name, value in case.inputs.items():
        readings[:, names.index(name)] = value
    if contract.conditions:  # told apart by the settings, which then need a number
        centre = [contract.conditions[0].centre[name] for name in contract.settings]
        settings = readings[:, : len(centre)]
        readings[:, : len(centre)] = np.where(np.isnan(settings), centre, settings)
    inputs = normalise(readings, contract)
    moved = case.rises or case.falls
    steps = np.linspace(-1.0, 1.0, STEPS) if moved else np.zeros(1)
    windows = np.repeat(inputs.T[None], len(steps), axis=0)
    if moved:
        windows[:, names.index(moved)] = steps[:, None]
    if task.window.features:
        windows = features(windows.astype(np.float32), task.window, BOUND)
    return np.ascontiguousarray(windows, np.float32)
