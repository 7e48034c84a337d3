"""The champion's predictions and late errors, from a real log, against its own hold-out."""

import json
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interplant.cli.commands import call
from interplant.client import champion, drift, looking, outcomes, proposals, standing
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Prediction, Predictions, new_id
from interplant.client.runway import champions_task
from interplant.client.watching import watch
from interplant.core.automation_config import PlantAutomation
from interplant.core.errors import InterplantError
from interplant.core.schema import Plant, Target
from interplant.core.targets import CLASS, EVENT
from interplant.data import events
from interplant.data.events import ERRORS, PREDICTIONS
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.snapshots import keyed_digest

from .conftest import edit
from .federation import CAP, Federation

LIFE = 20


def noisy(machines: range, seed: int) -> pd.DataFrame:
    """Machines whose sensor reads the cycles left, in units of the cap, and is off by a cycle or so."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame([(machine, cycle) for machine in machines for cycle in range(1, LIFE + 1)])
    frame.columns = ["machine", "cycle"]
    frame["health"] = (LIFE - frame["cycle"]) / CAP + random.normal(0, 1 / CAP, len(frame))
    frame["health"] = frame["health"].clip(-1.0, 1.0)
    return frame


@pytest.fixture(scope="module")
def noisy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("noisy")
    Repository.create(root / "data", root / "remote").snapshot(
        Dataset(noisy(range(1, 61), 0), noisy(range(101, 161), 1), simulated=True)
    )
    return root


@pytest.fixture
def line_repository(noisy_repository: Path) -> Path:
    """In place of the shared one: a hold-out of 60 machines, 17 windows each."""
    return noisy_repository


@pytest.fixture
def serves(federation: Federation) -> PlantDirectory:
    """A plant whose champion learned from its snapshot."""
    plant = federation.plant
    release(federation, "r-1")

    def watchful(settings: Plant) -> None:
        settings.data.drift.window = 50
        settings.automation = PlantAutomation(watch=True, propose=["drift", "error"], tell="declared")

    edit(plant, watchful)
    return plant


def release(federation: Federation, name: str, shift: float = 0.0) -> None:
    plant = federation.plant
    digest = keyed_digest(plant.repository().log()[0].digest, plant.snapshot_key.read_bytes())
    federation.deliver(federation.make(name, shift, snapshot=digest))
    champion.activate(plant, name)


def answer(
    plant: PlantDirectory, machines: range, seed: int = 2, moved: float = 0.0, release: str = "r-1"
) -> tuple[list[str], list[float]]:
    """Log what is predicted of whole lives; return the ids and what turns out to be true."""
    frame = noisy(machines, seed)
    frame = frame[frame["cycle"] >= 4]
    rows = [
        Prediction(
            new_id(), 2e9, release, (CAP * health + moved,), str(machine), float(cycle), drifting=False
        )
        for machine, cycle, health in frame.itertuples(index=False)
    ]
    with Predictions.open(plant) as log:
        log.add(rows)
    return [one.id for one in rows], [float(LIFE - cycle) for cycle in frame["cycle"]]


def label(plant: PlantDirectory, told: tuple[list[str], list[float]], off: float = 0.0) -> None:
    with Predictions.open(plant) as log:
        for prediction, true in zip(*told, strict=True):
            log.label(prediction, true + off)


def against(plant: PlantDirectory) -> drift.Against:
    task = champions_task(plant)
    assert task is not None
    return drift.against(plant, task)


def windows(plant: PlantDirectory) -> dict[str, int]:
    return {one.monitor.watched.name: one.windows for one in outcomes.watch(plant, against(plant))}


def began(plant: PlantDirectory) -> list[tuple[str, str]]:
    return [(one.watched, one.kind) for one in events.read(plant.drift_events)]


def test_what_is_as_on_the_hold_out_is_no_drift(serves: PlantDirectory) -> None:
    label(serves, answer(serves, range(200, 240)))
    assert windows(serves) == {PREDICTIONS: 680 // 50, ERRORS: 680 // 10}
    assert began(serves) == []
    assert not standing.is_drifting(serves, "r-1")


def test_errors_that_rise_are_an_event_a_flag_and_a_proposal(serves: PlantDirectory) -> None:
    """Nothing else has changed: the predictions are what they were, and turn out to be wrong."""
    looking.look(serves)
    label(serves, answer(serves, range(200, 240)), off=5.0)
    found = looking.look(serves)
    assert found.began == ["error"]
    (event,) = events.read(serves.drift_events)
    assert (event.watched, event.kind, event.release) == (ERRORS, "error", "r-1")
    assert event.evidence["median"] > 4 > event.evidence["median_of_reference"]
    assert standing.is_drifting(serves, "r-1")
    assert [(one.task, one.reason) for one in proposals.waiting(serves)] == [("wear", "error")]
    assert looking.look(serves).began == []


def test_predictions_that_move_are_proposed_as_a_drift_and_stay_here_unless_declared(
    serves: PlantDirectory,
) -> None:
    edit(serves, lambda settings: setattr(settings.automation, "tell", "nothing"))
    looking.look(serves)
    answer(serves, range(200, 220), moved=-8.0)
    assert looking.look(serves).began == ["drift"]
    assert began(serves) == [(PREDICTIONS, "prediction")]
    assert proposals.waiting(serves) == []
    assert "automation.tell is nothing" in proposals.noted(serves)[-1]["why"]


def test_each_row_and_each_label_counts_once_in_whatever_order_labels_come(serves: PlantDirectory) -> None:
    first, second = answer(serves, range(200, 203)), answer(serves, range(203, 206))
    label(serves, second)
    assert windows(serves) == {PREDICTIONS: 2, ERRORS: 5}
    label(serves, second)  # told again
    assert windows(serves) == {PREDICTIONS: 0, ERRORS: 0}
    label(serves, first)  # late: of rows before those that were read
    third = answer(serves, range(206, 209))
    label(serves, third)
    assert windows(serves) == {PREDICTIONS: 1, ERRORS: 10}
    assert drift.mark(serves, against(serves), PREDICTIONS) == 150.0


def test_a_window_that_is_asked_again_and_again_counts_once(serves: PlantDirectory) -> None:
    answer(serves, range(200, 203))
    with Predictions.open(serves) as log:
        log.add([Prediction(new_id(), 2e9, "r-1", (3.0,), "7", 9.0) for _ in range(100)])
    assert windows(serves) == {PREDICTIONS: 1}


def test_what_a_champion_says_beside_its_canary_counts_as_its_own(serves: PlantDirectory) -> None:
    said = [
        Prediction(
            new_id(), 2e9, "r-2", (999.0,), None, None, "r-1", (float(number % 17) + 0.1 * (number % 7),)
        )
        for number in range(150)
    ]
    with Predictions.open(serves) as log:
        log.add(said)
    assert windows(serves) == {PREDICTIONS: 3}
    assert began(serves) == []


def test_a_kill_between_the_event_and_the_mark_doubles_nothing(
    serves: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(serves, answer(serves, range(200, 240)), off=5.0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drift.memory, "save", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                outcomes.watch(serves, against(serves))
    answer(serves, range(240, 242))
    assert windows(serves) == {PREDICTIONS: 714 // 50, ERRORS: 68}
    assert began(serves) == [(ERRORS, "error")]


def test_another_champion_is_held_against_its_own_hold_out(
    federation: Federation, serves: PlantDirectory
) -> None:
    label(serves, answer(serves, range(200, 220)))
    assert windows(serves) == {PREDICTIONS: 6, ERRORS: 34}
    release(federation, "r-2", shift=0.4)  # 8 cycles more, on the hold-out as in service
    assert windows(serves) == {}
    label(serves, answer(serves, range(220, 240), moved=8.0, release="r-2"))
    assert windows(serves) == {PREDICTIONS: 6, ERRORS: 34}
    assert began(serves) == []
    champion.roll_back(serves)
    answer(serves, range(240, 250), seed=3)
    assert windows(serves) == {PREDICTIONS: 4}, "where it stopped: 40 of 340 were left over"


def test_a_log_that_is_damaged_is_one_sentence_and_stops_nothing_else(
    serves: PlantDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    serves.predictions.write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        found = watch(serves)
    assert [one.monitor.watched.name for one in found] == ["inputs"]
    said = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert len(said) == 2
    assert all("the prediction log cannot be used" in one and "not watched" in one for one in said)


def test_a_row_that_is_damaged_is_said(serves: PlantDirectory, caplog: pytest.LogCaptureFixture) -> None:
    label(serves, answer(serves, range(200, 203)))
    with sqlite3.connect(serves.predictions) as log:
        log.execute("UPDATE predictions SET prediction = '[1.0' WHERE row = 7")
    assert windows(serves) == {}
    assert "a row is damaged" in caplog.text


def test_a_log_that_was_moved_away_begins_anew(serves: PlantDirectory) -> None:
    answer(serves, range(200, 240))
    assert windows(serves) == {PREDICTIONS: 13}
    for path in serves.path.glob("predictions.db*"):
        path.unlink()
    answer(serves, range(300, 310), seed=5)
    assert windows(serves) == {PREDICTIONS: 3}
    assert windows(serves) == {PREDICTIONS: 0}


def test_the_hold_out_is_predicted_once_and_only_when_there_is_something_to_compare(
    serves: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert windows(serves) == {}
    assert list(serves.drift.glob("*.npz")) == []
    label(serves, answer(serves, range(200, 203)))
    windows(serves)
    monkeypatch.setattr(outcomes, "_past", None)
    answer(serves, range(203, 206))
    assert windows(serves) == {PREDICTIONS: 1, ERRORS: 0}


def test_a_model_that_no_longer_runs_is_said(
    serves: PlantDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    answer(serves, range(200, 203))

    def stopped(*_: object) -> None:
        raise InterplantError("stopped: more than 12 s of processor time")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes.bounded, "run", stopped)
        assert windows(serves) == {}
    assert "predictions are not watched: stopped" in caplog.text
    assert windows(serves) == {PREDICTIONS: 1}


def test_the_drift_command_shows_predictions_and_errors(
    serves: PlantDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    label(serves, answer(serves, range(200, 240)), off=5.0)
    words = ["data", "drift", "--dir", str(serves.path)]
    call([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert [(one["watched"], one["kind"]) for one in said["alarms"]] == [(ERRORS, "error")]
    assert said[ERRORS]["drifting"] == {ERRORS: "error"}
    assert (said[PREDICTIONS]["windows"], said[PREDICTIONS]["drifting"]) == (13, {})
    assert said["drifting"] == {}
    label(serves, answer(serves, range(240, 250), moved=-8.0), off=-8.0)
    call(words)
    shown = capsys.readouterr().out
    assert "4 of 50 predictions" in shown
    assert "predictions: prediction: the champion predicts otherwise than on its hold-out" in shown
    # Another snapshot is no champion's.
    call([*words, "--snapshot", said["snapshot"], "--json"])
    assert json.loads(capsys.readouterr().out)[ERRORS] is None


def test_erasing_forgets_what_was_found_in_predictions(serves: PlantDirectory) -> None:
    from interplant.client import erasure

    label(serves, answer(serves, range(200, 240)), off=5.0)
    windows(serves)
    assert began(serves) == [(ERRORS, "error")]
    assert erasure._forget_events(serves, [(1e12, 2e12)]) == 1
    assert list(serves.drift.glob("state-*")) == []


def test_the_errors_of_each_kind_of_target() -> None:
    told: Callable[..., np.ndarray] = lambda *rows: np.array(rows, np.float64)  # noqa: E731
    y = np.array([1.0, 0.0])
    of = outcomes.errors_of
    assert of(Target(20.0), told([3.0], [7.0]), np.array([5.0, 7.0])).tolist() == [2.0, 0.0]
    assert of(replace(Target(), kind=EVENT), told([0.75], [0.25]), y).tolist() == [0.25, 0.25]
    classes = replace(Target(), kind=CLASS, classes=["good", "worn"])
    assert of(classes, told([0.9, 0.1], [0.9, 0.1]), y).tolist() == pytest.approx([0.9, 0.1])
