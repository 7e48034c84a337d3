"""Predictions reach the log behind the answers' back, in order, and a slow disk is noted, not waited for."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from interplant.client import recording
from interplant.client.predictions import Predictions, new_id
from interplant.client.recording import Answered, Recorder
from interplant.core.errors import InterplantError
from interplant.core.schema import Target

from ..waiting import until

Floats = NDArray[np.float32]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Predictions]:
    with Predictions(tmp_path / "predictions.db", 10_000) as opened:
        yield opened


def opens(log: Predictions) -> Predictions:
    return Predictions(log.path, log.keep)


def answered(count: int = 1, release: str = "r-1") -> Answered:
    return Answered([new_id() for _ in range(count)], 1000.0, release, np.arange(count, dtype=np.float32))


def test_everything_is_written_at_the_end(log: Predictions) -> None:
    recorder = Recorder(lambda: opens(log))
    for number in range(250):
        recorder.put(answered(3, f"r-{number}"))
    recorder.close()
    rows = log.since(0)
    assert [row.release for row in rows] == [f"r-{number}" for number in range(250) for _ in range(3)]
    assert recorder.lost == 0


def test_it_is_written_soon_without_an_end(log: Predictions) -> None:
    recorder = Recorder(lambda: opens(log))
    recorder.put(answered(2))
    until(lambda: log.count() == 2)
    recorder.put(answered(1))
    until(lambda: log.count() == 3)
    recorder.close()


def test_a_row_says_everything(log: Predictions) -> None:
    recorder = Recorder(lambda: opens(log))
    x = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    said: Future[Floats] = Future()
    said.set_result(np.log(x[::-1]))
    target = Target(kind="class", classes=["a", "b"])
    whole = Answered(["a", "b"], 1000.0, "r-1", x, ["m1", "m2"], [1.0, 2.0], True, "r-2", said, target)
    recorder.put(whole)
    recorder.close()
    row = log.since(0)[1]
    assert (row.id, row.machine, row.at, row.drifting) == ("b", "m2", 2.0, True)
    assert (row.prediction, row.challenger) == ((0.5, 0.5), "r-2")
    assert row.challenger_prediction == pytest.approx((0.25, 0.75))


def test_a_row_waits_a_little_for_the_word_of_the_other_release(log: Predictions) -> None:
    recorder = Recorder(lambda: opens(log))
    target, x = Target(10.0), np.array([0.5], np.float32)
    futures: list[Future[Floats]] = [Future(), Future(), Future()]
    for number, future in enumerate(futures):
        recorder.put(
            Answered([str(number)], time.time(), "r-1", x, beside=future, challenger="r-2", target=target)
        )
    futures[0].set_result(np.array([0.7], np.float32))
    futures[1].set_exception(InterplantError("it failed"))
    until(lambda: log.count() == 2)
    until(lambda: log.count() == 3)  # the last has waited long enough
    recorder.close()
    said = {row.id: row.challenger_prediction for row in log.since(0)}
    assert said == {"0": pytest.approx((7.0,)), "1": None, "2": None}


def test_a_label_comes_behind_the_prediction_that_it_is_for(log: Predictions) -> None:
    recorder = Recorder(lambda: opens(log))
    for _ in range(20):
        one = answered()
        recorder.put(one)
        assert recorder.ask(lambda log, id=one.ids[0]: log.label(id, 5.0)).result(30)  # type: ignore[misc]
    assert not recorder.ask(lambda log: log.label("unknown", 5.0)).result(30)
    with pytest.raises(ZeroDivisionError):
        recorder.ask(lambda _: 1 // 0).result(30)
    assert recorder.ask(Predictions.count).result(30) > 0, "the thread goes on"
    recorder.close()
    assert len(log.labelled()) == 20


def test_a_log_that_cannot_be_written_loses_predictions_not_answers(
    log: Predictions, caplog: pytest.LogCaptureFixture
) -> None:
    full = threading.Event()
    full.set()

    def opened() -> Predictions:
        if full.is_set():
            raise InterplantError("the disk is full")
        return opens(log)

    recorder = Recorder(opened)
    recorder.put(answered(3))
    until(lambda: recorder.lost == 3)
    with pytest.raises(InterplantError, match="the disk is full"):
        recorder.ask(lambda log: log.label("a", 1.0)).result(30)
    assert caplog.text.count("predictions are not logged: the disk is full") == 1
    full.clear()
    recorder.put(answered(2))
    recorder.close()
    assert (log.count(), recorder.lost) == (2, 3)


def test_a_log_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "predictions.db", tmp_path / "moved.db"
    recorder = Recorder(lambda: Predictions(path, 10_000))
    first, second = answered(), answered(2)
    recorder.put(first)
    assert recorder.ask(lambda log: log.label(first.ids[0], 5.0)).result(30)
    path.rename(moved)
    assert not recorder.ask(lambda log: log.label(first.ids[0], 6.0)).result(30)
    recorder.put(second)
    assert recorder.ask(lambda log: log.label(second.ids[1], 7.0)).result(30)
    recorder.close()
    for file, label, count in ((moved, 5.0, 1), (path, 7.0, 2)):
        with Predictions(file, 10_000) as log:
            assert ([row.label for row in log.labelled()], log.count()) == ([label], count)
    assert recorder.lost == 0


def test_a_log_that_is_brought_back_is_whole(tmp_path: Path) -> None:
    """It takes the place of the one that was begun meanwhile."""
    path, moved = tmp_path / "predictions.db", tmp_path / "moved.db"
    recorder = Recorder(lambda: Predictions(path, 10_000))
    for replace in (lambda: path.rename(moved), lambda: moved.replace(path), lambda: None):
        one = answered(100)
        recorder.put(one)
        assert recorder.ask(lambda log, one=one: log.label(one.ids[0], 5.0)).result(30)
        replace()
    recorder.close()
    with Predictions(path, 10_000) as log:
        assert (log.count(), recorder.lost) == (200, 0)


def test_what_may_wait_is_bounded(log: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST", 10)
    slow = threading.Event()

    def opened() -> Predictions:
        assert slow.wait(30)
        return opens(log)

    recorder = Recorder(opened)
    for _ in range(5):
        recorder.put(answered(4))
    assert recorder.lost == 12
    slow.set()
    recorder.close()
    assert log.count() == 8
