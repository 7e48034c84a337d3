"""The plants' data is made once, whole or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interplant.core.errors import UsageError
from interplant.core.schema import Plant, Task
from interplant.data.repository import Repository
from interplant.lab import prepared
from interplant.lab.prepared import Prepared, Source, offer, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def plants(folder: Path, small: Task) -> list[Prepared]:
    return prepare(folder, Source(machines=2), small)


def test_four_plants_have_snapshots_of_different_data(plants: list[Prepared]) -> None:
    assert [one.name for one in plants] == ["plant-1", "plant-2", "plant-3", "plant-4"]
    assert len({one.snapshot for one in plants}) == 4
    for one in plants:
        found = Repository(one.folder / "data").open()
        assert (found.digest, found.rows, found.machines) == (one.snapshot, one.rows, one.machines)
        assert one.simulated
        assert found.simulated


def test_what_is_prepared_is_found_again(
    plants: list[Prepared], folder: Path, small: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "datasets", lambda source: pytest.fail("made again"))
    assert prepare(folder, Source(machines=2), small) == plants


def test_another_contract_means_other_data(plants: list[Prepared], folder: Path, small: Task) -> None:
    other = replace(small, window=replace(small.window, length=20))
    again = prepare(folder, Source(machines=2), other)
    assert [one.snapshot for one in again] == [one.snapshot for one in plants]
    assert again[0].declared_windows > plants[0].declared_windows
    assert [one.declared_windows for one in prepare(folder, Source(machines=2), small)] == [
        one.declared_windows for one in plants
    ]


def test_a_preparation_that_is_stopped_leaves_nothing_and_can_be_done_again(
    tmp_path: Path, small: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = prepared.datasets

    def stopped(source: Source) -> Iterator[tuple[str, Any]]:
        yield next(honest(source))
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "datasets", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, Source(machines=1), small)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(prepare(tmp_path, Source(machines=1), small)) == 4


def test_a_plant_gets_a_repository_of_its_own(plants: list[Prepared], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_text("what joining made")
    plants[0].place(tmp_path)
    assert Repository(tmp_path / "data").open().digest == plants[0].snapshot
    assert not (tmp_path / "data" / "old").exists()


def test_the_demos_policy_allows_its_task_and_no_other(plants: list[Prepared], small: Task) -> None:
    plant = Plant(name="plant-1", federation="demo")
    plant.connection.coordinator = "127.0.0.1:1"
    offer(plants[0], small, 4.0)(plant)
    plant.check()
    assert plant.policy.tasks == ["turbofan"]
    assert (plant.policy.privacy.epsilon, plant.policy.privacy.delta) == (4.0, small.privacy.delta)
    assert plant.data.declared_windows == plants[0].declared_windows
    assert plant.data.declared_units == plants[0].machines == plants[0].declared_units
    assert 0 < plant.data.declared_unit_windows <= plant.data.declared_windows
    assert plant.policy.privacy.units == [small.privacy.unit]
    assert plant.data.simulated
    release = plant.policy.release
    assert (release.approval, release.margin, release.report) == ("auto", 0.05, "nothing")


def test_a_wrong_source_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of simulated, cmapss, found 'mnist'"):
        Source("mnist")
    with pytest.raises(UsageError, match="--data DIR"):
        Source("cmapss")


def test_missing_files_are_named_and_leave_nothing(tmp_path: Path, small: Task) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"expected cmapss\.tar\.xz"):
        prepare(tmp_path / "prepared", Source("cmapss", tmp_path / "empty"), small)
    assert list((tmp_path / "prepared").iterdir()) == []
