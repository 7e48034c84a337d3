"""A plant that trains from its own store: contract, abstention, windows; and what it then refuses."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from interplant.client import intake
from interplant.client.directory import PlantDirectory
from interplant.client.round_training import Bench, train_round
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Plant, Source, Task, Window
from interplant.data.door import layout
from interplant.data.repository import Repository
from interplant.data.store import Store

from .conftest import OPEN, START, TASK, edit


def fill(plant: PlantDirectory, machines: int = 6) -> Store:
    store = intake.store_of(plant, TASK)
    rows = [(str(one), float(cycle), (12 - cycle) / 40.0) for one in range(machines) for cycle in range(12)]
    names, times, values = zip(*rows, strict=True)
    table = {"machine": names, "cycle": times, "health": values, "rul": [None] * len(rows)}
    store.add(pa.table(table, schema=layout(store.contract)))
    return store


@pytest.fixture
def shop(bare: PlantDirectory, tiny_models: None) -> PlantDirectory:
    """A plant whose data is a store."""
    Repository.create(bare.data, bare.remote)
    edit(bare, lambda plant: setattr(plant.policy.privacy, "allow_none", True))
    return bare


def go(plant: PlantDirectory, task: Task = OPEN) -> int:
    trained = train_round(plant, Bench(), "run-1", 1, task, START)
    return trained.receipt.entries


def refused(plant: PlantDirectory, task: Task = OPEN) -> str:
    with pytest.raises(Refusal) as caught:
        go(plant, task)
    return caught.value.code


def test_a_round_trains_on_windows_of_the_store_with_and_without_privacy(shop: PlantDirectory) -> None:
    shop.repository().freeze(fill(shop))
    assert go(shop) == 0
    assert go(shop, TASK) == 2
    assert len(list(shop.windows.iterdir())) == 1, "both are cut alike"


def test_a_plant_abstains_when_too_much_is_in_quarantine(shop: PlantDirectory) -> None:
    store = fill(shop)
    store.index.note("plc", 72, 1)
    shop.repository().freeze(store)
    assert refused(shop) == "quarantine"
    assert refused(shop, TASK) == "quarantine"
    fill(shop, machines=7)
    store.index.note("plc", 12, 0)
    shop.repository().freeze(store)
    assert go(shop) == 0


def test_where_the_answer_is_billed_abstaining_would_tell(shop: PlantDirectory) -> None:
    store = fill(shop)
    store.index.note("plc", 72, 30)
    shop.repository().freeze(store)
    edit(shop, lambda plant: setattr(plant.policy.privacy, "data_refusals", "billed"))
    assert go(shop, TASK) > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, contract=replace(task.contract, version=2)),
        lambda task: replace(task, contract=replace(task.contract, hold=3.0)),
        lambda task: replace(task, contract=replace(task.contract, interval=2.0)),
    ],
)
def test_a_snapshot_of_another_contract_is_refused(
    shop: PlantDirectory, change: Callable[[Task], Task]
) -> None:
    shop.repository().freeze(fill(shop))
    assert refused(shop, change(OPEN)) == "contract_version"


def own_contract(plant: PlantDirectory, **changes: object) -> None:
    content = asdict(TASK.contract) | changes
    (plant.path / "contract.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def name(settings: Plant) -> None:
        settings.data.contract = "contract.yaml"

    edit(plant, name)


def test_a_plants_own_contract_has_to_be_the_version_that_a_task_needs(shop: PlantDirectory) -> None:
    shop.repository().freeze(fill(shop))
    own_contract(shop)
    assert go(shop) == 0
    own_contract(shop, version=2)
    assert refused(shop) == "contract_version"
    own_contract(shop, sensors={"health": {"unit": "percent", "low": 0.0, "high": 100.0}})
    assert refused(shop) == "contract_version"


def test_windows_are_cut_anew_for_another_task_only(shop: PlantDirectory) -> None:
    shop.repository().freeze(fill(shop))
    go(shop)
    (first,) = shop.windows.iterdir()
    made = (first / "done.json").stat().st_mtime_ns
    go(shop)
    assert (first / "done.json").stat().st_mtime_ns == made
    go(shop, replace(OPEN, window=Window(3)))
    assert len(list(shop.windows.iterdir())) == 2


def test_a_sample_is_the_first_readings_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("machine,cycle\n1,2\n")
    assert intake.sample(tmp_path / "a.csv").column_names == ["machine", "cycle"]
    with pytest.raises(UsageError, match="expected a folder or a file"):
        intake.sample(tmp_path / "none.csv")


def test_sources_are_named_or_all(shop: PlantDirectory) -> None:
    (shop.path / "drop").mkdir()
    (shop.path / "drop" / "a.csv").write_text("machine,cycle,health\n1,2,0.5\n")

    def add(settings: Plant) -> None:
        words = {"path": "drop", "settle_seconds": 0.05}
        settings.data.sources = [Source(name="one", kind="folder", args=words)]

    edit(shop, add)
    store = intake.store_of(shop, TASK)
    (brought,) = intake.bring(shop, store)
    assert (brought.source, brought.rows) == ("one", 1)
    with pytest.raises(UsageError, match="source 'two': expected one of one"):
        intake.bring(shop, store, ["two"])
