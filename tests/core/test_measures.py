"""Errors and scores of each kind, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from interplant.core.measures import MEASURES, Predicted, constant, error, scores
from interplant.core.targets import LOSSES, Target

EVENT = Target(kind="event")
CLASS = Target(kind="class", classes=["a", "b", "c"])
VALUE = Target(kind="value", low=10.0, high=20.0)


def of(target: Target, outputs: list[object], y: list[float]) -> dict[str, float]:
    return scores(target, Predicted(np.array(outputs, np.float32), np.array(y, np.float32)))


def log_odds(*shares: float) -> list[object]:
    return [math.log(share / (1.0 - share)) for share in shares]


def test_every_kind_has_an_error_that_is_among_its_scores() -> None:
    assert MEASURES.keys() == LOSSES.keys()
    outputs = {"class": np.zeros((2, 3), np.float32)}
    for target in (Target(), VALUE, EVENT, CLASS):
        found = Predicted(outputs.get(target.kind, np.zeros(2, np.float32)), np.ones(2, np.float32))
        assert error(target, found) == next(iter(scores(target, found).values()))
        assert math.isnan(error(target, Predicted(found.outputs[:0], found.y[:0])))


def test_times_and_values_are_in_the_labels_unit() -> None:
    assert of(Target(50.0), [0.5, 1.0], [22.0, 54.0])["rmse"] == pytest.approx(math.sqrt(12.5))
    found = of(VALUE, [0.0, 0.5, 1.0], [11.0, 15.0, 19.0])
    assert found["rmse"] == pytest.approx(math.sqrt(2.0 / 3.0))
    assert found["r2"] == pytest.approx(1.0 - 2.0 / 32.0)
    assert math.isnan(of(VALUE, [0.0, 0.5], [11.0, 11.0])["r2"])


def test_an_events_scores() -> None:
    found = of(EVENT, log_odds(0.9, 0.6, 0.4, 0.2, 0.7), [1, 0, 1, 0, 1])
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.09) / 5, abs=1e-6)
    assert found["auc"] == pytest.approx(5 / 6)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["mcc"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_a_hold_out_without_an_event_has_an_error_all_the_same() -> None:
    found = of(EVENT, log_odds(0.1, 0.2), [0, 0])
    assert found["brier"] == pytest.approx(0.025)
    assert math.isnan(found["auc"])
    assert (found["f1"], found["mcc"]) == (0.0, 0.0)


@given(
    some.lists(some.tuples(some.integers(-3, 3), some.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({happened for _, happened in pairs}) == 2
    )
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    events = [output for output, happened in pairs if happened]
    others = [output for output, happened in pairs if not happened]
    right = sum((one > two) + 0.5 * (one == two) for one in events for two in others)
    found = of(EVENT, [float(output) for output, _ in pairs], [float(happened) for _, happened in pairs])
    assert found["auc"] == pytest.approx(right / (len(events) * len(others)))


def test_classes_that_neither_are_nor_are_predicted_do_not_count() -> None:
    outputs: list[object] = [[5, 1, 0], [5, 1, 0], [0, 2, 1], [3, 1, 2]]
    found = of(CLASS, outputs, [0, 0, 1, 1])
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["macro_f1_missing"] == pytest.approx(1.0 - found["macro_f1"])
    assert found["accuracy"] == 0.75
    assert of(CLASS, outputs, [0, 0, 1, 2])["macro_f1"] == pytest.approx((0.8 + 1.0 + 0.0) / 3)


def test_what_predicts_always_the_same() -> None:
    y = np.array([0, 1, 1, 1], np.float32)
    assert error(EVENT, Predicted(constant(EVENT, y, 4), y)) == pytest.approx(0.75 * 0.25)
    assert constant(CLASS, y, 2).argmax(axis=1).tolist() == [1, 1]
    assert constant(VALUE, y + 14, 3).tolist() == pytest.approx([0.475] * 3)
    assert constant(Target(50.0), y, 1).tolist() == pytest.approx([0.015])
    assert np.isfinite(constant(EVENT, np.zeros(3, np.float32), 2)).all()
