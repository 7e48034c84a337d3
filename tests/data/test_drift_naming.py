"""Drifts that are planted: found, and named as what they are."""

import numpy as np
import pytest

from interplant.data.blocks import of_series
from interplant.data.diagnosis import KINDS, diagnose, likely, shape
from interplant.data.drift import Monitor, Watched
from interplant.data.survey import build

from .drifts import BEGIN, NAMES, SIZES, WINDOW, found


@pytest.mark.parametrize("place", range(4), ids=NAMES)
@pytest.mark.parametrize("sign", [1, -1])
def test_half_a_standard_deviation_on_one_sensor_is_found_and_named(place: int, sign: int) -> None:
    def change(after: np.ndarray) -> None:
        after[:, place] += sign * 0.5 * SIZES[place]

    first, *more = found(change, windows=100)
    assert (first.sensor, first.kind, first.other) == (NAMES[place], "offset", "")
    assert BEGIN <= first.windows[1] < BEGIN + 30
    assert abs(first.windows[0] - BEGIN) <= 3
    assert sign * first.evidence["offset"] == pytest.approx(0.5 * SIZES[place], rel=0.9)
    assert abs(first.statistic) > first.threshold
    assert more == []


@pytest.mark.parametrize("place", range(4), ids=NAMES)
def test_a_large_offset_is_one_sensors_and_not_its_neighbours(place: int) -> None:
    def change(after: np.ndarray) -> None:
        after[:, place] += 20 * SIZES[place]

    assert [(one.sensor, one.kind) for one in found(change)] == [(NAMES[place], "offset")]


@pytest.mark.parametrize("place", range(3), ids=NAMES[:3])
def test_a_factor_is_told_from_an_offset(place: int) -> None:
    def change(after: np.ndarray) -> None:
        after[:, place] *= 1.4

    (event,) = found(change)
    assert (event.sensor, event.kind) == (NAMES[place], "scaled")
    assert event.evidence["factor"] == pytest.approx(1.4, abs=0.08)


@pytest.mark.parametrize("place", range(4), ids=NAMES)
def test_a_slow_trend_is_named_so_once_it_can_be_told_from_a_step(place: int) -> None:
    def change(after: np.ndarray) -> None:
        after[:, place] += 0.03 * SIZES[place] * (np.arange(len(after)) // WINDOW)

    events = found(change, windows=80)
    assert {one.sensor for one in events} == {NAMES[place]}
    assert events[-1].kind == "drifting"
    assert events[-1].windows[1] < BEGIN + 40
    assert abs(events[-1].windows[0] - BEGIN) < 12


@pytest.mark.parametrize("place", range(4), ids=NAMES)
def test_a_stuck_sensor_is_named_with_its_run(place: int) -> None:
    def change(after: np.ndarray) -> None:
        after[30:, place] = after[30, place]

    first, *more = found(change)
    assert (first.sensor, first.kind, first.test) == (NAMES[place], "stuck", "run")
    assert first.windows[1] == BEGIN
    assert first.statistic >= first.threshold > first.evidence["longest_of_reference"]
    assert more == []


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 3), (1, 2), (2, 3)])
def test_two_sensors_that_changed_places_are_named_together(one: int, other: int) -> None:
    def change(after: np.ndarray) -> None:
        after[:, [one, other]] = after[:, [other, one]]

    (event,) = found(change)
    assert (event.kind, {event.sensor, event.other}) == ("swapped", {NAMES[one], NAMES[other]})
    assert event.evidence["of_threshold"] > 1 > event.evidence["of_threshold_changed_back"]


def test_noise_is_told_from_a_shift() -> None:
    def change(after: np.ndarray) -> None:
        after[:, 0] += 2 * SIZES[0] * np.random.default_rng(2).normal(size=len(after))

    (event,) = found(change)
    assert (event.sensor, event.kind) == ("heat", "noise")
    assert event.evidence["scatter"] > 2


