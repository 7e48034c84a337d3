"""When the monitor looks: a clock and a count that the test sets, no process."""

import threading
from pathlib import Path

import pytest

from interplant.client import moments, monitor
from interplant.client.directory import PlantDirectory
from interplant.client.monitor import Monitor, Rest
from interplant.client.predictions import Prediction, Predictions
from interplant.core.automation_config import PlantAutomation
from interplant.data.index import Index

from .conftest import edit

RULES = PlantAutomation(readings=10, rest_seconds=5.0, longest_seconds=60.0)


def test_readings_that_rest_are_looked_at_once() -> None:
    rest = Rest()
    assert not rest.due(RULES, 0, 0.0)
    assert not rest.due(RULES, 9, 10.0), "too few"
    assert not rest.due(RULES, 20, 11.0)
    assert not rest.due(RULES, 25, 15.0)
    assert not rest.due(RULES, 25, 19.9)
    assert rest.due(RULES, 25, 20.0)
    rest.looked(25, 25)
    assert not rest.due(RULES, 25, 99.0)


def test_readings_that_never_rest_are_looked_at_in_the_end() -> None:
    rest = Rest()
    looks = [second for second in range(200) if rest.due(RULES, 10 + second, float(second))]
    assert looks[0] == 60


def test_after_a_snapshot_the_count_begins_anew() -> None:
    rest = Rest()
    rest.due(RULES, 30, 0.0)
    rest.looked(30, 0)
    assert not rest.due(RULES, 0, 1.0), "the snapshot has taken them"
    assert not rest.due(RULES, 10, 2.0)
    assert rest.due(RULES, 10, 7.0)


def test_what_comes_while_a_snapshot_is_made_is_new() -> None:
    rest = Rest()
    rest.due(RULES, 30, 0.0)
    rest.looked(30, 12)
    assert not rest.due(RULES, 12, 1.0)
    assert rest.due(RULES, 12, 6.0)


class Clock:
    now = 0.0


@pytest.fixture
def watched(bare: PlantDirectory) -> PlantDirectory:
    (bare.path / "store").mkdir()
    edit(bare, lambda plant: setattr(plant, "automation", PlantAutomation(snapshots=True, rest_seconds=2.0)))
    return bare


def bring(plant: PlantDirectory, rows: int) -> None:
    Index(Path(plant.path / "store" / "index.db")).note("line", {"1": rows})


def test_the_monitor_counts_what_sources_bring_and_tries_again_after_a_failure(
    watched: PlantDirectory,
) -> None:
    looks: list[float] = []
    good = [False, True]
    own = Monitor(watched, lambda: looks.append(Clock.now) or good[len(looks) - 1], lambda: Clock.now)
    assert monitor.readings(watched) == 0
    bring(watched, 7)
    for second in range(60):
        Clock.now = float(second)
        own.step()
    assert looks == [2.0, 32.0]


def test_a_look_that_fails_is_tried_less_and_less_often(watched: PlantDirectory) -> None:
    looks: list[float] = []
    own = Monitor(watched, lambda: bool(looks.append(Clock.now)), lambda: Clock.now)
    bring(watched, 7)
    for second in range(5000):
        Clock.now = float(second)
        own.step()
    assert looks == [2.0, 32.0, 92.0, 212.0, 452.0, 932.0, 1892.0, 3812.0]


def test_a_look_that_was_killed_is_made_again_without_new_readings(watched: PlantDirectory) -> None:
    watched.look_begun.touch()
    own = Monitor(watched, lambda: not watched.look_begun.unlink(), lambda: 0.0)
    assert [own.step(), own.step()] == [True, False]


def test_predictions_and_labels_alone_are_a_reason_to_look(watched: PlantDirectory) -> None:
    """A plant may be asked, and corrected, while its sources bring nothing."""
    edit(watched, lambda plant: setattr(plant.automation, "watch", True))
    looks: list[float] = []
    own = Monitor(watched, lambda: looks.append(Clock.now) or True, lambda: Clock.now)

    def pass_by(seconds: int) -> list[float]:
        looks.clear()
        for _ in range(seconds):
            Clock.now += 1
            own.step()
        return looks

    Clock.now = 0.0
    rows = [Prediction(f"{number:032x}", 1.0, "r-1", (0.5,)) for number in range(120)]
    with Predictions.open(watched) as log:
        log.add(rows[:99])
        assert pass_by(10) == [], "no window is full"
        log.add(rows[99:])
        assert len(pass_by(10)) == 1
        assert pass_by(10) == []
        for one in rows[:19]:
            log.label(one.id, 1.0)
        assert pass_by(10) == []
        log.label(rows[19].id, 1.0)
        assert len(pass_by(10)) == 1, "twenty labels are a window of errors"
    watched.predictions.write_bytes(b"damaged")
    assert pass_by(10) == []


def test_a_typo_in_plant_yaml_ends_no_monitor(
    watched: PlantDirectory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "_TICK", 0.001)
    good, tried = watched.config.read_text(), []
    own = Monitor(watched, lambda: True, lambda: 0.0)
    stopping = threading.Event()

    def step() -> None:
        tried.append(1)
        watched.config.write_text("nmae: north\n" if len(tried) < 5 else good)
        stopping.set() if len(tried) == 6 else None
        own.step()

    moments.keep_on(step, stopping)
    assert len(tried) == 6
    (said,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "nothing happens by itself until that is mended" in said.message
