"""Labels that come later than their readings: from sources, from tables of labels, and from persons."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interplant.core.contract import RESERVED, Column, Contract
from interplant.core.possible import Impossible
from interplant.core.schema import Source, Split, Task, Training, Window
from interplant.core.targets import Target
from interplant.data import blocks, corrections, door, ingest
from interplant.data import labels as labels_of
from interplant.data.cuts import windows_of
from interplant.data.ingest import Brought, hold_again
from interplant.data.late import Late, Waiting
from interplant.data.mapped import Cut
from interplant.data.releasing import release
from interplant.data.repository import Repository
from interplant.data.snapshots import Snapshot
from interplant.data.sources import Batch
from interplant.data.store import Store
from interplant.data.windows import Windows

CONTRACT = Contract(label="y", never=["cause"], sensors={"a": Column("", 0, 9)})
MES = Source(name="mes", kind="folder")


def take(store: Store, **columns: list[Any]) -> Brought:
    """Bring rows in as a source does, and move them to their partitions."""
    brought = Brought("mes")
    ingest.take(store, MES, Batch(pa.table(columns), "export.csv", lambda: None), brought)
    store.settle()
    return brought


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Machines 1 and 2 with readings at 1 to 4, and no label."""
    found = Store(tmp_path / "store", CONTRACT)
    take(found, machine=["1"] * 4 + ["2"] * 4, cycle=[1, 2, 3, 4] * 2, a=[5.0] * 8)
    return found


def labels(store: Store, machine: str = "1") -> list[tuple[float, float | None, float | None]]:
    """Time, label, correction."""
    (found,) = [store.read(one) for one in store.partitions() if one.machine == machine]
    said = found.column(corrections.VALUE) if corrections.VALUE in found.column_names else [None] * len(found)
    values = [one.as_py() if one is not None else None for one in said]
    return list(zip(found.column("cycle").to_pylist(), found.column("y").to_pylist(), values, strict=True))


def correct(store: Store, time: float, value: float, told: float = 1.0, **words: Any) -> None:
    said = Late(words.pop("machine", "1"), time, "y", value, "prediction p", "", told=told, prediction="p")
    store.correct(lambda: [said._replace(**words)])
    store.settle()


# --- from sources ----------------------------------------------------------------------------------


def test_a_table_of_labels_alone_fills_the_labels_of_the_readings_that_are_there(store: Store) -> None:
    brought = take(
        store, machine=["1", "1", "2"], cycle=[2, 3, 4], y=[7.0, 8.0, 9.0], cause=[None, 1.0, None]
    )
    assert (brought.rows, brought.bad) == (3, 0)
    assert labels(store) == [(1, None, None), (2, 7, None), (3, 8, None), (4, None, None)]
    (own,) = [store.read(one) for one in store.partitions() if one.machine == "1"]
    assert own.column("cause").to_pylist() == [None, None, 1, None]
    assert [(one.rows, one.labelled) for one in store.partitions()] == [(4, 2), (4, 1)]
    assert (store.late.count(), store.quarantine.rows()) == (0, 0)


def test_a_label_that_comes_before_its_reading_waits_for_it(store: Store) -> None:
    take(store, machine=["1", "3"], cycle=[5, 1], y=[7.0, 2.0])
    assert store.late.count() == 2
    assert labels(Store(store.path, CONTRACT)) == labels(store) == [(one, None, None) for one in (1, 2, 3, 4)]
    take(store, machine=["1"], cycle=[5], a=[5.0])
    assert labels(store)[-1] == (5, 7, None)
    assert store.late.count() == 1


def test_a_row_that_comes_again_brings_its_label_and_overwrites_nothing(store: Store) -> None:
    take(store, machine=["1", "1"], cycle=[1, 2], a=[5.0, 6.0], y=[7.0, 8.0])
    assert labels(store)[:2] == [(1, 7, None), (2, 8, None)]
    assert store.read(store.partitions()[0]).column("a").to_pylist() == [5, 5, 5, 5]
    assert [row[1:4] for row in store.quarantine.summary()] == [("conflict", "cycle", 1)]


