"""A plant that trains from its own store: contract, abstention, windows; and what it then refuses."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from interplant.client import intake, quality
from interplant.client.directory import PlantDirectory
from interplant.client.measuring import measure_ranges, measure_sizes
from interplant.client.round_training import Bench, train_round
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Plant, Source, Task, Window
from interplant.data import snapshots
from interplant.data.door import layout
from interplant.data.drafting import draft
from interplant.data.index import Held
from interplant.data.ingest import hold_again
from interplant.data.repository import Repository
from interplant.data.store import Store
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan
from interplant.privacy.stream import Stream

from .conftest import OPEN, START, TASK, edit


def fill(plant: PlantDirectory, machines: int = 6) -> Store:
    store = intake.store_of(plant, TASK)
    rows = [(str(one), float(cycle), (12 - cycle) / 40.0) for one in range(machines) for cycle in range(12)]
    names, times, values = zip(*rows, strict=True)
    table = {"machine": names, "cycle": times, "health": values, "rul": [None] * len(rows)}
    store.add(pa.table(table, schema=layout(store.contract)))
    return store


def bring(store: Store, rows: int, bad: int) -> None:
    """Count readings of a machine, and rows of it in quarantine."""
    store.index.note("plc", {"1": rows})
    store.index.hold(Held(f"{place}", "plc", "1") for place in range(bad))


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
    bring(store, 72, bad=1)
    shop.repository().freeze(store)
    assert refused(shop) == "quarantine"
    assert refused(shop, TASK) == "quarantine"
    fill(shop, machines=7)
    store.index.note("plc", {"7": 12})
    shop.repository().freeze(store)
    assert go(shop) == 0


@pytest.fixture
def billing(shop: PlantDirectory, monkeypatch: pytest.MonkeyPatch) -> PlantDirectory:
    """The same, billing the answer with too little noise to hide it, the same each time."""
    monkeypatch.setattr(quality, "Stream", lambda: Stream(b"a"))

    def change(plant: Plant) -> None:
        privacy = plant.policy.privacy
        privacy.data_refusals, privacy.refusal_noise, privacy.epsilon = "billed", 0.05, 1e6

    edit(shop, change)
    return shop


def charges(plant: PlantDirectory) -> list[str]:
    plans = [entry.plan for entry in Ledger(plant.ledger).entries() if entry.kind == "reserve"]
    return [
        "training" if isinstance(plan, Plan) else "+".join(one.name for one in plan.statistics)
        for plan in plans
        if plan
    ]


@pytest.mark.parametrize("unit", ["unit", "window"])
def test_where_the_answer_is_billed_a_plant_abstains_for_noise_that_it_pays_for(
    billing: PlantDirectory, unit: str
) -> None:
    task = replace(TASK, privacy=replace(TASK.privacy, unit=unit))

    def declare(plant: Plant) -> None:
        plant.policy.privacy.units, plant.data.declared_units = ["unit", "window"], 6

    edit(billing, declare)
    store = fill(billing)
    bring(store, 72, bad=30)
    billing.repository().freeze(store)
    for _ in range(2):
        assert refused(billing, task) == "quarantine"
    assert charges(billing) == ["contract+quarantine"]
    fill(billing, machines=7)
    store.index.note("plc", {"7": 12})
    billing.repository().freeze(store)
    go(billing, task)
    assert charges(billing) == ["contract+quarantine", "contract+quarantine", "training"]


def test_one_reading_in_quarantine_is_no_refusal_where_noise_hides_it(billing: PlantDirectory) -> None:
    """Declared public, one of 30 is more than 1 %: that answer tells of it."""
    edit(billing, lambda plant: setattr(plant.policy.privacy, "refusal_noise", 8.0))
    store = fill(billing)
    bring(store, 29, bad=1)
    billing.repository().freeze(store)
    go(billing, TASK)
    assert refused(billing, OPEN) == "quarantine"


def test_a_store_is_never_read_whole(
    billing: PlantDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither to be asked about, nor to be trained on, nor to be measured."""

    def unexpected(*_: object) -> None:
        raise AssertionError("all readings were asked for")

    monkeypatch.setattr(snapshots, "load", unexpected)
    monkeypatch.setattr(snapshots, "dataset_of", unexpected)
    billing.repository().freeze(fill(billing))
    go(billing, TASK)
    measure_sizes(billing, TASK, 8.0)
    measure_ranges(billing, TASK, 8.0)
    assert charges(billing) == ["contract+quarantine", "training", "units", "ranges"]


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


