"""What is in quarantine: each row once, counted while it is there, and out again when it is mended."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.schema import Source
from interplant.data import door, ingest
from interplant.data.ingest import Brought, hold_again
from interplant.data.reasons import own
from interplant.data.releasing import release
from interplant.data.repository import Repository
from interplant.data.sources import Batch, Place, open_source
from interplant.data.store import Store

CONTRACT = Contract(
    machine="press",
    time="at",
    label="y",
    never=["why"],
    sensors={"a": Column("", 0, 9), "b": Column("", 0, 9)},
)
WIDE = replace(CONTRACT, sensors={"a": Column("", 0, 999), "b": Column("", 0, 9)})
STAMPED = replace(CONTRACT, clock="timestamp")
MES = Source(name="mes", kind="folder")
MAPPED = Source(name="mes", kind="folder", columns={"Maschine": "press"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", CONTRACT)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "data", tmp_path / "remote")


def take(store: Store, source: Source = MES, origin: str = "a.csv", **columns: list[Any]) -> Brought:
    brought, rows = Brought(source.name), max(map(len, columns.values()))
    table = {"press": ["1"] * rows, "at": list(range(rows)), "a": [5.0] * rows, "b": [5.0] * rows} | columns
    table = {name: values for name, values in table.items() if values}
    ingest.take(store, source, Batch(pa.table(table), origin), brought)
    store.settle()
    return brought


def counted(store: Store) -> dict[tuple[str, str], tuple[int, int]]:
    return {(one.source, one.machine): (one.rows, one.bad) for one in store.index.intake()}


def held(store: Store, *names: str) -> list[tuple[Any, ...]]:
    tables = [table for _, table in store.quarantine.tables()]
    return [row for one in tables for row in zip(*(one.column(n).to_pylist() for n in names), strict=True)]


def widened(store: Store, contract: Contract = WIDE) -> Store:
    return Store(store.path, contract)


# --- each row once ---------------------------------------------------------------------------------


def test_a_row_that_is_read_again_is_in_quarantine_once_and_counted_once(
    tmp_path: Path, store: Store, repository: Repository
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/plant.db", poolclass=sa.NullPool)

    def insert(number: int, a: float) -> None:
        with engine.begin() as connection:
            words = {"number": number, "a": a}
            connection.execute(sa.text("insert into r values ('1', :number, :a, 5.0, :number)"), words)

    with engine.begin() as connection:
        connection.execute(sa.text("create table r (press text, at int, a float, b float, number int)"))
    words = {"url": str(engine.url), "table": "r", "watermark": "number", "overlap": 60}
    source = Source(name="mes", kind="sql", args=words)
    feed = open_source(source, Place(tmp_path, tmp_path / "state", CONTRACT))
    insert(1, 99.0)
    for number in range(2, 8):
        insert(number, 5.0)
        ingest.ingest(store, [(source, feed)], False, threading.Event())
    assert store.quarantine.rows() == 1
    made = repository.freeze(store)
    assert (made.sources, made.quarantined) == ({"mes": 6}, 1)


def test_a_file_that_was_renamed_brings_no_row_again(store: Store) -> None:
    rows = {"a": [5.0, 99.0, 99.0], "at": [1, 2, 2]}
    assert take(store, origin="export.csv", **rows).bad == 1, "two rows that are equal in every cell are one"
    assert take(store, origin="export.1.csv", **rows, c=[None, None, None]).bad == 0
    assert (store.quarantine.rows(), counted(store)) == (1, {("mes", "1"): (1, 1)})


def test_a_number_that_is_read_as_text_is_the_same(store: Store) -> None:
    take(store, a=[99.0])
    take(store, a=["99.0"])
    assert store.quarantine.rows() == 1


def test_rows_of_another_source_are_others(store: Store) -> None:
    take(store, a=[99.0])
    take(store, Source(name="plc", kind="mqtt"), a=[99.0])
    assert counted(store) == {("mes", "1"): (0, 1), ("plc", "1"): (0, 1)}


# --- what is counted -------------------------------------------------------------------------------


def test_what_contradicts_counts_as_bad_and_a_release_without_a_fix_changes_nothing(
    store: Store, repository: Repository
) -> None:
    times = list(range(60))
    take(store, at=times, a=[99.0] * 6 + [5.0] * 54)
    take(store, at=times[10:40], a=[6.0] * 30)
    assert counted(store) == {("mes", "1"): (54, 36)}
    for _ in range(2):
        assert release(store, [MES]) == 0
        assert counted(store) == {("mes", "1"): (54, 36)}
    made = repository.freeze(store)
    assert (made.sources, made.quarantined) == ({"mes": 54}, 36)
    files = store.quarantine.files()
    assert release(store, [MES]) == 0
    assert repository.freeze(store) == made, "no news: it abstains as before"
    assert store.quarantine.files() == files


def test_what_is_mended_counts_as_brought_once_it_leaves(store: Store, repository: Repository) -> None:
    take(store, a=[5.0, 99.0, 98.0])
    wide = widened(store)
    assert release(wide, [MES]) == 2
    assert (wide.quarantine.rows(), counted(wide)) == (0, {("mes", "1"): (3, 0)})
    repository.freeze(wide)
    take(store, at=[7, 8], a=[97.0, 96.0])
    made = repository.freeze(store)
    assert made.quarantined == 2
    assert release(wide, [MES]) == 2
    take(store, at=[9], a=[95.0])
    made = repository.freeze(store)
    assert (made.sources, made.quarantined) == ({"mes": 2}, 1), "those on record hide no later one"


def test_a_row_that_contradicts_when_it_is_mended_stays_as_it_came(store: Store) -> None:
    take(store, a=[99.0, 5.0], extra=["x", "y"])
    take(store, at=[0], a=[6.0])
    assert release(widened(store), [MES]) == 0
    assert held(store, "_rule", "_column", "_value", "row.a", "row.extra") == [
        ("conflict", "at", "0", "99", "x")
    ]
    assert counted(store) == {("mes", "1"): (2, 1)}


def test_a_label_that_contradicts_counts_as_bad_and_stays(store: Store, repository: Repository) -> None:
    take(store, y=[1.0])
    take(store, a=[], b=[], y=[2.0])
    take(store, a=[], b=[], y=[2.0])
    assert counted(store) == {("mes", "1"): (1, 1)}
    repository.freeze(store)
    assert release(store, [MES]) == 0
    assert (store.late.count(), counted(store)) == (0, {})


def test_a_label_counts_once_it_has_its_reading_and_not_again(store: Store) -> None:
    take(store, at=[1])
    for _ in range(3):
        take(store, a=[], b=[], at=[1], y=[2.0], why=[3.0])
    assert counted(store) == {("mes", "1"): (2, 0)}


def test_a_row_that_breaks_another_rule_after_a_fix_says_so(store: Store) -> None:
    take(store, a=[99.0], b=["x"])
    assert held(store, "_rule", "_column", "_value") == [("type", "b", "x")]
    text = replace(CONTRACT, sensors={"a": Column("", 0, 9)})
    assert release(widened(store, text), [MES]) == 0
    assert held(store, "_rule", "_column", "_value") == [("range", "a", "99")]
    assert counted(store) == {("mes", "1"): (0, 1)}


def test_of_a_partial_reading_what_is_broken_stays(store: Store) -> None:
    partial = Store(store.path, replace(CONTRACT, hold=3))
    take(partial, a=[99.0], b=["x"])
    take(partial, a=[99.0], b=[5.0])
    assert counted(partial) == {("mes", "1"): (1, 2)}
    half = Store(store.path, replace(WIDE, hold=3))
    assert release(half, [MES]) == 1
    assert [row[:2] for row in held(half, "_rule", "_column")] == [("type", "b")]
    assert counted(half)[("mes", "1")][1] == 1


# --- whose a row is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        (MAPPED, {"press": [], "Maschine": ["p2", "p2"]}),
        (Source(name="mes", kind="folder", machine="p2"), {"press": []}),
    ],
)
def test_a_row_counts_under_the_machine_that_the_door_reads(
    store: Store, source: Source, columns: dict[str, list[Any]]
) -> None:
    take(store, source, a=[5.0, 99.0], **columns)
    assert counted(store) == {("mes", "p2"): (1, 1)}
    assert release(widened(store), [source]) == 1
    assert counted(store) == {("mes", "p2"): (2, 0)}


def test_erasing_a_machine_leaves_those_of_others_whatever_the_source_calls_it(store: Store) -> None:
    take(store, MAPPED, press=[], Maschine=["p1", "p2", ""], a=[99.0] * 3)
    store.erase("p1")
    assert held(store, "_machine", "row.Maschine") == [("p2", "p2")], "one that names none may be of p1"
    assert take(store, MAPPED, press=[], Maschine=["p1", "p2"], a=[99.0] * 2).bad == 1, "p1 is forgotten"


@pytest.mark.parametrize(("first", "last", "left"), [(2e6, None, [1]), (None, 2e6, [3]), (2e6, 2e6, [1, 3])])
def test_erasing_a_period_leaves_other_times_in_whatever_unit_and_name(
    store: Store, first: float | None, last: float | None, left: list[int]
) -> None:
    stamped = Store(store.path, STAMPED)
    source = Source(name="mes", kind="folder", columns={"Zeit": "at"}, units={"at": "ms"})
    take(stamped, source, at=[], Zeit=[1000.0, 2000.0, 3000.0], a=[99.0] * 3)
    take(stamped, source, at=[], Zeit=["soon"], a=[5.0])
    stamped.erase(None, first, last)
    assert held(stamped, "row.Zeit") == [(f"{one}000",) for one in left], "when is unknown of: soon"


def test_erasing_a_machine_leaves_a_row_of_another_whose_time_is_unknown(store: Store) -> None:
    take(store, press=["p1", "p2"], at=["soon", "soon"])
    store.erase("p1", 0.0, 5.0)
    assert held(store, "_machine", "_time") == [("p2", None)]


def test_erasing_a_period_takes_rows_that_another_clock_told(store: Store) -> None:
    take(store, a=[99.0])
    Store(store.path, STAMPED).erase(None, 5.0, 6.0)
    assert store.quarantine.rows() == 0


# --- names and files -------------------------------------------------------------------------------


def test_no_name_of_a_source_is_one_of_the_quarantines_own(store: Store) -> None:
    names = ["_value", "_source", "_rule", "value", "row.a", "_machine"]
    source = Source(name="mes", kind="folder", columns={"_value": "a", "pvalue": "b"})
    columns: dict[str, list[Any]] = {name: [name] for name in names}
    take(store, source, a=[], b=[], **columns | {"_value": [99.0], "pvalue": [7.0]})
    assert store.quarantine.summary() == [("mes", "range", "a", 1, "99")]
    assert release(widened(store), [source]) == 1
    (partition,) = store.partitions()
    assert store.read(partition).select(["a", "b"]).to_pylist() == [{"a": 99.0, "b": 7.0}]


def test_what_contradicts_is_in_the_contracts_units_and_is_not_converted_again(store: Store) -> None:
    contract = replace(CONTRACT, sensors={"a": Column("degC", 0, 90), "b": Column("", 0, 9)})
    warm = Store(store.path, contract)
    source = Source(name="mes", kind="folder", units={"a": "degF"}, columns={"b": "a", "a": "b"})
    take(warm, source, a=[5.0], b=[68.0])
    take(warm, source, a=[5.0], b=[86.0])
    assert release(warm, [source]) == 0
    (path,) = [partition.name for partition in warm.partitions()]
    (warm.readings / path).unlink()
    assert release(warm, [source]) == 1
    (partition,) = warm.partitions()
    assert warm.read(partition).column("a").to_pylist() == [pytest.approx(30.0)]


def test_a_file_of_another_layout_and_one_that_is_none_are_one_sentence(store: Store) -> None:
    path = store.quarantine.path / "1.parquet"
    pq.write_table(pa.table({"_rule": ["range"], "_column": ["a"], "a": ["99"]}), path)
    with pytest.raises(InterplantError, match=r"1\.parquet: expected the columns _rule, .* move it away"):
        store.quarantine.summary()
    path.write_bytes(b"junk")
    with pytest.raises(InterplantError, match=r"1\.parquet: cannot be read as Parquet: .* move it away"):
        release(store, [])


def test_rows_of_older_contracts_that_are_held_again_count_as_bad(store: Store) -> None:
    wide = widened(store)
    take(wide, a=[99.0, 5.0])
    narrow = widened(store, replace(CONTRACT, version=2))
    assert hold_again(narrow) == (1, 1)
    assert counted(narrow)[("held-again", "1")] == (1, 1)
    assert release(widened(store), [MES]) == 1


# --- at which moment -------------------------------------------------------------------------------


def test_waiting_mends_no_time_that_was_ahead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stamped, now = Store(store.path, STAMPED), time.time()
    source = Source(name="mes", kind="folder", units={"at": "s"})
    take(stamped, source, at=[now + STAMPED.ahead + 8.0])
    assert held(stamped, "_rule") == [("ahead",)]
    monkeypatch.setattr(door.clock, "time", lambda: now + 1000.0)
    assert release(stamped, [source]) == 0
    farther = Store(store.path, replace(STAMPED, ahead=STAMPED.ahead + 20.0))
    assert release(farther, [source]) == 1


# --- who else is there -----------------------------------------------------------------------------


def test_two_releases_at_once_release_each_row_once(store: Store) -> None:
    for time_ in range(12):
        take(store, at=[time_, time_ + 100], a=[99.0, 99.0])
    released, failures = [], []

    def run() -> None:
        try:
            released.append(release(widened(store), [MES]))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (failures, sum(released), store.quarantine.rows()) == ([], 24, 0)
    assert counted(store) == {("mes", "1"): (24, 0)}


def test_nobody_erases_while_rows_are_released(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(store, a=[99.0])
    wide, other = widened(store), widened(store)
    erasing = threading.Thread(target=other.erase, args=("1",))
    take_back = Store.take_back

    def slowly(self: Store, *words: Any) -> dict[int, str]:
        erasing.start()
        erasing.join(0.3)
        assert erasing.is_alive(), "it waits"
        return take_back(self, *words)

    monkeypatch.setattr(Store, "take_back", slowly)
    release(wide, [MES])
    erasing.join()
    assert (store.partitions(), store.quarantine.rows()) == ([], 0)


def test_a_kill_while_rows_are_released_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    take(store, at=[1, 2], a=["99.0", "x"])
    wide = widened(store)
    for place, name in ((wide.index.__class__, "swap"), (wide.quarantine.__class__, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(Killed):
                release(wide, [MES])
    assert release(wide, [MES]) == 1
    assert [own(table).column("at").to_pylist() for _, table in wide.quarantine.tables()] == [["2"]]
    assert sum(one.rows for one in wide.partitions()) == 1
