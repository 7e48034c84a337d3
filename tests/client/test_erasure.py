"""What is erased is gone from what was computed of it, too."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from interplant.client import erasure, intake, learned
from interplant.client.directory import PlantDirectory
from interplant.client.erasure import erase, prune
from interplant.core import config
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.release import LINEAGE, Lineage, Participant
from interplant.data import events, records, versions
from interplant.data.door import layout
from interplant.data.events import Event
from interplant.data.repository import Repository
from interplant.data.snapshots import keyed_digest
from interplant.data.store import Store

from . import served
from .conftest import TASK

BERLIN = Contract(clock="timestamp", zone="Europe/Berlin", sensors={"s": Column("", 0, 1)})
SCHEMA = layout(TASK.contract)


def event(snapshot: str, first: float, last: float) -> Event:
    name = f"{snapshot[:4]}-{first:g}"
    return Event(
        name, "2026-11-26", snapshot, None, "inputs", "health", "", "offset", "limit", 9.0, 4.0, 1.0,
        (0, 1), (first, last), 5, {"offset": 0.5},
    )  # fmt: skip


@pytest.fixture
def store(bare: PlantDirectory) -> Store:
    """Machine 1 has readings of the times 0 to 9, machine 2 of 20 to 29."""
    Repository.create(bare.data, bare.remote)
    found = intake.store_of(bare, TASK)
    times = [float(time) for time in (*range(10), *range(20, 30))]
    table = {"machine": ["1"] * 10 + ["2"] * 10, "cycle": times, "health": [0.5] * 20, "rul": [None] * 20}
    found.add(pa.table(table, schema=layout(found.contract)))
    found.settle()
    bare.drift.mkdir()
    for name in ("state-inputs-0123456789ab-x-5.npz", "reference-inputs-0123456789ab-x-5.npz"):
        (bare.drift / name).touch()
    return found


def left(plant: PlantDirectory) -> list[str]:
    return [one.id for one in events.read(plant.drift_events)]


OTHER = "0123456789ab" + "0" * 52


@pytest.mark.parametrize(
    ("machine", "first", "last", "kept"),
    [
        ("1", None, None, ["0123-12", "0123-25"]),
        ("1", 5.0, None, ["0123-0", "0123-12", "0123-25"]),
        ("2", None, None, ["0123-0", "0123-8", "0123-12"]),
        (None, 12.0, 19.0, ["0123-0", "0123-8", "0123-25"]),
    ],
)
def test_events_of_windows_of_the_erased_time_go(
    bare: PlantDirectory, store: Store, machine: str | None, first: float | None, last: float | None,
    kept: list[str],
) -> None:  # fmt: skip
    times = [(0.0, 4.0), (8.0, 11.0), (12.0, 18.0), (25.0, 29.0)]
    events.append(bare.drift_events, [event(OTHER, *own) for own in times])
    assert erase(bare, store, machine, first, last).events == 4 - len(kept)
    assert left(bare) == kept
    assert [path.name[:5] for path in bare.drift.glob("*.npz")] == ["refer"]
    assert bare.drift_events.stat().st_mode & 0o777 == 0o600


def test_events_against_a_snapshot_that_is_purged_go(bare: PlantDirectory, store: Store) -> None:
    made = bare.repository().freeze(store)
    events.append(bare.drift_events, [event(made.digest, 90.0, 95.0), event(OTHER, 90.0, 95.0)])
    assert erase(bare, store, "1", None, None).events == 1
    assert left(bare) == ["0123-90"]


def test_an_erasure_that_was_killed_forgets_the_events_when_it_is_done_again(
    bare: PlantDirectory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.append(bare.drift_events, [event(OTHER, 0.0, 4.0)])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "erase", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(bare, store, "1", None, None)
    assert left(bare) == []
    assert erase(bare, store, "1", None, None).partitions == 1


def test_all_readings_can_be_erased_and_the_plant_then_has_no_snapshot(
    bare: PlantDirectory, store: Store
) -> None:
    repository = bare.repository()
    both = repository.freeze(store)
    assert list(objects(bare))
    one = erase(bare, store, "1", None, None).snapshot
    done = erase(bare, store, "2", None, None)
    assert (done.partitions, done.snapshot, done.purged) == (1, "", (one,))
    with pytest.raises(Refusal) as refused:
        repository.open()
    assert refused.value.code == "no_snapshot"
    assert not list(objects(bare))
    assert [(found.digest, found.digest in repository.purged()) for found in repository.log()] == [
        (one, True), (both.digest, True),
    ]  # fmt: skip
    assert erase(bare, store, "2", None, None).purged == ()
    store.add(pa.table({"machine": ["3"], "cycle": [1.0], "health": [0.5], "rul": [None]}, schema=SCHEMA))
    store.settle()
    made = repository.freeze(store)
    assert (repository.open().digest, made.rows) == (made.digest, 1)
    assert [found.digest for found in repository.log()] == [made.digest, one, both.digest]


def test_what_was_erased_and_comes_again_is_a_snapshot_again(bare: PlantDirectory, store: Store) -> None:
    first = bare.repository().freeze(store)
    brought = [store.read(one) for one in store.partitions()]
    assert erase(bare, store, None, 0.0, None).purged == (first.digest,)
    for table in brought:
        store.add(table)
    store.settle()
    assert bare.repository().freeze(store).digest == first.digest == bare.repository().open().digest
    assert erase(bare, store, None, 0.0, None).purged == (first.digest,)


@pytest.mark.parametrize("where", ["purge", "clear"])
def test_an_erasure_of_all_that_was_killed_is_completed_when_it_is_done_again(
    bare: PlantDirectory, store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bare.repository().freeze(store)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions if where == "purge" else records, where, killed)
        with pytest.raises(KeyboardInterrupt):
            erase(bare, store, None, 0.0, None)
    erase(bare, store, None, 0.0, None)
    with pytest.raises(Refusal, match="no_snapshot"):
        bare.repository().find()
    assert not list(objects(bare))


def test_a_snapshot_that_holds_other_readings_than_the_store_is_not_purged_for_one_machine(
    bare: PlantDirectory, store: Store
) -> None:
    made = bare.repository().freeze(store)
    store.erase("2")
    with pytest.raises(InterplantError, match=f"{made.digest[:12]}: it holds other readings .* of 2; make"):
        erase(bare, store, "1", None, None)
    assert bare.repository().find().digest == made.digest
    assert erase(bare, store, None, 0.0, None).purged == (made.digest,)


def objects(plant: PlantDirectory) -> Iterator[Path]:
    """What lies in DVC's cache and remote."""
    for folder in (
        plant.data / ".dvc" / "cache",
        plant.data / "cache",
        plant.remote,
        plant.data / "readings",
    ):
        yield from (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-01T08:00:00", "2026-01-01T07:00:00+00:00"),
        ("2026-07-01", "2026-06-30T22:00:00+00:00"),
        ("2026-01-01T08:00:00Z", "2026-01-01T08:00:00+00:00"),
        ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30:00+00:00"),
    ],
)
def test_a_time_without_an_offset_is_of_the_contracts_zone(text: str, utc: str) -> None:
    assert erasure.moment(text, BERLIN) == datetime.fromisoformat(utc).timestamp() * 1e6


