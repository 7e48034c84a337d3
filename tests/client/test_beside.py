"""A second release answers beside the champion: real processes, real ONNX, whatever the second one does."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from interplant.client import champion as pointers
from interplant.client import tally
from interplant.client.beside import answers_itself, place
from interplant.client.champion import CANARY, PROBATION, SHADOW, Challenger
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions
from interplant.client.tally import Tally

from ..waiting import until
from . import onnx_models
from .conftest import edit
from .federation import Federation
from .served import COLD, TASK, Asking, plant_with, readings, serving


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return plant_with(tmp_path, monkeypatch)


@contextmanager
def beside(plant: PlantDirectory, stage: str, share: float = 0.0, release: str = "r-2") -> Iterator[Asking]:
    """Serving, with a release that is ready to answer beside the champion."""
    pointers.challenge(plant, release, stage, share)
    with serving(plant) as asking:
        until(lambda: bool(processes_of(asking)) and asked(asking))
        yield asking


def asked(asking: Asking) -> bool:
    """Whether the second release has been asked, once it is ready."""
    asking.infer(readings())
    second = pointers.challenger(asking.plant)
    assert second is not None
    return tally.of(asking.plant, second).requests > 0


def processes_of(asking: Asking) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(asking.child.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "interplant.client.beside_process" in child.cmdline():
                found.append(child)
    return found


def counts(asking: Asking) -> Tally:
    second = pointers.challenger(asking.plant)
    assert second is not None
    return tally.of(asking.plant, second)


def rows(asking: Asking) -> list[Prediction]:
    with Predictions.open(asking.plant) as log:
        return log.since(0, 100_000)


def broken(federation: Federation, kind: str, turns: int = 1, name: str = "r-3") -> None:
    """A release with another ONNX than its weights say, signed all the same."""
    folder = federation.make(name, 0.1, TASK)
    onnx_models.write(folder / "model.onnx", kind, turns)
    federation.sign_again(folder)
    federation.deliver(folder)


# --- shadow ----------------------------------------------------------------------------------------


def test_in_its_shadow_the_champion_alone_is_heard_and_both_are_logged(federation: Federation) -> None:
    with beside(federation.plant, SHADOW) as asking:
        for _ in range(20):
            answer = asking.infer(readings([COLD, COLD]))
            assert answer["parameters"]["release"] == "r-1"
            assert answer["outputs"][0]["data"] == pytest.approx([12.0, 12.0], abs=1e-3)
        until(lambda: len([row for row in rows(asking) if row.challenger_prediction]) >= 40)
        for row in rows(asking)[-40:]:
            assert (row.release, row.challenger) == ("r-1", "r-2")
            assert row.prediction == pytest.approx((12.0,), abs=1e-3)
            assert row.challenger_prediction == pytest.approx((14.0,), abs=1e-3)
        until(lambda: counts(asking).predictions >= 40)
        found = counts(asking)
        assert (found.heard, found.failures, found.champion_failures) == (0, 0, 0)


def test_a_label_that_comes_at_once_finds_its_prediction(federation: Federation) -> None:
    with beside(federation.plant, SHADOW) as asking:
        for label in range(5):
            id = asking.infer(readings())["outputs"][1]["data"][0]
            asking.post("/feedback", {"prediction_id": id, "label": label})


def test_without_a_pointer_nothing_answers_beside(federation: Federation) -> None:
    with beside(federation.plant, SHADOW) as asking:
        pointers.withdraw(federation.plant)
        until(lambda: not processes_of(asking))
        asking.predict()
        until(lambda: rows(asking)[-1].challenger is None)


# --- canary ----------------------------------------------------------------------------------------


def test_a_canary_answers_its_share_of_the_machines_and_a_machine_stays(federation: Federation) -> None:
    with beside(federation.plant, CANARY, 0.5) as asking:
        second = pointers.challenger(federation.plant)
        assert second is not None
        heard = {}
        for turn in range(3):
            for number in range(20):
                name = f"m{number}"
                machine = {"name": "machine", "datatype": "BYTES", "shape": [1], "data": [name]}
                answer = asking.infer(readings(), machine)
                release = answer["parameters"]["release"]
                assert answer["model_version"] == release
                assert heard.setdefault(name, release) == release, f"turn {turn}"
                expected = 12.0 if release == "r-1" else 14.0
                assert answer["outputs"][0]["data"] == pytest.approx([expected], abs=1e-3)
        shares = {name: "r-2" if answers_itself(second, [name]) else "r-1" for name in heard}
        assert heard == shares
        assert set(heard.values()) == {"r-1", "r-2"}
        until(lambda: len([row for row in rows(asking) if row.machine and row.challenger_prediction]) == 60)
        for row in rows(asking):
            if row.machine:
                assert {row.release, row.challenger} == {"r-1", "r-2"}
                assert row.release == heard[row.machine]
        until(lambda: counts(asking).heard >= 3 * list(heard.values()).count("r-2"))


def test_machines_of_both_models_in_one_request_and_a_named_version_get_the_champion(
    federation: Federation,
) -> None:
    with beside(federation.plant, CANARY, 0.5) as asking:
        second = pointers.challenger(federation.plant)
        assert second is not None
        inside = next(f"m{n}" for n in range(100) if answers_itself(second, [f"m{n}"]))
        outside = next(f"m{n}" for n in range(100) if not answers_itself(second, [f"m{n}"]))
        both = {"name": "machine", "datatype": "BYTES", "shape": [2], "data": [inside, outside]}
        assert asking.infer(readings([COLD, COLD]), both)["parameters"]["release"] == "r-1"
        one = {"name": "machine", "datatype": "BYTES", "shape": [1], "data": [inside]}
        body = {"inputs": [readings(), one]}
        assert asking.post("/v2/models/wear/infer", body)["parameters"]["release"] == "r-2"
        named = asking.post("/v2/models/wear/versions/r-1/infer", body)
        assert named["parameters"]["release"] == "r-1"


def test_shares_are_even_and_each_challenger_has_its_own_machines() -> None:
    names = [f"press-{number}" for number in range(4000)]
    places = [place("r-1", name) for name in names]
    for share in (0.05, 0.25, 0.5):
        found = sum(one < share for one in places) / len(places)
        assert found == pytest.approx(share, abs=0.03)
    first, other = ({name for name in names if place(release, name) < 0.1} for release in ("r-1", "r-2"))
    assert len(first & other) < 100
    second = Challenger("r-1", SHADOW, "", 1.0, "r-0")
    assert not answers_itself(second, ["m1"]), "a shadow answers nobody"


# --- whatever it does ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [SHADOW, CANARY])
def test_one_that_gives_nan_is_counted_and_nobody_hears_it(federation: Federation, stage: str) -> None:
    broken(federation, "nan_later")
    with beside(federation.plant, stage, 1.0, "r-3") as asking:
        for _ in range(10):
            assert asking.predict() == pytest.approx([12.0], abs=1e-3)
        until(lambda: counts(asking).failures >= 10)
        assert counts(asking).heard == 0
        assert "not a finite number" in counts(asking).trouble


@pytest.mark.parametrize("stage", [SHADOW, CANARY])
def test_one_that_loops_for_ever_is_ended_and_the_champion_answers_on(
    federation: Federation, stage: str
) -> None:
    edit(federation.plant, lambda one: setattr(one.policy.release.trial, "milliseconds", 20.0))
    broken(federation, "loop", 1 << 62)
    pointers.challenge(federation.plant, "r-3", stage, 1.0)
    with serving(federation.plant) as asking:
        begun = time.monotonic()
        for _ in range(50):
            assert asking.predict() == pytest.approx([12.0], abs=1e-3)
        assert time.monotonic() - begun < 30.0
        until(lambda: counts(asking).failures > 0)
        assert "in time" in counts(asking).trouble
        assert asking.release == "r-1"


def test_a_slow_one_is_counted_late_and_slows_no_answer(federation: Federation) -> None:
    edit(federation.plant, lambda one: setattr(one.policy.release.trial, "milliseconds", 0.1))
    broken(federation, "loop", 2000)
    with beside(federation.plant, SHADOW, 0.0, "r-3") as asking:
        for _ in range(20):
            asking.predict()
        until(lambda: counts(asking).late >= 5)


def test_one_whose_process_dies_starts_again_and_the_champion_answers_meanwhile(
    federation: Federation,
) -> None:
    with beside(federation.plant, CANARY, 1.0) as asking:
        assert asking.release == "r-2"
        (child,) = processes_of(asking)
        child.kill()
        seen = set()

        def heard_again() -> bool:
            seen.add(asking.release)
            return any(one.pid != child.pid for one in processes_of(asking)) and asking.release == "r-2"

        until(heard_again)
        assert seen <= {"r-1", "r-2"}


def test_a_release_that_was_changed_on_disk_never_answers(federation: Federation) -> None:
    pointers.challenge(federation.plant, "r-2", CANARY, 1.0)
    (federation.plant.releases / "r-2" / "model.onnx").write_bytes(b"other")
    with serving(federation.plant) as asking:
        until(lambda: counts(asking).failures > 0)
        assert asking.release == "r-1"
        assert "changed, added or removed" in counts(asking).trouble


def test_serving_that_ends_leaves_no_process(federation: Federation) -> None:
    with beside(federation.plant, SHADOW) as asking:
        (child,) = processes_of(asking)
        os.kill(asking.child.pid, 9)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


# --- probation -------------------------------------------------------------------------------------


def test_on_probation_the_one_before_stands_in_where_the_champion_fails(federation: Federation) -> None:
    """The new champion runs, but gives no number for what the line sends."""
    broken(federation, "nan_later")
    pointers.activate(federation.plant, "r-3")
    pointers.challenge(federation.plant, "r-1", PROBATION)
    with serving(federation.plant) as asking:
        body = {"inputs": [readings()]}

        def stands_in() -> bool:
            answer = asking.client.post("/v2/models/wear/infer", json=body)
            return answer.status_code == 200 and answer.json()["parameters"]["release"] == "r-1"

        until(stands_in)
        for _ in range(20):
            assert asking.predict() == pytest.approx([12.0], abs=1e-3)
        until(lambda: counts(asking).champion_failures >= 20)


def test_the_counts_of_a_stage_go_on_after_a_restart(federation: Federation) -> None:
    with beside(federation.plant, SHADOW) as asking:
        asking.predict()
        until(lambda: counts(asking).requests >= 2)
    before = json.loads(federation.plant.tally.read_text())["requests"]
    with serving(federation.plant) as asking:
        until(lambda: asked(asking) and counts(asking).requests > before)