def test_of_two_labels_of_sources_the_first_stands_and_the_other_is_kept_with_its_reason(
    store: Store,
) -> None:
    take(store, machine=["1"], cycle=[1], y=[7.0])
    take(store, machine=["1"], cycle=[1], y=[7.0])
    assert store.quarantine.rows() == 0
    take(store, machine=["1"], cycle=[1], y=[8.0])
    assert labels(store)[0] == (1, 7, None)
    assert store.quarantine.summary() == [("mes", "conflict", "y", 1, "8")]
    assert release(store, [MES]) == 0
    assert store.quarantine.summary() == [("mes", "conflict", "y", 1, "8")], (
        "it is looked at, and still wrong"
    )


@pytest.mark.parametrize("label", ["soon", "inf"])
def test_a_label_that_is_none_goes_to_quarantine_as_a_label(store: Store, label: str) -> None:
    brought = take(store, machine=["1"], cycle=["1"], y=[label])
    rule = {"soon": "type", "inf": "finite"}[label]
    assert (brought.bad, store.quarantine.summary()) == (1, [("mes", rule, "y", 1, label)])


def test_a_label_may_be_later_than_a_reading_may(tmp_path: Path) -> None:
    store = Store(tmp_path, replace(CONTRACT, late=1.0))
    take(store, machine=["1"] * 3, cycle=[1, 2, 9], a=[5.0] * 3)
    take(store, machine=["1"], cycle=[1], y=[7.0])
    take(store, machine=["1"] * 2, cycle=[2, 3], a=[5.0] * 2, y=[8.0, 9.0])
    assert labels(store) == [(1, 7, None), (2, 8, None), (9, None, None)]
    assert [row[1:4] for row in store.quarantine.summary()] == [("late", "cycle", 1)], (
        "the reading at 3 is new"
    )


# --- from persons ----------------------------------------------------------------------------------


def test_a_correction_stands_beside_what_a_source_says_whichever_comes_first(store: Store) -> None:
    take(store, machine=["1"], cycle=[1], y=[7.0])
    correct(store, 1, 3.0)
    correct(store, 2, 4.0)
    take(store, machine=["1"], cycle=[2], y=[8.0])
    assert labels(store)[:2] == [(1, 7, 3), (2, 8, 4)]
    assert store.quarantine.rows() == 0
    (partition, _) = store.partitions()
    assert (partition.labelled, partition.corrected) == (2, 2)
    assert store.read(partition).column(corrections.PREDICTION).to_pylist() == ["p", "p", None, None]


def test_the_last_correction_wins_and_one_that_says_the_same_changes_nothing(store: Store) -> None:
    correct(store, 1, 3.0, told=1.0)
    correct(store, 1, 4.0, told=2.0, prediction="q")
    correct(store, 1, 3.0, told=1.0)  # carried twice
    assert labels(store)[0] == (1, None, 4)
    before = store.partitions()[0].sha256
    correct(store, 1, 4.0, told=3.0, prediction="r")
    assert (store.partitions()[0].sha256, store.late.count()) == (before, 0)
    assert store.index.corrections() == 2


def test_a_correction_waits_for_its_reading_and_stays_with_it(store: Store) -> None:
    correct(store, 6, 3.0)
    assert store.late.count() == 1
    take(store, machine=["1"], cycle=[6], a=[5.0])
    take(store, machine=["1"], cycle=[5], a=[5.0])
    assert labels(store)[-2:] == [(5, None, None), (6, None, 3)]


@pytest.mark.parametrize("time", [1e308, -1e308])
def test_a_time_that_no_reading_has_keeps_nothing_from_settling(store: Store, time: float) -> None:
    correct(store, time, 3.0)
    correct(store, 1, 4.0)
    assert (store.late.count(), labels(store)[0]) == (1, (1, None, 4))
    assert store.has(["1", "1"], np.array([time, 1.0])).tolist() == [False, True]


def test_readings_of_a_moment_are_found_by_their_microsecond(tmp_path: Path) -> None:
    store = Store(tmp_path, replace(CONTRACT, clock="timestamp", time="at"))
    take(store, machine=["1"], at=["2026-03-01T23:59:59.999999Z"], a=[5.0])
    (partition,) = store.partitions()
    correct(store, int(partition.first), 3.0)
    assert store.read(store.partitions()[0]).column(corrections.VALUE).to_pylist() == [3.0]


def test_where_values_are_held_over_a_correction_is_about_the_interval(tmp_path: Path) -> None:
    store = Store(
        tmp_path, replace(CONTRACT, hold=3.0, sensors={"a": Column("", 0, 9), "b": Column("", 0, 9)})
    )
    take(store, machine=["1"] * 3, cycle=[1.2, 1.4, 2.1], a=[5.0, None, 6.0], b=[None, 5.0, None])
    correct(store, 1, 3.0)
    assert labels(store) == [(1.2, None, None), (1.4, None, 3), (2.1, None, None)]


