"""Predictions and errors as a series: what is an alarm, how it is called, and how often chance raises one."""

import numpy as np
import pytest
from scipy.stats import binomtest

from interplant.data.blocks import of_series
from interplant.data.contract import Floats
from interplant.data.drift import QUIET, Monitor, Watched
from interplant.data.events import ERRORS, INPUTS, PREDICTIONS, Event
from interplant.data.reference import Reference
from interplant.data.survey import build

WINDOW = 20


def reference(past: Floats, name: str, *columns: str) -> Reference:
    return build(lambda: [of_series(past)], columns or [name], WINDOW)


def found(past: Floats, live: Floats, name: str, *columns: str) -> list[Event]:
    return Monitor(reference(past, name, *columns), Watched("d", "r-1", name)).watch([of_series(live)])


def errors(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).gamma(2.0, 5.0, size=count)


def test_predictions_that_move_either_way_are_an_alarm() -> None:
    past, now = errors(3000, 0), errors(1000, 1)
    assert found(past, now, PREDICTIONS) == []
    for moved in (now + 10, now / 3):
        (event,) = found(past, moved, PREDICTIONS)
        assert (event.watched, event.sensor, event.kind) == (PREDICTIONS, PREDICTIONS, "prediction")
        assert event.evidence["median"] != pytest.approx(event.evidence["median_of_reference"], rel=0.3)


def test_errors_that_rise_are_an_alarm_and_errors_that_fall_are_none() -> None:
    past, now = errors(3000, 0), errors(1000, 1)
    (event,) = found(past, 2 * now, ERRORS)
    assert (event.watched, event.sensor, event.kind) == (ERRORS, ERRORS, "error")
    assert event.statistic > event.threshold > 0
    assert found(past, now / 3, ERRORS) == []
    assert found(past, now, ERRORS) == []


def test_errors_that_rise_by_little_are_found_by_their_trend() -> None:
    (event,) = found(errors(6000, 0), 1.35 * errors(8000, 1), ERRORS)
    assert event.test == "level trend"
    assert event.kind == "error"


def test_a_rise_that_ended_and_came_back_is_a_new_event() -> None:
    live = errors((QUIET + 60) * WINDOW, 1)
    for begin in (10, QUIET + 40):
        live[begin * WINDOW : (begin + 10) * WINDOW] *= 4
    events = found(errors(3000, 0), live, ERRORS)
    assert [one.windows[1] for one in events] == [10, QUIET + 40]


def scores(count: int, shares: list[float], seed: int) -> Floats:
    random = np.random.default_rng(seed)
    chosen = random.choice(len(shares), size=count, p=shares)
    raw = random.gamma(1.0, size=(count, len(shares)))
    raw[np.arange(count), chosen] += 20.0
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def test_of_classes_the_one_is_named_that_moved_most() -> None:
    names = ("good", "worn", "broken")
    past = scores(4000, [0.8, 0.1, 0.1], 0)
    assert found(past, scores(1000, [0.8, 0.1, 0.1], 1), PREDICTIONS, *names) == []
    (event,) = found(past, scores(1000, [0.3, 0.1, 0.6], 1), PREDICTIONS, *names)
    assert event.sensor in ("good", "broken")
    assert event.kind == "prediction"


def autocorrelated(count: int, random: np.random.Generator, rho: float = 0.6) -> Floats:
    steps = np.sqrt(1 - rho**2) * random.normal(size=count)
    for place in range(1, count):
        steps[place] += rho * steps[place - 1]
    return steps


def test_over_inputs_predictions_and_errors_together_no_more_alarm_by_chance_than_stated() -> None:
    """A rate that can be seen in seconds, on data as autocorrelated as their references: 3 in 100 windows.

    Errors have windows of a fifth, which may alarm a fifth as often, so that as many errors do as readings.
    """
    stated, windows, alarms = 300.0, 0, {INPUTS: 0, PREDICTIONS: 0, ERRORS: 0}
    for seed in range(8):
        random = np.random.default_rng(seed)
        for name, window, count in ((INPUTS, 50, 4), (PREDICTIONS, 50, 1), (ERRORS, 10, 1)):
            past, live = (
                np.column_stack([autocorrelated(length, random) for _ in range(count)])
                for length in (3000, 200 * 50)
            )
            if name == ERRORS:
                past, live = np.abs(past), np.abs(live)
            columns = [f"{name} {number}" for number in range(count)]
            held = build(lambda past=past: [of_series(past)], columns, window)  # type: ignore[misc]
            watched = Watched("d", name=name, false_alarms=stated / 3 * window / 50)
            alarms[name] += len({one.windows[1] for one in Monitor(held, watched).watch([of_series(live)])})
        windows += 200
    low, high = binomtest(sum(alarms.values()), windows).proportion_ci(0.95, "exact")
    assert low <= high <= 1.2 * stated / 10_000, alarms
    for count in alarms.values():
        assert binomtest(count, windows, stated / 3 / 10_000, "greater").pvalue > 0.01, alarms
