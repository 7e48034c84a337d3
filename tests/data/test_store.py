"""The store: every reading once, in its machine's day, on disk before anybody is told so."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.schema import Source
from interplant.data import door, partitions, store
from interplant.data.index import Index
from interplant.data.ingest import hold_again
from interplant.data.releasing import release
from interplant.data.store import Added, Store

STAMPED = Contract(
    clock="timestamp", time="at", label="y", sensors={"a": Column("", 0, 9), "b": Column("", 0, 9)}
)
COUNTED = Contract(label="y", sensors={"a": Column("", 0, 9), "b": Column("", 0, 9)})
PARTIAL = Contract(label="y", hold=3, sensors=COUNTED.sensors)
DAY = 86_400_000_000


def readings(contract: Contract, rows: list[dict[str, Any]]) -> pa.Table:
    layout = door.layout(contract)
    return pa.table({name: [row.get(name) for row in rows] for name in layout.names}, schema=layout)


def row(
    machine: str, time: float, a: float | None = 1.0, b: float | None = 2.0, **more: Any
) -> dict[str, Any]:
    return {"machine": machine, "cycle": time, "at": time, "a": a, "b": b, **more}


def contents(found: Store) -> list[tuple[Any, ...]]:
    return [
        tuple(one[name] for name in ("machine", "cycle", "a", "b", "y"))
        for partition in found.partitions()
        for one in found.read(partition).to_pylist()
    ]


def add(found: Store, *rows: dict[str, Any]) -> Added:
    found.add(readings(found.contract, list(rows)), "a file")
    return found.settle()


def test_a_partition_is_one_machines_day(tmp_path: Path) -> None:
    found = Store(tmp_path, STAMPED)
    found.add(readings(STAMPED, [row("press-1", 5), row("press-1", DAY + 5), row("saw/2", 5), row(".", 7)]))
    found.settle()
    names = [partition.name for partition in found.partitions()]
    assert names[1:] == [
        "1970-01-01/press-1.parquet",
        "1970-01-01/saw%2F2.parquet",
        "1970-01-02/press-1.parquet",
    ]
    assert [partition.machine for partition in found.partitions()][1:] == ["press-1", "saw/2", "press-1"]
    assert pq.read_table(tmp_path / "readings" / names[1]).schema.names == door.layout(STAMPED).names


def test_counts_fall_into_blocks(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", -1), row("1", 0), row("1", partitions.BLOCK))
    assert [partition.name for partition in found.partitions()] == [
        "-100000/1.parquet", "0/1.parquet", "100000/1.parquet",
    ]  # fmt: skip


def test_a_reading_is_there_once_however_often_it_comes(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    assert add(found, row("1", 1), row("1", 2), row("1", 1)) == Added(2, 1, 0)
    assert add(found, row("1", 2), row("1", 3)) == Added(1, 1, 0)
    assert [one[1] for one in contents(found)] == [1, 2, 3]


def test_readings_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 5), row("1", 3))
    add(found, row("1", 4))
    assert [one[1] for one in contents(found)] == [3, 4, 5]


def test_what_contradicts_a_stored_reading_goes_to_quarantine(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    assert add(found, row("1", 1, a=1.0)) == Added(1, 0, 0)
    assert add(found, row("1", 1, a=5.0), row("1", 2)) == Added(1, 0, 1)
    assert contents(found)[0] == ("1", 1, 1.0, 2.0, None)
    assert found.quarantine.summary() == [("", "conflict", "cycle", 1, "1")]
    ((_, table),) = found.quarantine.tables()
    assert (table.column("row.a").to_pylist(), table.column("_origin").to_pylist()) == (["5"], ["a file"])


def test_a_label_may_come_later(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1))
    assert add(found, row("1", 1, y=7.0)) == Added(0, 0, 0)
    assert contents(found) == [("1", 1, 1.0, 2.0, 7.0)]
    assert add(found, row("1", 1, y=8.0)) == Added(0, 0, 1)


def test_partial_readings_complete_each_other(tmp_path: Path) -> None:
    found = Store(tmp_path, PARTIAL)
    add(found, row("1", 1, a=3.0, b=None), row("1", 1, a=None, b=4.0))
    add(found, row("1", 2, a=5.0, b=None))
    add(found, row("1", 2, a=5.0, b=6.0))
    assert [one[1:4] for one in contents(found)] == [(1, 3.0, 4.0), (2, 5.0, 6.0)]


def test_where_values_are_not_held_over_a_partial_reading_contradicts_a_whole_one(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1, a=None, b=2.0))
    assert add(found, row("1", 1, a=3.0, b=2.0)).conflicts == 1


def test_what_was_added_survives_the_process(tmp_path: Path) -> None:
    Store(tmp_path, COUNTED).add(readings(COUNTED, [row("1", 1)]))
    again = Store(tmp_path, COUNTED)
    assert again.waiting() == 1
    assert again.settle() == Added(1, 0, 0)
    assert (again.waiting(), len(contents(again))) == (0, 1)


def test_a_kill_while_readings_move_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Store(tmp_path, COUNTED)
    found.add(readings(COUNTED, [row("1", 1), row("2", 1)]))

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Index, "put", killed)
        with pytest.raises(Killed):
            found.settle()
    again = Store(tmp_path, COUNTED)
    assert again.settle() == Added(0, 2, 0)
    assert len(contents(again)) == 2


def test_many_readings_go_to_their_partitions_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "DIRECT", 3)
    found = Store(tmp_path, COUNTED)
    assert found.add(readings(COUNTED, [row("1", 1), row("1", 2), row("1", 3)])) == Added(3, 0, 0)
    assert found.waiting() == 0


def test_what_waits_moves_when_it_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST", 2)
    found = Store(tmp_path, COUNTED)
    assert found.add(readings(COUNTED, [row("1", 1)])) == Added()
    assert found.add(readings(COUNTED, [row("1", 2)])) == Added(2, 0, 0)


def test_the_newest_time_of_each_machine_is_known(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1), row("1", partitions.BLOCK + 4), row("2", 3))
    assert found.newest() == {"1": partitions.BLOCK + 4, "2": 3}


def test_the_same_readings_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one", COUNTED), Store(tmp_path / "other", COUNTED)
    add(one, row("1", 1), row("1", 2))
    add(other, row("1", 2))
    add(other, row("1", 1))
    assert [partition.sha256 for partition in one.partitions()] == [
        partition.sha256 for partition in other.partitions()
    ]


def test_the_index_follows_what_was_changed_by_hand(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1), row("2", 1))
    (found.readings / "0" / "2.parquet").unlink()
    pq.write_table(readings(COUNTED, [row("1", 1), row("1", 2)]), found.readings / "0" / "1.parquet")
    (partition,) = found.partitions()
    assert (partition.rows, partition.last) == (2, 2)
    found.index.path.unlink()
    (again,) = Store(tmp_path, COUNTED).partitions()
    assert again == partition


def test_a_partition_that_is_no_parquet_is_one_sentence(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1))
    (found.readings / "0" / "1.parquet").write_bytes(b"junk")
    with pytest.raises(InterplantError, match=r"1\.parquet: expected readings"):
        found.partitions()
    with pytest.raises(InterplantError, match=r"1\.parquet: cannot be read as Parquet"):
        add(found, row("1", 2))
    assert found.waiting() == 1


@pytest.mark.parametrize(
    ("machine", "first", "last", "left"),
    [
        ("1", None, None, [("2", 1), ("2", 9)]),
        (None, 2, 10, [("1", 1), ("2", 1)]),
        ("2", 9, 9, [("1", 1), ("1", 5), ("2", 1)]),
        (None, None, 1, [("1", 5), ("2", 9)]),
    ],
)
def test_a_machine_or_a_period_is_erased(
    tmp_path: Path, machine: str | None, first: float | None, last: float | None, left: list[tuple[str, int]]
) -> None:
    found = Store(tmp_path, COUNTED)
    found.add(readings(COUNTED, [row("1", 1), row("1", 5), row("2", 1), row("2", 9)]))
    found.erase(machine, first, last)
    assert [one[:2] for one in contents(found)] == left
    assert sum(partition.rows for partition in found.partitions()) == len(left)


def test_erasing_reaches_the_quarantine(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1), row("2", 1))
    add(found, row("1", 1, a=5.0), row("2", 1, a=5.0))
    found.erase("1")
    ((_, table),) = found.quarantine.tables()
    assert table.column("_machine").to_pylist() == ["2"]


KEYS = st.tuples(st.sampled_from(["1", "2"]), st.integers(0, 4))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(
        st.tuples(st.lists(st.tuples(KEYS, st.integers(0, 2)), max_size=6), st.booleans()), max_size=5
    )
)
def test_whatever_comes_the_first_of_each_key_stands(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[tuple[tuple[str, int], int]], bool]]
) -> None:
    found = Store(tmp_path_factory.mktemp("store"), COUNTED)
    expected: dict[tuple[str, int], int] = {}
    conflicts = set()
    for batch, settle in batches:
        found.add(readings(COUNTED, [row(machine, time, a=float(value)) for (machine, time), value in batch]))
        for key, value in batch:
            if expected.setdefault(key, value) != value:
                conflicts.add((key, value))
        if settle:
            found.settle()
    found.settle()
    assert {(one[0], one[1]): one[2] for one in contents(found)} == expected
    assert found.quarantine.rows() == len(conflicts)


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Store(tmp_path, COUNTED)
    found.add(readings(COUNTED, [row("1", 1)]))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(InterplantError, match="disk is full"):
            found.settle()
    assert found.settle() == Added(1, 0, 0)
    assert not [path for path in found.readings.rglob("*") if path.name.startswith(".")]


def test_times_are_whole_microseconds(tmp_path: Path) -> None:
    assert partitions.moments(readings(STAMPED, [row("1", 7)]), STAMPED).dtype == np.int64


def test_a_column_that_is_new_in_the_contract_has_no_value_in_older_readings(tmp_path: Path) -> None:
    add(Store(tmp_path, COUNTED), row("1", 1))
    wider = replace(COUNTED, version=2, sensors={**COUNTED.sensors, "c": Column("", 0, 9)})
    found = Store(tmp_path, wider)
    assert add(found, row("1", 2, c=3.0)) == Added(1, 0, 0)
    (partition,) = found.partitions()
    assert found.read(partition).column("c").to_pylist() == [None, 3.0]


def test_a_row_is_in_quarantine_once_however_often_it_comes(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    rows = pa.table({"machine": ["1", "1"], "cycle": [1, 2], "a": ["x", "y"], "b": [1, 1]})
    bad = door.admit(rows, COUNTED, Source(name="s", kind="folder"), "o").bad
    assert found.hold(bad) == {"1": 2}
    assert Store(tmp_path, COUNTED).hold(bad).total() == 0
    assert found.quarantine.rows() == 2


def test_what_a_killed_writer_left_is_erased(tmp_path: Path) -> None:
    found = Store(tmp_path, COUNTED)
    add(found, row("1", 1), row("2", 1))
    left = [found.readings / "0" / ".1.parquet.abc", tmp_path / "incoming" / ".000.part"]
    for path in left:
        path.write_bytes(b"readings")
    found.erase("1")
    assert not any(path.exists() for path in left)


# --- versions of the contract ----------------------------------------------------------------------


def test_a_partition_says_which_versions_its_readings_were_held_to(tmp_path: Path) -> None:
    Store(tmp_path, COUNTED).add(readings(COUNTED, [row("1", 1), row("1", 2)]))
    more = {**COUNTED.sensors, "c": Column("", 0, 9)}
    second = Store(tmp_path, replace(COUNTED, version=2, sensors=more))
    second.settle()
    assert [one.versions for one in second.partitions()] == ["1"], "held to the first when they came"
    add(second, row("1", 1, c=None))
    assert [one.versions for one in second.partitions()] == ["1"], "it was there"
    third = Store(tmp_path, replace(COUNTED, version=10))
    add(third, row("1", 3))
    (one,) = third.partitions()
    assert one.versions == "1,10"
    assert third.erase("1", 3, 3) == 1
    assert [left.versions for left in third.partitions()] == ["1,10"], "which of them went is not known"
    add(third, row("1", 3))
    (one,) = third.partitions()
    (tmp_path / "index.db").unlink()
    assert Store(tmp_path, COUNTED).partitions() == [one]


def test_held_again_what_breaks_the_contract_goes_to_quarantine(tmp_path: Path) -> None:
    add(Store(tmp_path, COUNTED), row("1", 1), row("1", 2, a=8.0), row("1", 3))
    narrow = replace(COUNTED, version=2, sensors={**COUNTED.sensors, "a": Column("", 0, 2)})
    store = Store(tmp_path, narrow)
    assert hold_again(store) == (2, 1)
    assert [(one.rows, one.versions) for one in store.partitions()] == [(2, "2")]
    assert [row[:4] for row in store.quarantine.summary()] == [("held-again", "range", "a", 1)]
    assert hold_again(store) == (0, 0)
    wide = Store(tmp_path, replace(COUNTED, version=3))
    assert release(wide, []) == 1
    assert [(one.rows, one.versions) for one in wide.partitions()] == [(3, "2,3")]
