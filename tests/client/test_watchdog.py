"""A champion whose run does not end is noted, and the release before it serves."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from interplant.client import champion, history, watchdog
from interplant.client.history import Step
from interplant.client.serving_status import serving_status
from interplant.client.status import status
from interplant.client.watchdog import Watchdog

from ..waiting import until
from . import onnx_models
from .conftest import edit
from .federation import Federation
from .served import TASK, plant_with, readings, serving

HOT = [[9.5, 395.0]] * 4
"""Normalised, its mean is 0.925."""

MILD = [[4.0, 290.0]] * 4


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[tuple[Watchdog, list[object]]]:
    hung: list[object] = []
    watch = Watchdog(seconds, hung.append)
    try:
        yield watch, hung
    finally:
        watch.close()


def test_a_run_that_takes_the_processor_for_too_long_is_told() -> None:
    with watched(0.05) as (watch, hung):
        watch.begin("r-1")
        begun = time.thread_time()
        while not hung and time.thread_time() - begun < 20.0:
            pass
        assert hung == ["r-1"]


def test_a_run_that_waits_for_the_processor_is_not() -> None:
    """As on a machine that stood still, or has other things to do."""
    with watched(0.02) as (watch, hung):
        watch.begin("r-1")
        time.sleep(0.5)
        watch.end()
        assert hung == []


def test_many_short_runs_are_none_that_is_long() -> None:
    with watched(0.05) as (watch, hung):
        begun = time.thread_time()
        while time.thread_time() - begun < 0.5:
            watch.begin("r-1")
            watch.end()
        assert hung == []


@pytest.mark.parametrize(
    ("latency", "batch", "seconds"), [(50.0, 64, 9.6), (50.0, 1, 5.0), (0.1, 64, 5.0), (1000.0, 1, 100.0)]
)
def test_what_a_run_may_take(latency: float, batch: int, seconds: float) -> None:
    assert watchdog.limit(latency, batch) == pytest.approx(seconds)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return plant_with(tmp_path, monkeypatch)


def looping(federation: Federation, name: str) -> None:
    """Make a release the champion that passes every gate and loops where its windows are hot."""
    folder = federation.make(name, 0.0, TASK)
    onnx_models.write(folder / "model.onnx", "loop_later", 10**15)
    federation.sign_again(folder)
    federation.deliver(folder)
    champion.activate(federation.plant, name)


def test_a_champion_that_loops_makes_way_for_the_one_before_it(federation: Federation) -> None:
    looping(federation, "r-3")
    edit(federation.plant, lambda settings: setattr(settings.policy.release, "latency_ms", 1.0))
    with serving(federation.plant, "from interplant.client import watchdog; watchdog.LEAST = 0.2") as asking:
        assert asking.infer(readings([MILD]))["model_version"] == "r-3"
        asker = threading.Thread(target=_without_an_answer, args=(str(asking.client.base_url),))
        asker.start()
        assert asking.child.wait(60) == 1
        asker.join()
    assert "release r-3: a run took more than 0.2 s" in (federation.plant.path / "serving.log").read_text()
    with serving(federation.plant) as asking:
        assert asking.predict([HOT]) == [pytest.approx(18.0)]
        assert asking.release == "r-1"
        said = status(federation.plant).serving
        assert said.release == "r-1"
        assert said.trouble.startswith("release r-3: a run of its model did not end")
        champion.activate(federation.plant, "r-2")
        until(lambda: serving_status(federation.plant).trouble == "")
        assert asking.release == "r-2"


def _without_an_answer(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/v2/models/wear/infer", json={"inputs": [readings([HOT])]}, timeout=60)


def test_the_way_back_passes_over_all_that_hung(federation: Federation) -> None:
    plant = federation.plant
    for name in ("r-0", "r-1"):
        history.append(plant, Step("then", name, "active", "", ""))
    now = champion.activate(plant, "r-2")
    assert watchdog.passed_over(plant, now, ["r-2", "r-1"]) == (["r-2", "r-1"], "")
    watchdog.note(plant, "r-2")
    names, why = watchdog.passed_over(plant, now, ["r-2", "r-1"])
    assert names == ["r-1", "r-0"]
    assert why.endswith("the release before it serves")
    watchdog.note(plant, "r-1")
    assert watchdog.passed_over(plant, now, ["r-2", "r-1"])[0] == ["r-0"]


def test_a_champion_alone_serves_on(federation: Federation) -> None:
    now = champion.champion(federation.plant)
    assert now is not None
    watchdog.note(federation.plant, "r-1")
    names, why = watchdog.passed_over(federation.plant, now, ["r-1", None])
    assert names == ["r-1"]
    assert why.endswith("there is none before it to serve")


def test_who_makes_it_the_champion_again_has_it_served(federation: Federation) -> None:
    champion.activate(federation.plant, "r-2")
    watchdog.note(federation.plant, "r-2")
    champion.activate(federation.plant, "r-1")
    now = champion.activate(federation.plant, "r-2")
    assert watchdog.passed_over(federation.plant, now, ["r-2", "r-1"]) == (["r-2", "r-1"], "")


def test_a_spoilt_note_ends_nothing(federation: Federation) -> None:
    now = champion.champion(federation.plant)
    assert now is not None
    for text in ("{", "[]", '{"r-1": 7}', '{"r-1": {}}'):
        federation.plant.hung.write_text(text)
        assert watchdog.passed_over(federation.plant, now, ["r-1"]) == (["r-1"], "")