def test_sensors_that_move_as_they_always_do_together_are_the_process() -> None:
    def change(after: np.ndarray) -> None:
        after[:, :3] += 1.2 * 0.9 * SIZES[:3]

    events = found(change)
    assert {one.kind for one in events} == {"process"}
    assert {one.sensor for one in events} <= {"heat", "flow", "power"}


def test_a_sensor_that_is_gone_is_named_as_missing() -> None:
    def change(after: np.ndarray) -> None:
        after[:, 1] = np.nan

    (event,) = found(change)
    assert (event.sensor, event.kind, event.statistic) == ("flow", "missing", WINDOW)


def test_two_faults_are_two_events() -> None:
    def change(after: np.ndarray) -> None:
        after[:, 0] += 3 * SIZES[0]
        after[:, 3] -= 3 * SIZES[3]

    assert {(one.sensor, one.kind) for one in found(change)} == {("heat", "offset"), ("noise", "offset")}


# --- closed forms ---------------------------------------------------------------------------------


def test_a_ramp_and_a_step_are_told_apart_and_dated() -> None:
    noise = 0.3 * np.random.default_rng(0).normal(size=40)
    step, ramp = np.zeros(40), np.zeros(40)
    step[25:], ramp[25:] = 3.0, 0.4 * np.arange(1, 16)
    assert shape(step + noise) == (14, False)
    since, is_ramp = shape(ramp + noise)
    assert is_ramp
    assert abs(since - 14) <= 2


def test_a_single_far_window_is_a_step() -> None:
    assert shape(np.r_[np.zeros(30), 8.0]) == (0, False)


def test_likely_finds_the_offset_the_factor_and_the_scatter() -> None:
    random = np.random.default_rng(0)
    expected, error = random.normal(50, 10, size=2000), random.normal(size=2000)
    moved = likely(expected + 7 + error, expected, 1.0)
    assert moved["offset"] == pytest.approx(7, abs=0.1)
    assert moved["likelihood_offset"] > moved["likelihood_scaled"] + 100
    scaled = likely(1.2 * (expected + error), expected, 1.0)
    assert scaled["factor"] == pytest.approx(1.2, abs=0.01)
    assert scaled["likelihood_scaled"] > scaled["likelihood_offset"] + 100
    noisy = likely(expected + 4 * error, expected, 1.0)
    assert noisy["scatter"] == pytest.approx(4, rel=0.15)
    assert noisy["likelihood_noise"] > noisy["likelihood_offset"] + 100


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e99])
def test_a_window_of_one_strange_value_is_diagnosed_without_a_fault(value: float) -> None:
    window, nothing = np.full(5, value), np.zeros(3)
    alarms = np.array([False, False, True])
    kind, since, evidence = diagnose(window, np.zeros(5), 0.0, np.zeros((1, 3)), nothing, alarms, np.ones(3))
    assert kind in KINDS
    assert since == 0
    assert np.isfinite(list(evidence.values())).all()


def test_the_culprit_is_named_though_a_neighbour_is_further_beyond_its_threshold() -> None:
    """Slow errors of its own give a sensor a wide threshold; those that are read with it have narrow ones."""

    def readings(windows: int, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        load, *own = random.normal(size=(4, windows * WINDOW))
        slow = np.repeat(random.normal(size=windows), WINDOW)
        mixed = [own[0] * 0.3 + slow * 0.4, own[1] * 0.5, own[2] * 0.5]
        return np.column_stack([3 * load + one for one in mixed])

    held = build(lambda: [of_series(readings(200, 0))], ["slow", "second", "third"], WINDOW)
    live = readings(40, 1)
    live[BEGIN * WINDOW :, 0] += 4.0
    monitor = Monitor(held, Watched("d"))
    (event,) = monitor.watch([of_series(live)])
    assert (event.sensor, event.kind) == ("slow", "offset")
    ratios = monitor.limits.interval.parts(monitor.state.history[BEGIN])
    assert np.abs(ratios[4]) > np.abs(ratios[[0, 3, 6]]).max()