def test_readings_that_are_held_again_keep_their_corrections(store: Store) -> None:
    correct(store, 1, 3.0)
    correct(store, 2, 4.0, told=2.0)
    newer = replace(CONTRACT, version=2, sensors={"a": Column("", 0, 3)})
    assert hold_again(Store(store.path, newer)) == (8, 0)
    assert labels(store)[:2] == [(1, None, 3), (2, None, 4)]
    assert store.index.corrections() == 2, "each is counted once"
    strict = Store(store.path, replace(newer, version=3, sensors={"a": Column("", 0, 1)}))
    hold_again(strict)
    assert (strict.partitions(), strict.late.count()) == ([], 2), (
        "they wait until their readings are released"
    )


def test_readings_that_lack_every_input_of_a_newer_contract_are_no_labels(store: Store) -> None:
    take(store, machine=["1"], cycle=[1], y=[7.0])
    other = Store(store.path, replace(CONTRACT, version=2, sensors={"b": Column("", 0, 9)}))
    assert hold_again(other) == (0, 8)
    assert (other.late.count(), other.quarantine.rows()) == (0, 8)


def test_a_kill_while_a_label_joins_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Waiting, "looked", killed)
        with pytest.raises(Killed):
            correct(store, 1, 3.0)
    again = Store(store.path, CONTRACT)
    before = again.partitions()
    again.settle()
    assert (again.partitions(), labels(again)[0], again.late.count()) == (before, (1, None, 3), 0)


def test_what_is_erased_takes_its_labels_along(store: Store) -> None:
    correct(store, 1, 3.0)
    correct(store, 9, 4.0)
    correct(store, 9, 5.0, machine="2")
    store.erase("1")
    assert store.late.count() == 1
    assert b'"1"' not in store.late.path.read_bytes()
    with sqlite3.connect(store.late.path) as database:
        assert database.execute("SELECT machine FROM late").fetchall() == [("2",)]
    take(store, machine=["1"], cycle=[1], a=[5.0])
    assert labels(store) == [(1, None, None)]
    store.erase("2", 9, 9)
    assert store.late.count() == 0


def test_an_index_of_another_version_is_made_anew(store: Store) -> None:
    correct(store, 1, 3.0)
    with sqlite3.connect(store.index.path) as database:
        database.execute("ALTER TABLE part DROP COLUMN corrected")
    assert Store(store.path, CONTRACT).partitions() == store.partitions()


def test_the_columns_of_corrections_are_no_names_of_a_contracts() -> None:
    assert corrections.COLUMNS == RESERVED
    taken = replace(CONTRACT, sensors={corrections.TOLD: Column("", 0, 9)})
    with pytest.raises(Impossible, match="expected other names than _corrected"):
        taken.check()


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=6,
        unique_by=lambda one: one[0],
    )
)
def test_the_last_word_about_a_machines_failure_is_kept_whatever_was_said_before(
    said: list[tuple[int, int]],
) -> None:
    at, value = (np.array(column, np.float64) for column in zip(*said, strict=True))
    failures = labels_of.ends(at, value, np.arange(len(said), dtype=np.float64))
    last = failures[np.searchsorted(failures, at[-1])]
    assert last == at[-1] + value[-1]
    assert set(failures) <= set(at + value)


# --- snapshots and windows -------------------------------------------------------------------------


def task(kind: str = "value", **words: Any) -> Task:
    loss = {"event": "bce", "class": "cross_entropy"}.get(kind, "mse")
    target = Target(kind=kind, **({"low": 0.0, "high": 10.0} if kind == "value" else {}) | words)
    return Task(
        name="t",
        contract=CONTRACT,
        window=Window(1),
        target=target,
        training=Training(loss=loss),
        split=Split(holdout=0.5),
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "data", tmp_path / "remote")


def trained(snapshot: Snapshot, asked: Task, folder: Path) -> list[float]:
    """Labels of machine 1's windows, the same whichever way they are cut."""
    from interplant.data.windows import training_windows

    ways: list[Windows] = []
    for checked in (False, True):
        frame = snapshot.dataset(asked.split)
        parts = frame.train if 1 in set(frame.train["machine"]) else frame.holdout
        ways.append(training_windows(parts, asked, checked))
        held = parts is not frame.train
        ways.append(windows_of(snapshot, asked, folder, Cut(held=held, checked=checked)))
    found = [[float(one) for one in way.y[np.asarray(way.machine) == 1]] for way in ways]
    assert found[1:] == found[:-1]
    return found[0]


