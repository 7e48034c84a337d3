"""Labels that are text: from a file through the store to windows, and what a place means."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from interplant.core import config
from interplant.core.contract import Column, Contract
from interplant.core.possible import Impossible
from interplant.core.schema import Source, Split, Task, Training, Window
from interplant.core.targets import Target
from interplant.data import door, drafting, ingest, labels
from interplant.data.cuts import windows_of
from interplant.data.ingest import Brought, hold_again
from interplant.data.mapped import Cut
from interplant.data.releasing import release
from interplant.data.repository import Repository
from interplant.data.sources import Batch, Place, open_source
from interplant.data.store import Store
from interplant.data.texts import code

TEXTS = ["ok", "scratch", "dent"]
CONTRACT = Contract(label="quality", texts=TEXTS, sensors={"a": Column("", 0, 9)})
TASK = Task(
    name="finish",
    contract=CONTRACT,
    window=Window(length=1, stride=1),
    split=Split(holdout=0.5),
    target=Target(kind="class", classes=["dent", "ok"]),
    training=Training(loss="cross_entropy"),
)
MES = Source(name="mes", kind="folder")


def take(store: Store, quality: list[Any], machine: str = "1", **columns: list[Any]) -> Brought:
    brought, rows = Brought("mes"), len(quality)
    table = {"machine": [machine] * rows, "cycle": list(range(rows)), "a": [5.0] * rows} | columns
    ingest.take(store, MES, Batch(pa.table(table | {"quality": quality}), "a.csv", lambda: None), brought)
    store.settle()
    return brought


def kept(store: Store, machine: str = "1") -> list[str | None]:
    (found,) = [store.read(one) for one in store.partitions() if one.machine == machine]
    return door.as_it_came(found, store.contract, store.texts).column("quality").to_pylist()


def held(store: Store) -> list[tuple[str, str, str]]:
    names = ("_rule", "_column", "_value")
    return [
        row
        for _, one in store.quarantine.tables()
        for row in zip(*(one.column(n).to_pylist() for n in names), strict=True)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", CONTRACT)


def test_a_store_keeps_a_text_as_a_number(store: Store) -> None:
    take(store, ["ok", " dent ", None, "", "scratch"])
    assert kept(store) == ["ok", "dent", None, None, "scratch"]
    (one,) = store.partitions()
    numbers = store.read(one).column("quality").to_pylist()
    assert numbers == [code("ok"), code("dent"), None, None, code("scratch")]
    assert 2.0**52 <= code("ok") == int(code("ok")) < 2.0**53


def test_another_text_goes_to_quarantine_and_comes_back_once_the_contract_has_it(store: Store) -> None:
    brought = take(store, ["ok", "rework", "OK"])
    assert brought.rules == {"text quality": 2}
    assert sorted(held(store)) == [("text", "quality", "OK"), ("text", "quality", "rework")]
    wider = Store(store.path, replace(CONTRACT, version=2, texts=[*TEXTS, "rework"]))
    assert release(wider, [MES]) == 1
    assert kept(wider) == ["ok", "rework"]


def test_a_csv_is_read_as_text_whatever_it_looks_like(tmp_path: Path) -> None:
    contract = replace(CONTRACT, texts=["true", "2026-01-01"])
    (tmp_path / "a.csv").write_text("machine,cycle,a,q\n007,1,5,true\n007,2,5,2026-01-01\n")
    words = {"path": "a.csv", "settle_seconds": 0.01}
    source = Source(name="mes", kind="folder", args=words, columns={"q": "quality"})
    feed = open_source(source, Place(tmp_path, tmp_path / "state", contract))
    made = Store(tmp_path / "store", contract)
    ingest.ingest(made, [(source, feed)], False, threading.Event())
    assert kept(made, "007") == ["true", "2026-01-01"]


@pytest.mark.parametrize(
    ("target", "loss", "texts", "expected"),
    [
        (Target(kind="class", classes=["dent", "ok"]), "cross_entropy", TEXTS, [1, 0, 1]),
        (Target(kind="class", classes=["ok", "scratch", "dent"]), "cross_entropy", TEXTS, [0, 2, 0]),
        (Target(kind="event"), "bce", ["ok", "dent"], [0, 1, 0]),
    ],
)
def test_windows_of_a_snapshot_have_the_classes_of_the_task(
    tmp_path: Path, target: Target, loss: str, texts: list[str], expected: list[int]
) -> None:
    contract = replace(CONTRACT, texts=texts)
    made = Store(tmp_path / "store", contract)
    for machine in ("1", "2"):
        take(made, ["ok", "dent", None, "ok"], machine)
    task = replace(TASK, contract=contract, target=target, training=Training(loss=loss))
    task.check()
    repository = Repository.create(tmp_path / "data", tmp_path / "remote")
    repository.freeze(made)
    found = windows_of(repository.open(), task, tmp_path / "windows", Cut())
    np.testing.assert_array_equal(found.y, expected)


def test_a_text_that_the_task_does_not_tell_apart_is_named(store: Store) -> None:
    take(store, ["ok", "scratch"])
    (one,) = store.partitions()
    frame = store.read(one).to_pandas()
    (found,) = labels.violations(frame, TASK)
    assert (found.rule, found.count, found.expected) == (
        "label",
        1,
        "expected one of dent, ok, found 'scratch'",
    )
    table = frame.assign(quality=["ok", "scratch"])
    assert list(labels.violations(table, TASK)) == [found]


def test_a_label_that_comes_by_itself_joins_and_one_that_contradicts_is_held_as_it_came(store: Store) -> None:
    take(store, [None, "ok"])
    take(store, ["dent", "scratch"], a=[None, None])
    assert kept(store) == ["dent", "ok"]
    assert held(store) == [("conflict", "quality", "scratch")]
    assert release(store, [MES]) == 0, "it contradicts again"
    assert held(store) == [("conflict", "quality", "scratch")]


def test_readings_that_are_held_to_a_newer_contract_keep_their_labels(store: Store) -> None:
    take(store, ["ok", "dent"], a=[5.0, 14.0])
    newer = Store(store.path, replace(CONTRACT, version=2, sensors={"a": Column("", 0, 6)}))
    assert hold_again(newer) == (1, 1)
    assert kept(newer) == ["ok"]
    ((_, row),) = newer.quarantine.tables()
    assert row.column("row.quality").to_pylist() == ["dent"]


@pytest.mark.parametrize("texts", [["scratch", "ok", "dent"], ["dent", "ok"], [*TEXTS, "rework"]])
def test_a_text_says_the_same_under_any_contract(store: Store, texts: list[str]) -> None:
    take(store, ["ok", "scratch", "dent"])
    other = Store(store.path, replace(CONTRACT, texts=texts))
    take(other, ["dent"], "2")
    take(store, ["scratch", "ok"], "3")
    assert [kept(other, name) for name in ("1", "2", "3")] == [TEXTS, ["dent"], ["scratch", "ok"]]


def test_a_text_that_left_the_contract_is_named_and_comes_back(store: Store) -> None:
    take(store, ["ok", "dent"])
    (one,) = store.partitions()
    narrow = replace(CONTRACT, version=2, texts=["ok"])
    frame = store.read(one).to_pandas()
    task = replace(
        TASK, contract=replace(narrow, texts=["ok", "x"]), target=Target(kind="class", classes=["ok", "x"])
    )
    (found,) = labels.violations(frame, task)
    assert (found.count, found.expected.startswith("expected one of ok, x, found 4")) == (1, True)
    assert hold_again(Store(store.path, narrow)) == (1, 1)
    assert held(store) == [("text", "quality", "dent")]
    assert release(Store(store.path, replace(CONTRACT, version=3)), [MES]) == 1
    assert kept(store) == ["ok", "dent"]


def test_labels_that_were_numbers_do_not_become_texts(store: Store) -> None:
    numbers = Store(store.path, replace(CONTRACT, texts=[]))
    take(numbers, [0.0, 1.0])
    frame = store.read(*store.partitions()).to_pandas()
    (found,) = labels.violations(frame, TASK)
    assert (found.rule, found.count) == ("label", 2)


def test_texts_that_were_written_down_wrong_are_written_anew(store: Store) -> None:
    take(store, ["ok"])
    for content in ("null", "{}", "[1", "[1, 2]"):
        (store.path / "texts.json").write_text(content)
        assert kept(Store(store.path, CONTRACT)) == ["ok"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["ok", "ok"], "each once"),
        (["ok", " nok"], "without spaces"),
        (["ok", ""], "without spaces"),
        (["1", "007"], r"a label of numbers needs none, found \['1', '007'\]"),
        (["ok", True], r"expected texts, found \[True\]: write them in quotes"),
        (["ok", 7], r"expected texts, found \[7\]"),
    ],
)
def test_texts_that_cannot_be(texts: list[Any], said: str) -> None:
    with pytest.raises(Impossible, match=said):
        replace(CONTRACT, texts=texts).check()


@pytest.mark.parametrize(
    ("target", "loss", "said"),
    [
        (Target(kind="value"), "mse", "a label of target.kind value is a number"),
        (Target(kind="event"), "bce", "expected two"),
        (Target(kind="class", classes=["ok", "rework"]), "cross_entropy", r"some of contract\.texts"),
        (Target(kind="class", classes=[0, 1]), "cross_entropy", r"some of contract\.texts"),
    ],
)
def test_targets_that_do_not_fit_texts(target: Target, loss: str, said: str) -> None:
    with pytest.raises(Impossible, match=said):
        replace(TASK, target=target, training=Training(loss=loss)).check()


@pytest.mark.parametrize(
    "said",
    [["ok", "no"], ["true", "false"], ["deep, long", "c]d", "a: b", 'x"y'], ["1A", "7"], ["x" * 200, "y"]],
)
def test_a_draft_is_a_contract_with_the_texts_of_its_sample(tmp_path: Path, said: list[str]) -> None:
    table = pa.table({"cycle": [1, 2, 3, 4], "a": [1.0, 2, 3, 4], "q": (said * 4)[:4]})
    (tmp_path / "contract.yaml").write_text(drafting.draft(table, "q"))
    assert config.load(tmp_path / "contract.yaml", Contract).texts == sorted(said)


def test_a_draft_of_truths_has_texts_and_one_of_numbers_has_none() -> None:
    table = pa.table({"cycle": [1, 2], "a": [1.0, 2], "q": [True, False], "n": [1, 0]})
    assert 'texts: ["false", "true"]' in drafting.draft(table, "q")
    assert "texts" not in drafting.draft(table, "n")
