"""Joining as one act, and a data repository that a killed join had not finished."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from interplant.client import setup
from interplant.client.directory import PlantDirectory, data_repository
from interplant.client.link import AwayError, TurnedAwayError
from interplant.core.errors import UsageError
from interplant.core.staging import staging_path
from interplant.data.repository import Repository

from .conftest import edit


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch, bare: PlantDirectory) -> dict[str, Any]:
    """A join whose network call fails as the test says; a join leaves a key beside the target."""
    script: dict[str, Any] = {"error": None}

    def join(directory: Path, *_: Any) -> PlantDirectory:
        staging_path(directory.absolute()).mkdir(exist_ok=True)
        if script["error"]:
            raise script["error"]
        shutil.copytree(bare.path, directory)
        return PlantDirectory(directory)

    monkeypatch.setattr(setup, "read_join_file", lambda file: json.loads(file.read_text()))
    monkeypatch.setattr(setup, "join_federation", join)
    return script


def test_a_join_that_lost_its_answer_keeps_its_key_for_the_next_try(
    joining: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "join").write_text("{}")
    joining["error"] = AwayError("gone")
    with pytest.raises(AwayError):
        setup.join_plant(tmp_path / "join", tmp_path / "new")
    assert staging_path(tmp_path / "new").exists()


def test_a_join_that_was_turned_away_leaves_nothing(joining: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "join").write_text("{}")
    joining["error"] = TurnedAwayError("used before")
    with pytest.raises(TurnedAwayError):
        setup.join_plant(tmp_path / "join", tmp_path / "new")
    assert not staging_path(tmp_path / "new").exists()
    assert not (tmp_path / "new").exists()


def test_a_joined_plant_has_an_empty_repository_with_a_remote_of_its_own(
    joining: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "join").write_text("{}")
    plant = setup.join_plant(tmp_path / "join", tmp_path / "new")
    assert Repository(plant.data).log() == []
    assert plant.remote.is_dir()


def test_a_missing_repository_is_completed_and_an_old_one_stays(
    bare: PlantDirectory, tiny_repository: Path
) -> None:
    shutil.copytree(tiny_repository, bare.path, dirs_exist_ok=True)
    (before,) = data_repository(bare).log()
    assert data_repository(bare).log() == [before]


def test_a_repository_that_plant_yaml_names_is_never_made(bare: PlantDirectory) -> None:
    edit(bare, lambda plant: setattr(plant.data, "repository", "elsewhere"))
    with pytest.raises(UsageError, match="elsewhere: expected a plant's data repository"):
        data_repository(bare)
    assert not (bare.path / "elsewhere").exists()