@pytest.mark.parametrize("text", ["2026-10-25T02:30:00", "2026-03-29T02:30:00"])
def test_a_time_that_a_change_of_clocks_makes_two_or_none_needs_its_offset(text: str) -> None:
    with pytest.raises(UsageError, match=f"{text}: a change of clocks in Europe/Berlin .* give its offset"):
        erasure.moment(text, BERLIN)


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "soon"])
def test_a_count_is_a_finite_number(text: str) -> None:
    with pytest.raises(UsageError, match=f"time '{text}': expected a number"):
        erasure.moment(text, Contract())


def test_a_period_begins_before_it_ends() -> None:
    assert erasure.period("1", "1", Contract()) == (1.0, 1.0)
    with pytest.raises(UsageError, match=r"--since: expected no later than 1 \(--until\), found 2"):
        erasure.period("2", "1", Contract())


def test_a_time_at_the_end_of_all_calendars_is_a_day(bare: PlantDirectory) -> None:
    store = Store(bare.path / "stamped", BERLIN)
    assert erasure._day(erasure.moment("0001-01-01", BERLIN), store, "") == "0000-12-31"


# --- runs and releases that have learned from it --------------------------------------------------------


def more(store: Store, machine: str) -> None:
    """Readings of one more machine."""
    table = {
        "machine": [machine] * 5,
        "cycle": [40.0, 41, 42, 43, 44],
        "health": [0.5] * 5,
        "rul": [None] * 5,
    }
    store.add(pa.table(table, schema=layout(store.contract)))


