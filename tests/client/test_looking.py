"""One look at new readings: a real store, a real repository, and what waits to be told after it."""

import json
import threading

import pandas as pd
import pyarrow as pa
import pytest

from interplant.client import intake, looking, proposals, telling
from interplant.client.directory import PlantDirectory
from interplant.client.moments import in_child
from interplant.core import config
from interplant.core.automation_config import PlantAutomation
from interplant.core.release import TASK as FILE
from interplant.data import events
from interplant.data.events import Event
from interplant.data.repository import Repository
from interplant.data.store import Store

from .conftest import TASK, dataset, edit


def bring(store: Store, frame: pd.DataFrame) -> None:
    store.add(pa.Table.from_pandas(columns(frame), preserve_index=False), "test")
    store.index.note("line", {"1": len(frame)})


def columns(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "machine": frame["machine"].astype(str),
            "cycle": frame["cycle"].astype(float),
            "health": frame["health"],
            "rul": pd.Series([float("nan")] * len(frame)),
        }
    )


@pytest.fixture
def plant(bare: PlantDirectory) -> PlantDirectory:
    """A plant with a store and an automation that makes snapshots and proposes."""
    Repository.create(bare.data, bare.remote)
    (bare.path / "contract.yaml").write_text(config.to_yaml(TASK.contract))

    def change(settings):  # type: ignore[no-untyped-def]
        settings.data.contract = "contract.yaml"
        settings.automation = PlantAutomation(snapshots=True, propose=["new_data"], tell="declared")

    edit(bare, change)
    return bare


def test_new_readings_become_a_snapshot_and_a_proposal(plant: PlantDirectory) -> None:
    bring(intake.store_of(plant), dataset(3).train)
    found = looking.look(plant)
    assert found.snapshot is not None
    assert found.snapshot.rows == 36
    assert found.snapshot.digest == plant.repository().find().digest
    assert [(one.task, one.reason) for one in proposals.waiting(plant)] == [("wear", "new_data")]
    again = looking.look(plant)
    assert (again.snapshot, list(again.proposed)) == (None, [])
    assert len(plant.repository().log()) == 1


def test_a_plant_that_makes_no_snapshots_makes_none(plant: PlantDirectory) -> None:
    edit(plant, lambda settings: setattr(settings.automation, "snapshots", False))
    bring(intake.store_of(plant), dataset(3).train)
    assert looking.look(plant).snapshot is None
    assert plant.repository().log() == []


def test_old_snapshots_go_as_the_plant_keeps_few(plant: PlantDirectory) -> None:
    edit(plant, lambda settings: setattr(settings.data, "keep", 1))
    store = intake.store_of(plant)
    for machines in (2, 3, 4):
        bring(store, dataset(machines).train)
        looking.look(plant)
    assert len(plant.repository().log()) - len(plant.repository().purged()) == 1


def serving(plant: PlantDirectory) -> None:
    """A release of a private task serves at the plant."""
    (plant.releases / "r-1").mkdir(parents=True)
    (plant.releases / "r-1" / FILE).write_text(json.dumps(config.dump(TASK)))
    plant.champion.write_text(json.dumps({"release": "r-1", "previous": None, "since": ""}))


def test_where_the_budget_pays_no_run_none_is_proposed_and_that_is_told(plant: PlantDirectory) -> None:
    serving(plant)

    def poor(settings):  # type: ignore[no-untyped-def]
        settings.policy.privacy.epsilon = 0.01
        settings.automation.budget = "declared"

    edit(plant, poor)
    bring(intake.store_of(plant), dataset(3).train)
    found = looking.look(plant)
    assert found.snapshot is not None, "data is kept all the same"
    assert "pays no further run" in proposals.noted(plant)[-1]["why"]
    telling.tell(plant)
    assert [(one.task, one.reason, one.runs) for one in proposals.waiting(plant)] == [("wear", "", 0)]


def test_a_look_tells_nothing_of_the_budget(plant: PlantDirectory) -> None:
    """The time of the word would say that there is new data."""
    serving(plant)

    def quiet(settings):  # type: ignore[no-untyped-def]
        settings.automation = PlantAutomation(snapshots=True, budget="declared")

    edit(plant, quiet)
    bring(intake.store_of(plant), dataset(3).train)
    assert looking.look(plant).snapshot is not None
    assert proposals.waiting(plant) == []