def test_readings_that_an_older_version_let_in_are_named_and_refused_until_they_are_held_again(
    shop: PlantDirectory,
) -> None:
    old = fill(shop, machines=3)
    old.settle()
    newer = replace(TASK.contract, version=2)
    store = Store(old.path, newer)
    rows = {"machine": ["9"] * 12, "cycle": [float(n) for n in range(12)], "health": [0.1] * 12}
    store.add(pa.table(rows | {"rul": [None] * 12}, schema=layout(newer)))
    made = shop.repository().freeze(store)
    manifest = json.loads((shop.data / "readings" / "manifest.json").read_text())
    assert manifest["versions"] == {"1": 36, "2": 12}
    assert manifest["others"] == {f"0/{name}.parquet": "1" for name in range(3)}
    own_contract(shop, version=2)
    task = replace(OPEN, contract=newer)
    with pytest.raises(
        Refusal, match=r"version 1 and 2 .* version 2 yet \(3 partitions: 0/0\.parquet\)"
    ) as caught:
        go(shop, task)
    assert caught.value.code == "contract_version"
    assert hold_again(store) == (36, 0)
    assert shop.repository().freeze(store).digest != made.digest
    assert go(shop, task) == 0


@pytest.mark.parametrize("gone", [None, "0"])
def test_that_readings_were_not_held_again_tells_nothing_of_them(
    shop: PlantDirectory, gone: str | None
) -> None:
    newer = replace(TASK.contract, version=2)
    rows = {"machine": ["0"], "cycle": [1.0], "health": [0.1], "rul": [None]}
    Store(shop.path / "store", TASK.contract).add(pa.table(rows, schema=layout(TASK.contract)))
    store = Store(shop.path / "store", newer)
    if gone:
        store.erase(gone)
    store.add(pa.table(rows | {"machine": ["1"]}, schema=layout(newer)))
    task = replace(OPEN, contract=newer)
    with pytest.raises(Refusal, match="version 1 and 2 were not held") as caught:
        intake.require_kept(shop.repository().freeze(store), task)
    assert caught.value.code == "contract_version"
    hold_again(store)
    intake.require_kept(shop.repository().freeze(store), task)


def test_what_comes_under_an_older_version_afterwards_is_to_be_held_again(shop: PlantDirectory) -> None:
    running, newer = fill(shop, machines=2), replace(TASK.contract, version=2)
    store = Store(running.path, newer)
    hold_again(store)
    assert store.held.versions() == ["2"]
    running.begin()  # a source that was started before brings readings, or would
    assert store.held.versions() == ["2", "1"]
    (running.path / "held.json").write_text("[")
    running.begin()
    with pytest.raises(Refusal, match="version unknown and 1 were not held"):
        intake.require_kept(shop.repository().freeze(store), replace(OPEN, contract=newer))


@pytest.mark.parametrize(
    ("label", "texts", "fits"),
    [
        ("rul", ["ok"], True),
        ("rul", ["dent", "ok"], True),
        ("rul", ["ok", "rework"], False),
        ("rul", [], False),
        ("other", [], True),
    ],
)
def test_a_snapshot_without_the_texts_of_a_task_is_refused(
    shop: PlantDirectory, label: str, texts: list[str], fits: bool
) -> None:
    contract = replace(TASK.contract, texts=["ok", "dent"])
    store = Store(shop.path / "store", contract)
    rows = {"machine": ["1"] * 2, "cycle": [1.0, 2.0], "health": [0.1] * 2, "rul": [None] * 2}
    store.add(pa.table(rows, schema=layout(contract)))
    shop.repository().freeze(store)
    task = replace(TASK, contract=replace(contract, label=label, texts=texts))
    if fits:
        intake.require_kept(shop.repository().open(), task)
    else:
        with pytest.raises(
            Refusal, match=r"contract\.texts: the task needs .* has \['ok', 'dent'\]"
        ) as caught:
            intake.require_kept(shop.repository().open(), task)
        assert caught.value.code == "contract_version"


@pytest.mark.parametrize(("said", "texts"), [(["True", "False"], '["False", "True"]'), (["1", "0"], "")])
def test_a_sample_tells_the_label_as_it_stands_in_the_file(
    tmp_path: Path, said: list[str], texts: str
) -> None:
    rows = "".join(f"{number},{number / 10},{one}\n" for number, one in enumerate(said))
    (tmp_path / "a.csv").write_text("cycle,a,q\n" + rows)
    drafted = draft(intake.sample(tmp_path / "a.csv", "q"), "q")
    assert f"texts: {texts}" in drafted if texts else "texts" not in drafted
