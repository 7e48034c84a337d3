"""One look at new readings: a real store, a real repository, and what waits to be told after it."""

import json

import pandas as pd
import pyarrow as pa
import pytest

from interplant.client import intake, looking, proposals
from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.automation_config import PlantAutomation
from interplant.core.release import TASK as FILE
from interplant.data.repository import Repository
from interplant.data.store import Store

from .conftest import TASK, dataset, edit


def bring(store: Store, frame: pd.DataFrame) -> None:
    store.add(pa.Table.from_pandas(columns(frame), preserve_index=False), "test")
    store.index.note("line", len(frame), 0)


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


def test_where_the_budget_pays_no_run_none_is_proposed_and_that_is_told(plant: PlantDirectory) -> None:
    (plant.releases / "r-1").mkdir(parents=True)
    (plant.releases / "r-1" / FILE).write_text(json.dumps(config.dump(TASK)))
    plant.champion.write_text(json.dumps({"release": "r-1", "previous": None, "since": ""}))

    def poor(settings):  # type: ignore[no-untyped-def]
        settings.policy.privacy.epsilon = 0.01
        settings.automation.budget = "declared"

    edit(plant, poor)
    bring(intake.store_of(plant), dataset(3).train)
    found = looking.look(plant)
    assert found.snapshot is not None, "data is kept all the same"
    assert [(one.task, one.reason, one.runs) for one in proposals.waiting(plant)] == [("wear", "", 0)]
    assert "pays no further run" in proposals.noted(plant)[-1]["why"]


def test_a_moment_of_the_schedule_proposes_without_new_data(plant: PlantDirectory) -> None:
    edit(plant, lambda settings: settings.automation.propose.append("schedule"))
    bring(intake.store_of(plant), dataset(3).train)
    looking.look(plant)
    assert [one.reason for one in looking.look(plant, scheduled=True).proposed] == ["schedule"]
