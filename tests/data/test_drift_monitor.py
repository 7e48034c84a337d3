"""The monitor: each reading once, a restart that changes nothing, events that last."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interplant.core.errors import InterplantError
from interplant.data import events, memory
from interplant.data.blocks import Block, of_series
from interplant.data.detectors import HORIZON
from interplant.data.drift import QUIET, Monitor, State, Watched
from interplant.data.drift_plot import draw
from interplant.data.events import Event
from interplant.data.survey import build

from .drifts import BEGIN, NAMES, SIZES, WINDOW, live, monitor, reference, values


def offset(after: np.ndarray) -> None:
    after[:, 0] += 3 * SIZES[0]


def plain(found: list[Event]) -> list[Event]:
    """Without the time at which they were written."""
    return [replace(one, written="") for one in found]


def test_readings_that_were_seen_make_no_second_event() -> None:
    watching = monitor()
    assert len(watching.watch([live(offset)])) == 1
    windows = watching.state.windows
    assert watching.watch([live(offset)]) == []
    assert watching.state.windows == windows == 40


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40 * WINDOW - 1), max_size=6, unique=True))
@example([1])
@example([BEGIN * WINDOW + 7, BEGIN * WINDOW + 8])
def test_readings_in_any_pieces_over_restarts_make_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    """A restart after each piece; what does not fill a window is brought again."""
    block, path = live(offset), tmp_path_factory.mktemp("drift") / "state.npz"
    found = []
    for end in [*sorted(cuts), len(block)]:
        watching = Monitor(reference(), monitor().watched, memory.load(path))
        found += watching.watch([block[:end]])
        memory.save(path, watching.state)
    whole = monitor()
    assert plain(found) == plain(whole.watch([block]))
    again = memory.load(path)
    assert again.windows == whole.state.windows
    assert (again.active, again.kinds, again.marks) == (
        whole.state.active,
        whole.state.kinds,
        whole.state.marks,
    )
    assert np.array_equal(again.history, whole.state.history)


def test_a_restart_in_the_middle_of_a_trend_forgets_nothing() -> None:
    """The trend is too small for any one window: it is found by what the detector remembers."""

    def small(after: np.ndarray) -> None:
        after[:, 3] += 0.4 * SIZES[3]

    block = live(small, windows=120, seed=4)
    once = monitor().watch([block])
    assert once[0].test.endswith("trend")
    state, found = State(), []
    assert BEGIN < once[0].windows[1] < 100
    for end in range(WINDOW, 121 * WINDOW, 15 * WINDOW + 7):
        watching = Monitor(reference(), monitor().watched, state)
        found += watching.watch([block[:end]])
    assert plain(found) == plain(once)


def test_trends_are_sought_anew_after_the_horizon() -> None:
    watching = monitor()
    watching.watch([live(None, windows=HORIZON + 3)])
    again = Monitor(reference(), watching.watched, watching.state)
    assert again.state.windows % HORIZON == 3
    assert again.watch([live(None, windows=HORIZON + 3)]) == []


def test_a_drift_that_ended_and_came_back_is_a_new_event() -> None:
    readings = values(BEGIN + QUIET + 40, 1)
    for begin in (BEGIN, BEGIN + QUIET + 20):
        readings[begin * WINDOW : (begin + 10) * WINDOW, 0] += 5 * SIZES[0]
    found = monitor().watch([of_series(readings)])
    assert [one.windows[1] for one in found] == [BEGIN, BEGIN + QUIET + 20]
    assert len({one.id for one in found}) == 2


def test_each_machine_has_its_own_place() -> None:
    block = live(None, windows=4)
    machine = np.arange(len(block)) % 3
    watching = monitor()
    watching.watch([replace(block, machine=machine)])
    assert set(watching.state.marks) == {0, 1, 2}
    # A machine that was not there yet is new, whatever its times are.
    watching.watch([replace(block, machine=np.full(len(block), 9))])
    assert watching.state.windows == 8


def test_nothing_and_less_than_a_window_are_waited_for() -> None:
    watching = monitor()
    for count in (0, 1, WINDOW - 1):
        assert watching.watch([live()[:count]]) == []
        assert watching.state.windows == 0
        assert watching.state.marks == {}
    watching.watch([live()[:WINDOW]])
    assert watching.state.windows == 1


STRANGE = [np.nan, np.inf, -np.inf, 0.0, 1e308, -1e308, 1e-308, 400.0]


@settings(max_examples=12, deadline=None)
@given(arrays(np.float64, (2 * WINDOW, 4), elements=st.sampled_from(STRANGE)))
@example(np.full((2 * WINDOW, 4), np.nan))
@example(np.full((2 * WINDOW, 4), np.inf))
@example(np.zeros((2 * WINDOW, 4)))
def test_whatever_comes_is_compared_and_what_is_said_is_json(readings: np.ndarray) -> None:
    found = monitor().watch([of_series(readings)])
    assert found
    for one in found:
        assert np.isfinite(one.statistic)
        json.dumps(asdict(one), allow_nan=False)


def test_one_sensor_alone_can_be_watched() -> None:
    held = build(lambda: [of_series(np.random.default_rng(0).normal(size=2000))], ["only"], 20)
    live = np.random.default_rng(1).normal(2.0, size=200)
    assert {one.sensor for one in Monitor(held, Watched("d")).watch([of_series(live)])} == {"only"}


# --- what is kept ---------------------------------------------------------------------------------


def test_a_state_that_is_not_there_is_new_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    assert memory.load(path).windows == 0
    watching = monitor()
    watching.watch([live(offset)])
    memory.save(path, watching.state)
    assert path.stat().st_mode & 0o777 == 0o600
    assert memory.load(path).kinds == {"heat": "offset"}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InterplantError, match="remove it"):
        memory.load(path)


def test_events_are_written_once_and_read_back(tmp_path: Path) -> None:
    path, found = tmp_path / "drift.jsonl", monitor().watch([live(offset)])
    assert events.append(path, found) == found
    assert events.append(path, monitor().watch([live(offset)])) == []
    assert events.read(path) == found
    assert path.read_text().count("\n") == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_has_cut_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "drift.jsonl"
    first, second = (
        monitor().watch(
            [
                live(offset),
            ]
        ),
        monitor().watch([live(offset, seed=5)]),
    )
    second = [replace(one, id="0" * 16) for one in second]
    events.append(path, [*first, *second])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert events.read(path) == first
    assert events.append(path, second) == second
    assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "drift.jsonl"
    events.append(path, monitor().watch([live(offset)]))
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(InterplantError, match="a line is damaged"):
        events.read(path)


def test_a_full_disk_is_said_and_nothing_half_is_believed(tmp_path: Path, full_disk) -> None:  # type: ignore[no-untyped-def]
    path, found = tmp_path / "drift.jsonl", monitor().watch([live(offset)])
    with full_disk(100), pytest.raises(InterplantError, match="the disk is full"):
        events.append(path, found)
    assert events.read(path) == []
    assert events.append(path, found) == found


def test_the_picture_is_a_png_of_every_sensor(tmp_path: Path) -> None:
    watching = monitor()
    found = watching.watch([live(offset)])
    draw(watching, found, tmp_path / "p.png")
    picture = (tmp_path / "p.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    draw(watching, [], tmp_path / "q.png")
    assert (tmp_path / "q.png").read_bytes() != picture
    draw(monitor(), [], tmp_path / "empty.png")


def test_an_event_says_what_it_was_found_with() -> None:
    (event,) = monitor().watch([live(offset)])
    assert (event.snapshot, event.release, event.false_alarms) == ("d" * 64, "turbofan-1", 1.0)
    assert event.times == (BEGIN * WINDOW, (BEGIN + 1) * WINDOW - 1)
    assert event.readings == WINDOW
    assert event.sensor in NAMES


def test_blocks_of_no_readings_change_nothing() -> None:
    empty = Block(np.empty(0, np.int64), np.empty(0), np.empty((0, 4)), np.empty(0, np.intp))
    assert monitor().watch([empty, live(), empty]) == []
