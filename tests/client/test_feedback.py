"""What a person says of a prediction becomes a label in the plant's next snapshot."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from interplant.client import erasure, feedback, intake, looking, monitor
from interplant.client.directory import PlantDirectory
from interplant.client.feedback import carry, note
from interplant.client.predictions import Prediction, Predictions, new_id
from interplant.client.protocol import ProtocolError
from interplant.client.tries import Tries
from interplant.core import config
from interplant.core.automation_config import PlantAutomation
from interplant.core.release import TASK as FILE
from interplant.core.schema import Split, Target, Task, Training
from interplant.data import corrections
from interplant.data.cuts import held_out_keys, windows_of
from interplant.data.door import layout
from interplant.data.late import Late
from interplant.data.mapped import Cut
from interplant.data.repository import Repository
from interplant.data.snapshots import Snapshot
from interplant.data.store import Store

from .conftest import TASK, edit

VALUE = replace(TASK, target=Target(kind="value", low=0.0, high=50.0), split=Split(holdout=0.5))


@pytest.fixture
def plant(bare: PlantDirectory) -> PlantDirectory:
    """A plant whose store has machines 1 and 2, each with a label at its times 1 to 12."""
    Repository.create(bare.data, bare.remote)
    (bare.path / "contract.yaml").write_text(config.to_yaml(TASK.contract))
    edit(bare, lambda settings: setattr(settings.data, "contract", "contract.yaml"))
    times = [float(time) for time in range(1, 13)]
    rows = {"machine": ["1"] * 12 + ["2"] * 12, "cycle": times * 2, "health": [0.5] * 24, "rul": times * 2}
    store = intake.store_of(bare)
    store.add(pa.table(rows, schema=layout(store.contract)))
    bare.repository().freeze(store)
    return bare


@pytest.fixture
def log(plant: PlantDirectory) -> Iterator[Predictions]:
    with Predictions.open(plant) as opened:
        yield opened


def say(
    plant: PlantDirectory, log: Predictions, label: Any, task: Task = VALUE, **words: Any
) -> dict[str, Any]:
    """Predict a window and correct it."""
    told = {"machine": "1", "at": 6.0, "release": "r-1"} | words
    one = Prediction(new_id(), 1000.0, told.pop("release"), (0.5,), **told)
    log.add([one])
    return note(plant, log, one.id, label, "r-1", task)


def made(plant: PlantDirectory) -> Snapshot:
    store = intake.store_of(plant)
    carry(plant, store)
    return plant.repository().freeze(store)


def labels(plant: PlantDirectory, snapshot: Snapshot, machine: int = 1) -> list[float]:
    windows = [windows_of(snapshot, VALUE, plant.windows, Cut(held=held)) for held in (False, True)]
    return [
        float(y) for own in windows for y, name in zip(own.y, own.machine, strict=True) if name == machine
    ]


def test_a_correction_is_the_label_of_its_window_in_the_next_snapshot(
    plant: PlantDirectory, log: Predictions
) -> None:
    before = plant.repository().find()
    assert labels(plant, plant.repository().open()) == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    said = say(plant, log, 42, at=6.0)
    assert said == {"prediction_id": log.labelled()[0].id, "label": 42, "store": True}
    found = made(plant)
    assert labels(plant, found) == [4, 5, 42, 7, 8, 9, 10, 11, 12]
    assert (found.digest != before.digest, found.corrections, found.rows) == (True, 1, 24)
    assert (log.corrections(), made(plant)) == ([], found), "carried once"


def test_of_several_corrections_the_last_wins(plant: PlantDirectory, log: Predictions) -> None:
    one = say(plant, log, 42)["prediction_id"]
    say(plant, log, 43)
    note(plant, log, one, 44, "r-1", VALUE)
    assert [found.value for found in log.corrections()] == [43, 44], "each prediction has one word"
    assert labels(plant, made(plant))[2] == 44
    say(plant, log, 45)
    assert labels(plant, made(plant))[2] == 45


@pytest.mark.parametrize(
    ("words", "task", "label", "why"),
    [
        ({"machine": None}, VALUE, 7, "the prediction was asked without a machine"),
        ({"machine": " "}, VALUE, 7, "the prediction was asked without a machine"),
        ({"at": None}, VALUE, 7, "the prediction was asked without a time"),
        ({"release": "r-0"}, VALUE, 7, "release r-0, which answered, is not here any more"),
        ({}, replace(TASK, target=Target(kind="class", classes=["a", "b"])), "b", "does not have 'b'"),
        (
            {},
            replace(TASK, contract=replace(TASK.contract, label="scrap")),
            7,
            "the plant's contract has 'rul'",
        ),
        ({}, replace(TASK, contract=replace(TASK.contract, clock="timestamp")), 7, "contract.clock"),
    ],
)
def test_what_a_store_cannot_take_joins_the_log_only_and_that_is_said(
    plant: PlantDirectory, log: Predictions, words: dict[str, Any], task: Task, label: Any, why: str
) -> None:
    said = say(plant, log, label, task, **words)
    assert (said["label"], said["store"], why in said["why"]) == (label, False, True), said
    assert [one.label for one in log.labelled()] == [label]
    assert carry(plant, intake.store_of(plant)) == 0


def test_a_class_that_is_text_is_the_label_of_its_window(plant: PlantDirectory, log: Predictions) -> None:
    contract = replace(TASK.contract, label="quality", texts=["ok", "scratch"])
    target = Target(kind="class", classes=["scratch", "ok"])
    task = replace(VALUE, contract=contract, target=target, training=Training(loss="cross_entropy"))
    (plant.path / "contract.yaml").write_text(config.to_yaml(contract))
    assert say(plant, log, "ok", task, at=6.0)["store"]
    assert say(plant, log, "scratch", task, at=7.0)["store"]
    found = made(plant)
    windows = [windows_of(found, task, plant.windows, Cut(held=held)) for held in (False, True)]
    assert sorted(float(y) for own in windows for y in own.y) == [0.0, 1.0]
    assert found.corrections == 2


@pytest.mark.parametrize(
    ("own", "stored", "label", "why"),
    [
        (["ok", "fail"], ["fail", "ok"], "fail", ""),
        (["ok", "fail"], ["fail", "ok"], 1, ""),
        (["ok", "fail"], ["ok"], 1, "does not have 'fail'"),
        (["ok", "fail"], [], 1, "does not have 'fail'"),
        ([], ["ok", "fail"], 1, "the plant's labels are text, the task's numbers"),
    ],
)
def test_an_event_that_is_text_is_what_its_task_says(
    plant: PlantDirectory, log: Predictions, own: list[str], stored: list[str], label: Any, why: str
) -> None:
    contract = replace(TASK.contract, label="quality", texts=own)
    task = replace(VALUE, contract=contract, target=Target(kind="event"), training=Training(loss="bce"))
    (plant.path / "contract.yaml").write_text(config.to_yaml(replace(contract, texts=stored)))
    said = say(plant, log, label, task, at=6.0)
    assert (said["label"], said["store"], why in said.get("why", "")) == (1, not why, True)
    if not why:
        windows = [windows_of(made(plant), task, plant.windows, Cut(held=held)) for held in (False, True)]
        assert [float(y) for own in windows for y in own.y] == [1.0]


def test_a_label_of_another_releases_task_is_held_to_that_task(
    plant: PlantDirectory, log: Predictions
) -> None:
    wider = replace(VALUE, target=replace(VALUE.target, high=500.0))
    (plant.releases / "r-0").mkdir(parents=True)
    (plant.releases / "r-0" / FILE).write_text(json.dumps(config.dump(wider)))
    with pytest.raises(ProtocolError, match="label: expected 0 to 50, found 400"):
        say(plant, log, 400)
    assert say(plant, log, 400, release="r-0")["store"]


def test_a_prediction_that_nobody_made_labels_nothing(plant: PlantDirectory, log: Predictions) -> None:
    with pytest.raises(ProtocolError, match="nothing was noted"):
        note(plant, log, new_id(), 7, "r-1", VALUE)
    assert (log.corrections(), log.labelled()) == ([], [])


def test_a_machine_is_named_as_the_store_names_it(plant: PlantDirectory, log: Predictions) -> None:
    say(plant, log, 42, machine=" 1.0")
    assert labels(plant, made(plant))[2] == 42


def test_a_kill_while_corrections_are_carried_loses_and_doubles_none(
    plant: PlantDirectory, log: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    say(plant, log, 42)
    for method, owner in (("correct", Store), ("carried", Predictions)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, killed)
            with pytest.raises(Killed):
                carry(plant, intake.store_of(plant))
        assert len(log.corrections()) == 1
    found = made(plant)
    assert (labels(plant, found)[2], found.corrections, log.corrections()) == (42, 1, [])


def test_what_is_erased_is_not_carried_any_more(
    plant: PlantDirectory, log: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(plant, log, 42, at=6.0)
    say(plant, log, 43, at=7.0)
    say(plant, log, 44, machine="2")
    store = intake.store_of(plant)
    carry_then = Store.erase

    def between(own: Store, *words: Any) -> int:
        """Somebody makes a snapshot just before the store erases."""
        feedback.carry(plant, own)
        return carry_then(own, *words)

    monkeypatch.setattr(Store, "erase", between)
    erasure.erase(plant, store, "1", None, None)
    assert (log.corrections(), store.late.count()) == ([], 0)
    assert {one.machine for one in store.partitions()} == {"2"}
    assert labels(plant, plant.repository().open(), 2)[2] == 44


def test_labels_are_no_readings_to_the_monitor_and_come_with_its_next_snapshot(
    plant: PlantDirectory, log: Predictions
) -> None:
    edit(plant, lambda settings: setattr(settings, "automation", PlantAutomation(snapshots=True)))
    looking.look(plant)
    say(plant, log, 42)
    assert monitor.readings(plant) == 0
    found = looking.look(plant).snapshot
    assert found is not None
    assert labels(plant, plant.repository().open())[2] == 42
    assert monitor.readings(plant) == 0


def test_corrections_make_no_new_holdout_and_no_new_unit(plant: PlantDirectory, log: Predictions) -> None:
    """Neither the count of tries nor the account of the data begins anew with them."""
    before = plant.repository().open()
    tries, lineage = Tries(plant), plant.repository().lineage
    first = tries.begin("a", "q", held_out_keys(before, VALUE), VALUE.contract, 0.05)
    for at in range(1, 13):
        say(plant, log, 42, at=float(at))
        say(plant, log, 42, at=float(at), machine="2")
        say(plant, log, 42, at=float(at), machine="of nobody")
    after = made(plant)
    second = tries.begin("b", "q", held_out_keys(after, VALUE), VALUE.contract, 0.05)
    assert (first.number, second.number, first.holdout) == (1, 2, second.holdout)
    assert (after.rows, after.machines) == (before.rows, before.machines)
    assert plant.repository().lineage == lineage


def test_a_snapshot_says_whose_word_a_label_is(plant: PlantDirectory, log: Predictions) -> None:
    prediction = say(plant, log, 42)["prediction_id"]
    found = made(plant)
    assert found.folder is not None
    rows = pa.parquet.read_table(found.folder / "0" / "1.parquet").slice(5, 1).to_pylist()
    assert (rows[0]["rul"], rows[0][corrections.VALUE], rows[0][corrections.PREDICTION]) == (
        6,
        42,
        prediction,
    )


def test_a_correction_of_a_moment_reaches_its_microsecond() -> None:
    at = 1_790_000_000.123456
    one = feedback.Correction("p", "r", "1", at, "timestamp", "y", 1.0, 0.0)
    found = feedback._late(one)
    assert isinstance(found, Late)
    assert found.time == 1_790_000_000_123_456


def test_the_log_holds_only_so_many(tmp_path: Path, plant: PlantDirectory) -> None:
    with Predictions(tmp_path / "small.db", keep=2) as log:
        for label in (1, 2, 3):
            say(plant, log, label)
        assert [one.value for one in log.corrections()] == [2, 3]
