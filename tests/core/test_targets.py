"""Kinds of target: which values can be, and how labels are scaled; the measures of each stand beside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.core.targets import Target, restored, scaled, unit

PLAIN = """\
name: press
contract:
  label: state
  sensors:
    heat: {unit: K, low: 0, high: 100}
"""


def load(tmp_path: Path, text: str, *words: str) -> Task:
    path = tmp_path / "task.yaml"
    path.write_text(PLAIN + text)
    return config.load(path, Task, words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target: {kind: failure}", ":6: target.kind: expected one of time_to_failure, value, event, class"),
        ("target:\n  low: 3\n  high: 3", ":7: target.low: expected less than target.high (3), found 3"),
        ("target: {kind: event, horizon: -1}", ":6: target.horizon: expected 0 or more, found -1"),
        ("target: {kind: class, classes: [3]}", ":6: target.classes: expected 2 to 1000 values of the label"),
        (
            "target: {kind: class, classes: [3, high]}",
            ":6: target.classes: expected numbers alone or text alone",
        ),
        ("target: {kind: class, classes: [true, false]}", ":6: target.classes: expected numbers alone"),
        ("target: {kind: class, classes: [3, 3]}", ":6: target.classes: expected each once, found [3, 3]"),
        ("target: {kind: class, classes: [3, 20]}", " training.loss: expected cross_entropy for target.kind"),
        (
            "target: {kind: event}\ntraining:\n  loss: mse",
            ":8: training.loss: expected bce for target.kind event, found 'mse'",
        ),
        ("target: {kind: value}\ntraining: {loss: bce}", ":7: training.loss: expected mse or huber"),
        ("training: {loss: cross_entropy}", ":6: training.loss: expected mse or huber for target.kind time"),
        (
            "target: {kind: event, horizon: 5}\ntraining: {loss: bce}\nwindow: {length: 1}\n"
            "privacy: {unit: row}",
            ":9: privacy.unit: expected target.horizon 0, found 5: a row would tell the labels of many",
        ),
        ("window: {features: [median]}", ":6: window.features: expected mean, std, slope, min, max or band1"),
        ("window: {features: [mean, mean]}", ":6: window.features: expected each once"),
        (
            "window: {features: [band3], length: 5}",
            ":6: window.features: expected at most 2 bands in windows",
        ),
        ("window: {features: [band0]}", ":6: window.features: expected mean"),
    ],
)
def test_what_cannot_be_is_refused_with_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as failure:
        load(tmp_path, text)
    assert "task.yaml" in str(failure.value)
    assert said in str(failure.value)


def test_each_kind_with_its_losses(tmp_path: Path) -> None:
    assert load(tmp_path, "").target == Target(125.0, "time_to_failure")
    for kind, loss in {"value": "huber", "event": "bce"}.items():
        made = load(tmp_path, f"target: {{kind: {kind}}}\ntraining: {{loss: {loss}}}")
        assert (made.target.outputs, made.shape) == (1, (1, 30))
    words = ("target.kind=class", "target.classes=[low,high,torn]", "training.loss=cross_entropy")
    assert load(tmp_path, "", *words).target.outputs == 3


def test_features_take_the_place_of_readings(tmp_path: Path) -> None:
    made = load(tmp_path, "window: {features: [mean, band2, band1], length: 8}")
    assert (made.shape, made.channels, made.window.bands) == ((3, 1), 3, 2)


def test_labels_are_scaled_and_predictions_come_back() -> None:
    y = np.array([20.0, 40.0, 90.0], np.float32)
    value = Target(kind="value", low=20.0, high=60.0)
    assert scaled(value, y).tolist() == [0.0, 0.5, 1.75]
    assert scaled(Target(50.0), y).tolist() == pytest.approx([0.4, 0.8, 1.8])
    for target in (value, Target(50.0)):
        assert restored(target, scaled(target, y).astype(np.float64)).tolist() == pytest.approx(y.tolist())
    assert scaled(Target(kind="event"), y) is y
    assert scaled(Target(kind="class", classes=[1, 2]), y).dtype == np.float32


def test_a_unit_says_what_an_output_means() -> None:
    said = Target(kind="class", classes=["low", "high"])
    assert "low, high" in unit(said)
    assert "probability" in unit(replace(said, kind="event"))
    assert "0 is -5 and 1 is 5" in unit(Target(kind="value", low=-5.0, high=5.0))
    assert unit(Target(130.0)) == "units of 130 cycles"
