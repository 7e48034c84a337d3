"""A store as a snapshot: cheap to make, the same when it comes back, parted by machine or by time."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.schema import Split
from interplant.data import door, pieces, versions
from interplant.data.frozen import FrozenReader
from interplant.data.index import Held
from interplant.data.repository import Repository
from interplant.data.snapshots import load, most_readings
from interplant.data.store import Store

STAMPED = Contract(clock="timestamp", time="at", label="y", sensors={"a": Column("", 0, 9)})
DAY = 86_400


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "data", tmp_path / "remote")


def fill(store: Store, machines: list[str], seconds: list[int], **columns: Any) -> None:
    layout = door.layout(store.contract)
    time = [
        second * 1_000_000 if store.contract.clock == "timestamp" else float(second) for second in seconds
    ]
    for machine in machines:
        own = {
            store.contract.machine: [machine] * len(seconds),
            store.contract.time: time,
            "a": [1.0] * len(seconds),
        }
        own |= columns
        rows = {field.name: own.get(field.name, [None] * len(seconds)) for field in layout}
        store.add(pa.table(rows, schema=layout))


def test_a_snapshot_holds_what_the_store_held(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1", "press-2"], [1, 2, DAY + 1])
    made = repository.freeze(store)
    assert (made.rows, made.machines, made.contract) == (6, 2, STAMPED.version)
    assert sorted(made.files) == [
        "1970-01-01/press-1.parquet", "1970-01-01/press-2.parquet", "1970-01-02/press-1.parquet",
        "1970-01-02/press-2.parquet", "manifest.json",
    ]  # fmt: skip
    dataset = load(made, Split(holdout=0.5))
    assert (len(dataset.train), len(dataset.holdout)) == (3, 3)
    assert sorted({*dataset.train["machine"], *dataset.holdout["machine"]}) == [1, 2]
    assert list(dataset.train["at"]) == [1.0, 2.0, DAY + 1.0]
    assert most_readings(repository.path) == 3


def test_the_next_snapshot_shares_what_did_not_change(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1", "press-2"], [1, 2])
    first = repository.freeze(store)
    name = "1970-01-01/press-1.parquet"
    before = os.stat(repository.path / "readings" / name)
    fill(store, ["press-2"], [3])
    second = repository.freeze(store)
    after = os.stat(repository.path / "readings" / name)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert first.files[name] == second.files[name]
    assert first.digest != second.digest
    assert (
        load(repository.open(first.digest)).train.shape[0]
        + load(repository.open(first.digest)).holdout.shape[0]
        == 4
    )


def test_store_snapshot_and_cache_hold_the_bytes_once(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    repository.freeze(store)
    name = "1970-01-01/press-1.parquet"
    assert os.stat(store.readings / name).st_nlink == 3
    assert (store.readings / name).samefile(repository.path / "readings" / name)
    fill(store, ["press-1"], [2])
    store.settle()
    assert len(load(repository.open()).train) == 1, "the store's file is replaced, never written into"


def test_the_same_store_makes_no_new_snapshot(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    first = repository.freeze(store)
    fill(store, ["press-1"], [1])
    assert repository.freeze(store) == first
    assert len(repository.log()) == 1


def test_the_same_readings_make_the_same_digest_and_the_same_tables(tmp_path: Path) -> None:
    digests, tables = [], []
    for place, order in (("one", [1, 2, 3]), ("other", [3, 1, 2])):
        repository = Repository.create(tmp_path / place / "data", tmp_path / place / "remote")
        store = Store(tmp_path / place / "store", STAMPED)
        for second in order:
            fill(store, ["press-1", "press-2"], [second])
        made = repository.freeze(store)
        digests.append(made.digest)
        tables.append(load(made))
    assert digests[0] == digests[1]
    assert tables[0].train.equals(tables[1].train)


def test_who_brought_the_readings_is_on_record_and_no_part_of_the_digest(
    tmp_path: Path, repository: Repository
) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    store.index.note("historian", {"press-1": 1})
    store.index.hold([Held("a", "historian", "press-1"), Held("b", "historian", "press-1")])
    first = repository.freeze(store)
    assert (first.sources, first.quarantined) == ({"historian": 1}, 2)
    fill(store, ["press-1"], [2])
    assert (repository.freeze(store).sources, repository.log()[0].quarantined) == ({}, 0)


def test_an_empty_store_is_one_sentence(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(UsageError, match="expected readings in the store, found none"):
        repository.freeze(Store(tmp_path / "store", STAMPED))
    assert not repository.log()


def test_bytes_that_changed_are_noticed_when_they_are_read(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    made = repository.freeze(store)
    path = repository.path / "readings" / "1970-01-01" / "press-1.parquet"
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert repository.open() == made, "rot that leaves size and time alone is not looked for at every round"
    with pytest.raises(InterplantError, match=r"press-1\.parquet is not what its snapshot holds"):
        load(repository.open())


def test_a_store_can_follow_two_tables(tmp_path: Path, repository: Repository) -> None:
    import pandas as pd

    from interplant.data.frames import Dataset

    table = pd.DataFrame({"machine": [1], "at": [1], "a": [1.0]})
    repository.snapshot(Dataset(table, table, False))
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    made = repository.freeze(store)
    assert sorted(p.name for p in (repository.path / "readings").rglob("*.*")) == [
        "manifest.json",
        "press-1.parquet",
    ]
    assert repository.open().digest == made.digest


# --- parting ---------------------------------------------------------------------------------------


def test_machines_are_held_out_by_name_alone() -> None:
    names = {f"press-{number}" for number in range(1000)}
    found = pieces.held_out(names, 0.2)
    assert 150 < len(found) < 250
    assert pieces.held_out(names | {"new"}, 0.2) - {"new"} == found


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_of_two_machines_one_trains_and_one_is_held_out(share: float) -> None:
    assert len(pieces.held_out({"a", "b"}, share)) == 1
    assert pieces.held_out({"a"}, share) == set()


def test_the_end_of_each_record_is_held_out_by_time(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], list(range(10)))
    with pytest.raises(Refusal, match=r"split\.by: time needs a label"):
        load(repository.freeze(store), Split(by="time", holdout=0.2))
    fill(store, ["press-2"], list(range(100, 120)), y=[3.0] * 20)
    dataset = load(repository.freeze(store), Split(by="time", holdout=0.2))
    assert dataset.train.groupby("machine")["at"].max().tolist() == [7.0, 115.0]
    assert dataset.holdout.groupby("machine")["at"].min().tolist() == [8.0, 116.0]


def test_machines_have_numbers() -> None:
    assert pieces.numbered({"3", "12"}) == {"3": 3, "12": 12}
    assert pieces.numbered({"b", "a"}) == {"a": 1, "b": 2}
    assert pieces.numbered({"3", "03"}) == {"03": 1, "3": 2}


# --- values held over ------------------------------------------------------------------------------


def test_partial_readings_are_brought_to_the_interval_and_held_no_longer_than_declared(
    tmp_path: Path, repository: Repository
) -> None:
    contract = Contract(
        interval=10, hold=20, label="y", sensors={"a": Column("", 0, 99), "b": Column("", 0, 99)}
    )
    store = Store(tmp_path / "store", contract)
    layout = door.layout(contract)
    rows = [(0, 1, None), (1, None, 5), (12, 2, None), (23, 3, None), (34, 4, None), (41, 5, 6)]
    store.add(
        pa.table(
            {
                "machine": ["1"] * 6, "cycle": [float(time) for time, *_ in rows],
                "a": [None if a is None else float(a) for _, a, _ in rows],
                "b": [None if b is None else float(b) for *_, b in rows], "y": [None] * 6,
            },
            schema=layout,
        )
    )  # fmt: skip
    found = load(repository.freeze(store)).train
    # At 30 the last b is 30 old: longer than it holds.
    assert found[["cycle", "a", "b"]].to_numpy().tolist() == [[0, 1, 5], [10, 2, 5], [20, 3, 5], [40, 5, 6]]


# --- versions --------------------------------------------------------------------------------------


def test_a_difference_is_told_by_day_and_machine(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1", "press-2"], [1])
    one = repository.freeze(store)
    fill(store, ["press-2"], [2, DAY])
    other = repository.freeze(store)
    assert versions.diff(repository, one, other) == [
        versions.Change("1970-01-01", "press-2", 1, 2),
        versions.Change("1970-01-02", "press-2", 0, 1),
    ]
    assert versions.diff(repository, one, one) == []


def test_a_label_that_came_later_is_a_difference_too(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    one = repository.freeze(store)
    fill(store, ["press-1"], [1], y=[7.0])
    assert versions.diff(repository, one, repository.freeze(store)) == [
        versions.Change("1970-01-01", "press-1", 1, 1)
    ]


def test_a_purged_snapshot_is_gone_from_cache_and_remote_and_stays_in_the_log(
    tmp_path: Path, repository: Repository
) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["secret", "press-2"], [1], a=[4.0])
    one = repository.freeze(store)
    gone, kept = (one.files[f"1970-01-01/{name}.parquet"] for name in ("secret", "press-2"))
    repository.open(one.digest)
    store.erase("secret")
    other = repository.freeze(store)
    versions.purge(repository, [one], "erased")
    assert repository.purged()[one.digest]["why"] == "erased"
    assert [found.digest for found in repository.log()] == [other.digest, one.digest]
    with pytest.raises(UsageError, match=r"its readings were removed \(erased "):
        repository.open(one.digest)
    left = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    assert gone not in left
    assert kept in left
    assert len(load(repository.open()).train) == 1


def test_the_newest_snapshot_is_never_purged(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    with pytest.raises(UsageError, match="newest snapshot cannot be purged"):
        versions.purge(repository, [repository.freeze(store)], "retention")


def test_snapshots_that_hold_a_machine_or_days_are_found(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    one = repository.freeze(store)
    fill(store, ["press-2"], [DAY])
    other = repository.freeze(store)

    def found(machine: str | None, days: tuple[str, str] | None) -> list[str]:
        return [snapshot.digest for snapshot in versions.holding(repository, [one, other], machine, days)]

    assert found("press-1", None) == [one.digest, other.digest]
    assert found("press-2", None) == [other.digest]
    assert found(None, ("1970-01-02", "9")) == [other.digest]
    assert found("press-1", ("1970-01-02", "9")) == []


def test_blocks_of_counts_come_in_their_order() -> None:
    names = {f"{first}/1.parquet": "" for first in (200_000, -100_000, 0, 1_000_000)}
    (order,) = FrozenReader(Path(), names).machines()
    assert [name.partition("/")[0] for name in order] == ["-100000", "0", "200000", "1000000"]


def test_forward_filling_leaves_what_has_nothing_before_it() -> None:
    filled = pieces._forward(np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan]]))
    assert np.array_equal(filled, [[np.nan, 1.0], [2.0, 1.0], [2.0, 1.0]], equal_nan=True)


def test_blocks_of_counts_are_compared_as_numbers(tmp_path: Path, repository: Repository) -> None:
    contract = Contract(label="y", sensors={"a": Column("", 0, 9)})
    store = Store(tmp_path / "store", contract)
    fill(store, ["1"], [1_000_050])
    made = repository.freeze(store)
    assert versions.holding(repository, [made], None, ("200000", "inf")) == [made]
    assert versions.holding(repository, [made], None, ("-inf", "900000")) == []


def test_a_purge_that_was_killed_is_completed_by_the_next(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["secret", "press-2"], [1], a=[4.0])
    one = repository.freeze(store)
    store.erase("secret")
    repository.freeze(store)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions, "tag_of", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.purge(repository, [one], "erased")
    versions.purge(repository, [], "erased")
    gone = one.files["1970-01-01/secret.parquet"]
    left = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    assert gone not in left


def test_readings_that_are_brought_again_after_they_were_erased_are_a_snapshot_again(
    tmp_path: Path, repository: Repository
) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1", "press-2"], [1])
    one = repository.freeze(store)
    store.erase("press-2")
    repository.freeze(store)
    versions.purge(repository, [one], "erased")
    fill(store, ["press-2"], [1])
    again = repository.freeze(store)
    assert again.digest == one.digest
    assert repository.open().digest == one.digest
    assert not repository.purged()


def test_what_went_to_quarantine_is_on_record_though_no_reading_came(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", STAMPED)
    fill(store, ["press-1"], [1])
    store.index.note("plc", {"press-1": 3})
    store.index.hold(Held(f"{place}", "plc", "") for place in range(10))
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "_track", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            repository.freeze(store)
    assert repository.freeze(store).quarantined == 10
    assert repository.freeze(store).quarantined == 10, "no news: the record stands"
    store.index.hold(Held(f"again {place}", "plc", "press-1") for place in range(7))
    assert repository.freeze(store).quarantined == 7