def released(plant: PlantDirectory, run: str, *digests: str, task: str = "wear") -> str:
    """The release of a run that has trained on snapshots, a round on each, comes to the plant."""
    secret, name = plant.snapshot_key.read_bytes(), f"{task}-{run}"
    snapshots = {keyed_digest(digest, secret): 1 for digest in digests}
    one = Participant("north", snapshots, len(digests), "none", "", 0.0, 0.0, True)
    lineage = Lineage(
        name, run, task, "ab" * 32, "0.1.0", "1", None, "2026-01-01T12:30:00+00:00",
        3, "grpc", False, True, (one,),
    )  # fmt: skip
    (plant.releases / name).mkdir(parents=True)
    (plant.releases / name / LINEAGE).write_text(lineage.to_json())
    (plant.releases / name / "task.json").write_text(json.dumps(config.dump(TASK)))
    return name


def test_a_snapshot_stays_while_a_run_uses_it_and_after_in_its_release(
    bare: PlantDirectory, store: Store
) -> None:
    repository = bare.repository()
    digests = []
    for machine in ("3", "4", "5", "6"):
        more(store, machine)
        digests.append(repository.freeze(store).digest)
        if machine in ("3", "4"):
            learned.note(bare, "run-1", "wear", digests[-1])
            assert prune(bare, repository, 1) == []
    assert prune(bare, repository, 1) == [digests[2]], "nobody has trained on it"
    released(bare, "run-1", *digests[:2])
    assert learned.awaited(bare, digests) == []
    assert prune(bare, repository, 1) == []
    (bare.trained).unlink()
    assert prune(bare, repository, 1) == [], "its release names both"


def test_a_run_without_a_release_keeps_its_snapshot_until_a_later_runs_is_here(
    bare: PlantDirectory, store: Store
) -> None:
    repository = bare.repository()
    old = repository.freeze(store).digest
    learned.note(bare, "run-1", "wear", old)
    more(store, "3")
    new = repository.freeze(store).digest
    learned.note(bare, "run-2", "wear", new)
    learned.note(bare, "run-3", "other", old)
    with bare.trained.open("ab") as file:
        file.write(b'\n{"run": "torn')
    learned.note(bare, "run-4", "wear", new)
    released(bare, "run-0", new)
    released(bare, "run-9", new, task="other")
    assert learned.awaited(bare, [old]) == ["run-1", "run-3"], "these have trained before, or not here"
    released(bare, "run-2", new)
    assert learned.awaited(bare, [old]) == ["run-3"], "of another task"
    assert learned.awaited(bare, [new]) == ["run-4"]
    released(bare, "run-3", old, task="other")
    (bare.releases / "other-run-3" / LINEAGE).unlink()
    assert prune(bare, repository, 1) == []


def test_an_erasure_names_the_run_under_way_and_later_its_release(bare: PlantDirectory, store: Store) -> None:
    repository = bare.repository()
    first = repository.freeze(store).digest
    learned.note(bare, "run-1", "wear", first)
    done = erase(bare, store, "1", None, None)
    assert (done.purged, done.releases, done.runs) == ((first,), (), ("run-1",))
    learned.note(bare, "run-1", "wear", done.snapshot)
    name = released(bare, "run-1", first, done.snapshot)
    again = erase(bare, store, "1", None, None)
    assert (again.purged, again.releases, again.runs) == ((), (name,), ())


def test_a_window_reaches_back_over_its_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = served.plant_with(tmp_path, monkeypatch).plant
    assert served.TASK.window.length == 4
    assert erasure._reach(plant, replace(served.TASK.contract, gap=600.0)) == 1800.0
    assert erasure._reach(plant, served.TASK.contract) == math.inf
