"""The champion's predictions and late errors, held against those on its hold-out: read `watch`.

They come from the prediction log, each once, and are compared with what the champion predicts of the machines
held out of the snapshot that it learned from, and how it errs there: nothing it was trained on, so that the
model's own zeal is no drift. What comes of it are numbers about data, which stay in the plant.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from interplant.client import bounded, drift, evidence, holdout
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.client.drift import Against, Report
from interplant.client.predictions import Prediction, Predictions
from interplant.core.errors import InterplantError
from interplant.core.release import ONNX
from interplant.core.targets import CLASS, Target, told
from interplant.data.blocks import Block, of_series
from interplant.data.contract import Floats
from interplant.data.events import ERRORS, PREDICTIONS
from interplant.data.survey import MOST_WINDOWS, STRETCH

log = logging.getLogger(__name__)

MOST_CLASSES: Final = 16
"""Of more classes it is the score of the predicted one that is watched, not each one's."""

_PAGE: Final = 10_000

Past = Mapping[str, tuple[Floats, Sequence[str]]]


def watch(plant: PlantDirectory, held: Against) -> list[Report]:
    """Compare what the prediction log says of the champion since the last time.

    A log that is damaged, or a hold-out that is too small, is one sentence in the log of the process.

    Args:
        plant: The plant's directory.
        held: The champion and its snapshot.

    Returns:
        What was compared: predictions, errors, both or nothing.
    """
    if held.release is None or not plant.predictions.exists():
        return []
    past = cache(lambda: _past(plant, held))
    found = []
    for name in (PREDICTIONS, ERRORS):
        try:
            found.append(_watch(plant, held, name, past))
        except InterplantError as error:
            log.warning("%s are not watched: %s", name, error)
    return [one for one in found if one]


def _watch(plant: PlantDirectory, held: Against, name: str, past: Callable[[], Past]) -> Report | None:
    live = _live(plant, held, name)
    # The hold-out is not predicted before there is something to hold against it.
    return drift.watch_series(plant, held, name, lambda: past()[name], live) if len(live) else None


def errors_of(target: Target, predicted: Floats, y: Floats) -> Floats:
    """Return how far predictions are from labels (N,): in the label's unit, or what its probability lacks.

    Args:
        target: What is predicted.
        predicted: As people are told (N, outputs).
        y: Labels as `interplant.data.windows.Windows` has them (N,).
    """
    if target.kind == CLASS:
        found: Floats = 1.0 - predicted[np.arange(len(y)), y.astype(np.intp)]
        return found
    return np.asarray(np.abs(predicted[:, 0] - y))


def _past(plant: PlantDirectory, held: Against) -> Past:
    """What the champion predicts of the machines that are held out, how it errs, and the columns' names."""
    task = held.task
    if not task.contract.cycle:
        # Whoever asks may ask after each reading; what goes together more is what the limits must know.
        task = replace(task, window=replace(task.window, stride=1))
    windows = holdout.score_windows(plant, held.snapshot, task)
    chosen = _spread(len(windows), MOST_WINDOWS * plant.load().data.drift.window)
    predicted = np.empty((0, task.target.outputs))
    if len(chosen):
        assert held.release
        model, latency = plant.releases / held.release / ONNX, plant.load().policy.release.latency_ms
        (found,) = bounded.run(model, [windows.x[chosen]], task.target.outputs, latency).predictions
        predicted = told(task.target, found).astype(np.float64).reshape(len(found), -1)
    errors = errors_of(task.target, predicted, windows.y[chosen].astype(np.float64))
    return {
        PREDICTIONS: (_series(task.target, predicted), _columns(task.target)),
        ERRORS: (errors[:, None], [ERRORS]),
    }


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """Numbers of at most so many windows, in evenly spread stretches without a gap."""
    length = most // (MOST_WINDOWS // STRETCH)
    if count <= most or not length:
        return np.arange(count)
    starts = np.linspace(0, count - length, MOST_WINDOWS // STRETCH).astype(np.intp)
    return (starts[:, None] + np.arange(length)).ravel()


def _series(target: Target, predicted: Floats) -> Floats:
    """What is watched of predictions as people are told them (N, outputs): (N, columns)."""
    return predicted if target.outputs <= MOST_CLASSES else predicted.max(axis=1, keepdims=True)


def _columns(target: Target) -> list[str]:
    if target.kind == CLASS and target.outputs <= MOST_CLASSES:
        return [str(one) for one in target.classes]
    return [PREDICTIONS]


def _live(plant: PlantDirectory, held: Against, name: str) -> Block:
    """What came since the last window that was compared, or since the champion began to serve."""
    serves = champion(plant)
    if serves is None or serves.release != held.release:
        return of_series(np.empty(0))  # it has just changed; the next look is about the new one
    since = evidence.seconds_of(serves.since) if serves.since else 0.0
    mark = drift.mark(plant, held, name)
    with Predictions.open(plant) as log:
        try:
            if name == ERRORS:
                return _errors(log, held, since, mark)
            if mark is not None and not log.since(int(mark) - 1, 1):
                drift.begin_anew(plant, held, name)  # the log was moved away, and counts from one again
                mark = None
            row = log.row_before(since) if mark is None else int(mark)
            return _predictions(log, held, row)
        except (ValueError, TypeError) as error:
            raise InterplantError(f"{log.path}: a row is damaged: {error}; move the file away") from None


def _predictions(log: Predictions, held: Against, row: int) -> Block:
    target = held.task.target
    rows, values, last = [], [], dict[str, float]()
    while page := log.since(row, _PAGE):
        row = page[-1].row
        for one in page:
            said = _said(one, held.release)
            if said is None:
                continue
            if one.machine is not None and one.at is not None:
                if last.get(one.machine) == one.at:
                    continue  # the same window, asked again
                last[one.machine] = one.at
            rows.append(one.row)
            values.append(said)
    if not rows:
        return of_series(np.empty(0))
    table = np.array(values, np.float64).reshape(len(values), target.outputs)
    return of_series(_series(target, table), np.array(rows, np.float64))


def _errors(log: Predictions, held: Against, since: float, mark: float | None) -> Block:
    target = held.task.target
    times, values, labels = [], [], []
    for one in _labelled(log, since) if mark is None else _labelled(log, mark, mark):
        said, label = _said(one, held.release), evidence.trained_label(target, one.label)
        if said is not None and label is not None and one.labelled_at is not None:
            times.append(one.labelled_at)
            values.append(said)
            labels.append(label)
    table = np.array(values, np.float64).reshape(len(values), target.outputs)
    return of_series(errors_of(target, table, np.array(labels, np.float64)), np.array(times, np.float64))


def _labelled(log: Predictions, since: float, before: float = -np.inf) -> Iterator[Prediction]:
    """Labelled predictions in the order in which labels came, each once; those ``before`` are left out."""
    while page := log.labelled(since=since, limit=_PAGE):
        new = [one for one in page if one.labelled_at is not None and one.labelled_at > before]
        if not new:
            return
        yield from new
        since = before = new[-1].labelled_at or 0.0


def _said(row: Prediction, release: str | None) -> tuple[float, ...] | None:
    """What a release has predicted, whether it was heard or stood beside."""
    if row.release == release:
        return row.prediction
    return row.challenger_prediction if row.challenger == release else None