def test_the_same_budget_is_told_once_whatever_data_comes(plant: PlantDirectory) -> None:
    serving(plant)

    def quiet(settings):  # type: ignore[no-untyped-def]
        settings.automation = PlantAutomation(snapshots=True, budget="declared")
        settings.policy.privacy.data_refusals = "billed"

    edit(plant, quiet)
    (one,) = telling.tell(plant)
    assert one.runs
    proposals.tell(plant, one, lambda *_: True)
    bring(intake.store_of(plant), dataset(3).train)
    looking.look(plant)
    assert list(telling.tell(plant)) == []
    assert proposals.waiting(plant) == []
    edit(plant, lambda settings: setattr(settings.policy.privacy, "epsilon", 0.01))
    assert [one.runs for one in telling.tell(plant)] == [0]


def test_a_schedule_proposes_whatever_data_there_is(plant: PlantDirectory) -> None:
    edit(plant, lambda settings: setattr(settings.automation, "propose", ["schedule"]))
    edit(plant, lambda settings: setattr(settings.automation, "tell", "nothing"))
    assert [one.reason for one in telling.tell(plant, scheduled=True)] == ["schedule"]
    assert list(telling.tell(plant)) == []


def test_what_is_told_and_what_is_looked_at_are_processes_of_their_own(plant: PlantDirectory) -> None:
    edit(plant, lambda settings: settings.automation.propose.append("schedule"))
    bring(intake.store_of(plant), dataset(3).train)
    assert in_child("interplant.client.telling", plant, threading.Event(), "schedule")
    assert [one.reason for one in proposals.waiting(plant)] == ["schedule"]
    assert in_child("interplant.client.looking", plant, threading.Event())
    assert sorted(one.reason for one in proposals.waiting(plant)) == ["new_data", "schedule"]


def test_an_empty_store_is_no_failure(plant: PlantDirectory) -> None:
    assert looking.look(plant).snapshot is None
    assert proposals.waiting(plant) == []


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["prune", "note"])
def test_a_look_that_is_killed_after_its_snapshot_loses_no_proposal(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bring(intake.store_of(plant), dataset(3).train)
    with monkeypatch.context() as killed:
        killed.setattr(looking.erasure if where == "prune" else looking.proposals, where, stopped)
        with pytest.raises(KeyboardInterrupt):
            looking.look(plant)
    assert len(plant.repository().log()) == 1
    assert plant.look_begun.exists(), "the monitor looks again, although no reading is new"
    assert [one.reason for one in looking.look(plant).proposed] == ["new_data"]
    assert not plant.look_begun.exists()
    assert list(looking.look(plant).proposed) == []


def drift_begins(plant: PlantDirectory, name: str = "e-1") -> None:
    event = Event(
        name,
        "",
        "a" * 64,
        "r-1",
        "inputs",
        "health",
        "",
        "mean",
        "cusum",
        9.0,
        5.0,
        1.0,
        (1, 2),
        (1.0, 2.0),
        100,
        {},
    )
    events.append(plant.drift_events, [event])


@pytest.mark.parametrize("where", ["kill", "lock"])
def test_a_drift_that_began_is_proposed_whatever_stops_the_look(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    edit(plant, lambda settings: setattr(settings.automation, "propose", ["drift"]))
    edit(plant, lambda settings: setattr(settings.automation, "watch", True))
    looking.look(plant)
    bring(intake.store_of(plant), dataset(3).train)
    drift_begins(plant)
    with monkeypatch.context() as broken:
        broken.setattr(
            *(looking.proposals, "propose") if where == "kill" else (Repository, "freeze"), stopped
        )
        with pytest.raises(KeyboardInterrupt):
            looking.look(plant)
    told = [one.reason for one in proposals.waiting(plant)]
    assert told == ([] if where == "kill" else ["drift"])
    looking.look(plant)
    assert [one.reason for one in proposals.waiting(plant)] == ["drift"]
    assert looking.look(plant).began == []


def test_a_drift_that_begins_after_others_were_erased_is_proposed(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(plant, lambda settings: setattr(settings.automation, "propose", ["drift"]))
    edit(plant, lambda settings: setattr(settings.automation, "watch", True))
    for name in ("e-1", "e-2"):
        drift_begins(plant, name)
    looking.look(plant)
    assert events.erase(plant.drift_events, lambda one: True) == 2
    monkeypatch.setattr(looking, "_watch", lambda plant: drift_begins(plant, "e-3"))
    assert looking.look(plant).began == ["drift"]
    assert [one.reason for one in proposals.waiting(plant)] == ["drift"]