def test_the_next_snapshot_has_the_label_and_only_what_changed_is_new(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    take(store, machine=["1"] * 4 + ["2"] * 4, cycle=[1, 2, 3, 4] * 2, y=[1.0, 2.0, 3.0, 4.0] * 2)
    first = repository.freeze(store)
    assert trained(first, task(), tmp_path / "w") == [1, 2, 3, 4]
    correct(store, 3, 9.0)
    second = repository.freeze(store)
    assert trained(second, task(), tmp_path / "w") == [1, 2, 9, 4]
    assert trained(repository.open(first.digest), task(), tmp_path / "w") == [1, 2, 3, 4]
    changed = {name for name in second.files if first.files.get(name) != second.files[name]}
    assert changed == {"0/1.parquet", "manifest.json"}
    assert (second.rows, second.corrections, repository.log()[0].corrections) == (8, 1, 1)
    assert json.loads((repository.path / "readings" / "manifest.json").read_text())["corrected"] == 1
    assert repository.freeze(store) == second
    assert store.index.corrections() == 0


def test_corrections_alone_are_no_news_of_readings(store: Store, repository: Repository) -> None:
    take(store, machine=["1"] * 3, cycle=[5, 6, 7], a=["x", "x", "5"])
    first = repository.freeze(store)
    assert first.quarantined == 2
    correct(store, 3, 9.0)
    second = repository.freeze(store)
    assert (second.intake, second.quarantined, second.sources) == (first.intake, 2, {})


def test_labels_are_no_new_readings_to_the_drift_monitor(store: Store, repository: Repository) -> None:
    made = repository.freeze(store)
    correct(store, 3, 9.0)
    assert list(blocks.of_store(store, made, CONTRACT)) == []
    take(store, machine=["2"], cycle=[5], a=[5.0])
    assert [len(one) for one in blocks.of_store(store, made, CONTRACT)] == [5]


def test_a_partition_without_corrections_is_written_as_before(store: Store) -> None:
    path = store.readings / "0" / "1.parquet"
    assert pq.read_table(path).column_names == door.layout(CONTRACT).names


def test_labels_may_come_from_persons_alone(store: Store, repository: Repository, tmp_path: Path) -> None:
    correct(store, 3, 9.0)
    made = repository.freeze(store)
    assert trained(made, task(), tmp_path / "w") == [9]
    assert trained(made, task("class", classes=[1, 9]), tmp_path / "w") == [1]


def test_an_event_within_the_horizon_is_told_of_its_own_window_alone(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    take(store, machine=["1"] * 4 + ["2"] * 4, cycle=[1, 2, 3, 4] * 2, y=[0.0] * 8)
    correct(store, 2, 1.0, horizon=2.0)
    made = repository.freeze(store)
    assert trained(made, task("event", horizon=2.0), tmp_path / "w") == [0, 1]
    assert trained(made, task("event", horizon=1.0), tmp_path / "w") == [0, 0, 0]
    correct(store, 3, 1.0, told=2.0)
    made = repository.freeze(store)
    assert trained(made, task("event", horizon=1.0), tmp_path / "w") == [0, 1, 1]


def test_the_time_left_at_one_reading_tells_when_the_machine_fails(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    wear = task("time_to_failure")
    assert trained(repository.freeze(store), wear, tmp_path / "w") == [3, 2, 1, 0]
    correct(store, 3, 10.0)
    assert trained(repository.freeze(store), wear, tmp_path / "w") == [12, 11, 10, 9]
    correct(store, 2, 1.0, told=2.0)  # it failed at 3, was mended, and its record ends at 4
    assert trained(repository.freeze(store), wear, tmp_path / "w") == [2, 1, 0, 0]


def test_where_sources_tell_the_time_left_a_correction_is_of_its_reading(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    take(store, machine=["1"] * 4 + ["2"] * 4, cycle=[1, 2, 3, 4] * 2, y=[8.0, 7.0, 6.0, 5.0] * 2)
    correct(store, 3, 10.0)
    assert trained(repository.freeze(store), task("time_to_failure"), tmp_path / "w") == [8, 7, 10, 5]
