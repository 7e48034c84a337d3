"""The plant's monitor: which snapshot counts, what is kept where, and that nothing of it leaves."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from interplant.client import drift, standing
from interplant.client.directory import PlantDirectory
from interplant.core import config, signing
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import FILES, LINEAGE, TASK, Lineage, Participant, manifest_meta, task_digest
from interplant.core.schema import Task
from interplant.data import events
from interplant.data.blocks import Block, of_frame, of_series
from interplant.data.contract import Floats
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.snapshots import Snapshot, keyed_digest

from .conftest import audited, edit

HEAT, FLOW = Column("K", 0.0, 100.0), Column("kg/s", 0.0, 10.0)
WEAR = Task(name="wear", contract=Contract(sensors={"heat": HEAT, "flow": FLOW}))
OTHER = replace(WEAR, name="other")


def readings(machines: range, seed: int = 0, offset: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame([(machine, cycle) for machine in machines for cycle in range(100)])
    frame.columns = ["machine", "cycle"]
    frame["heat"] = random.normal(50, 5, size=len(frame)) + offset
    frame["flow"] = random.normal(5, 1, size=len(frame))
    return frame


def live(seed: int = 7, offset: float = 0.0) -> Block:
    return of_frame(readings(range(100, 110), seed, offset), WEAR.contract)


def serve(plant: PlantDirectory, snapshot: Snapshot, key: Callable[[str, bytes], str] = keyed_digest) -> str:
    """Make a release the champion that learned from a snapshot; its model is none."""
    name = "wear-20260101-120000-ab12"
    folder = plant.releases / name
    folder.mkdir(parents=True)
    own = key(snapshot.digest, plant.snapshot_key.read_bytes())
    plants = tuple(Participant(one, {digest: 3}, 3, "dp-sgd", "window", 0.5, 1e-5, False)
                   for one, digest in (("east", "cd" * 32), ("north", own)))  # fmt: skip
    lineage = Lineage(
        name, "20260101-120000-ab12", WEAR.name, task_digest(WEAR), "0.1.0", "1", None,
        "2026-01-01T12:30:00+00:00", 3, "grpc", True, False, plants,
    )  # fmt: skip
    for file in FILES:
        (folder / file).write_text("not looked at here")
    (folder / TASK).write_text(json.dumps(config.dump(WEAR)))
    (folder / LINEAGE).write_text(lineage.to_json())
    secret = signing.make_key()
    signing.sign_folder(folder, manifest_meta(lineage), secret)
    plant.release_public_key.write_bytes(signing.public_pem(secret.public_key()))
    plant.champion.write_text(json.dumps({"release": name, "previous": None, "since": ""}))
    return name


@pytest.fixture
def plant(bare: PlantDirectory) -> PlantDirectory:
    """A plant with two snapshots, no champion."""
    repository = Repository.create(bare.data, bare.remote)
    for machines in (20, 30):
        repository.snapshot(Dataset(readings(range(machines)), readings(range(50, 52)), False))
    edit(bare, lambda settings: setattr(settings.data.drift, "window", 50))
    return bare


def newest(plant: PlantDirectory, back: int = 0) -> Snapshot:
    return plant.repository().log()[back]


def test_the_champions_own_snapshot_counts_not_the_newest(plant: PlantDirectory) -> None:
    older = newest(plant, 1)
    name = serve(plant, older)
    held = drift.against(plant, OTHER)
    assert (held.snapshot.digest, held.release, held.task) == (older.digest, name, WEAR)


def test_another_snapshot_can_be_named_and_is_no_champions(plant: PlantDirectory) -> None:
    older = newest(plant, 1)
    name = serve(plant, older)
    held = drift.against(plant, OTHER, newest(plant).digest[:10])
    assert (held.snapshot.digest, held.release) == (newest(plant).digest, None)
    assert drift.against(plant, OTHER, older.digest).release == name


def test_without_a_champion_a_snapshot_must_be_named(plant: PlantDirectory) -> None:
    with pytest.raises(UsageError, match="name one with --snapshot"):
        drift.against(plant, WEAR)
    held = drift.against(plant, WEAR, newest(plant).digest)
    assert (held.task, held.release) == (WEAR, None)
    with pytest.raises(UsageError, match="found 0"):
        drift.against(plant, WEAR, "0" * 12)


def test_a_champion_that_learned_elsewhere_is_said(plant: PlantDirectory) -> None:
    serve(plant, newest(plant), key=lambda digest, secret: "ef" * 32)
    with pytest.raises(UsageError, match="trained on no snapshot of this plant"):
        drift.against(plant, WEAR)


def test_a_drift_is_one_durable_event_of_the_champion(plant: PlantDirectory) -> None:
    name = serve(plant, newest(plant))
    held = drift.against(plant, WEAR)
    assert drift.watch(plant, held, [live()]).began == []
    assert not plant.drift_events.exists()
    report = drift.watch(plant, held, [of_frame(readings(range(200, 210), 8, 10.0), WEAR.contract)])
    assert report.windows == 20
    (event,) = events.read(plant.drift_events)
    assert list(report.began) == drift.events_of(plant, report) == [event]
    assert (event.release, event.snapshot, event.sensor) == (name, held.snapshot.digest, "heat")
    assert event.windows[1] == 20
    # Each of inputs, predictions and errors has a third of the plant's rate.
    assert event.false_alarms == pytest.approx(1 / 3)
    again = drift.watch(plant, held, [of_frame(readings(range(200, 210), 8, 10.0), WEAR.contract)])
    assert (again.windows, again.began) == (0, [])


def test_a_crash_after_the_event_and_before_the_state_makes_no_second_event(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = drift.against(plant, WEAR, newest(plant).digest)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drift.memory, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            drift.watch(plant, held, [live(offset=10.0)])
    assert len(events.read(plant.drift_events)) == 1
    report = drift.watch(plant, held, [live(offset=10.0)])
    assert (report.windows, report.began) == (20, [])
    assert len(events.read(plant.drift_events)) == 1
    assert report.monitor.state.kinds == {"heat": "offset"}


def test_the_reference_is_computed_once_and_a_full_disk_leaves_none(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[int], object]
) -> None:
    held = drift.against(plant, WEAR, newest(plant).digest)
    with full_disk(1000), pytest.raises(InterplantError, match="the disk is full"):  # type: ignore[attr-defined]
        drift.watch(plant, held, [live()])
    assert list(plant.drift.glob("*.npz")) == []
    drift.watch(plant, held, [live()])
    monkeypatch.setattr(drift, "build", None)
    drift.watch(plant, held, [live(8)])


def series(seed: int, count: int, moved: float = 0.0) -> Block:
    values = moved + np.abs(np.random.default_rng(seed).normal(size=count))
    return of_series(values, np.arange(1.0, count + 1))


def past(count: int = 3000) -> Callable[[], tuple[Floats, list[str]]]:
    return lambda: (series(0, count).values, ["series"])


def test_predictions_and_errors_have_events_and_a_memory_of_their_own(plant: PlantDirectory) -> None:
    serve(plant, newest(plant))
    held = drift.against(plant, WEAR)
    now = series(1, 500, 3.0)
    report = drift.watch_series(plant, held, "predictions", past(), now)
    (event,) = report.began
    assert (event.watched, event.kind, event.times) == ("predictions", "prediction", (1.0, 50.0))
    assert report.monitor.reference.window == 50
    assert drift.mark(plant, held, "predictions") == 500.0
    assert drift.watch_series(plant, held, "predictions", past(), now).windows == 0
    report = drift.watch_series(plant, held, "errors", past(), now)
    (event,) = report.began
    assert (event.watched, event.kind, report.monitor.reference.window) == ("errors", "error", 10)
    with pytest.raises(UsageError, match="expected one of predictions, errors"):
        drift.watch_series(plant, held, "inputs", past(), now)


def test_all_that_is_watched_shares_the_rate_however_long_windows_are(plant: PlantDirectory) -> None:
    """In as many readings, predictions and errors as 10 000 windows have, no more than the stated rate."""
    serve(plant, newest(plant))
    held, windows = drift.against(plant, WEAR), {}
    reports = [
        drift.watch(plant, held, [live()]),
        drift.watch_series(plant, held, "predictions", past(400), series(1, 500)),
        drift.watch_series(plant, held, "errors", past(), series(1, 500)),
    ]
    for one in reports:
        windows[one.monitor.watched.name] = one.monitor.reference.window
    assert windows == {"inputs": 50, "predictions": 20, "errors": 10}
    rates = [one.monitor.watched.false_alarms * 50 / one.monitor.reference.window for one in reports]
    assert sum(rates) == pytest.approx(plant.load().data.drift.false_alarms)


def test_a_hold_out_that_is_too_small_is_said(plant: PlantDirectory) -> None:
    name = serve(plant, newest(plant))
    held = drift.against(plant, WEAR)
    with pytest.raises(
        UsageError, match=f"release {name} .* has 99 windows with a label, expected at least 100"
    ):
        drift.watch_series(plant, held, "errors", past(99), series(1, 500))
    assert list(plant.drift.glob("*.npz")) == []


def test_what_is_kept_is_for_the_plants_user_alone_and_nothing_leaves(plant: PlantDirectory) -> None:
    held = drift.against(plant, WEAR, newest(plant).digest)
    drift.watch(plant, held, [live(offset=10.0)])
    kept = [*plant.drift.glob("*.npz"), plant.drift_events]
    assert len(kept) == 3
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert plant.drift.stat().st_mode & 0o777 == 0o700
    assert audited(plant) == []
    assert not plant.outbox.exists()


@pytest.mark.parametrize(("key", "value"), [("window", 9), ("window", 2_000_000), ("false_alarms", 0.0)])
def test_settings_that_cannot_be_are_refused_with_their_key(
    plant: PlantDirectory, key: str, value: float
) -> None:
    edit(plant, lambda settings: setattr(settings.data.drift, key, value))
    with pytest.raises(UsageError, match=f"data.drift.{key}: expected"):
        plant.load()


def test_another_window_is_another_comparison(plant: PlantDirectory) -> None:
    held = drift.against(plant, WEAR, newest(plant).digest)
    assert drift.watch(plant, held, [live()]).windows == 20
    edit(plant, lambda settings: setattr(settings.data.drift, "window", 100))
    assert drift.watch(plant, held, [live()]).windows == 10


def test_what_drifts_now_is_said_of_the_champion(plant: PlantDirectory) -> None:
    name = serve(plant, newest(plant))
    held = drift.against(plant, WEAR)
    drift.watch(plant, held, [live()])
    assert not standing.is_drifting(plant, name)
    drift.watch(plant, held, [of_frame(readings(range(200, 210), 8, 10.0), WEAR.contract)])
    assert standing.is_drifting(plant, name)
