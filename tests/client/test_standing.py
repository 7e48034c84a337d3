"""What drifts now, as those who serve predictions look at it."""

import stat

import pytest

from interplant.client import standing
from interplant.client.directory import PlantDirectory


@pytest.fixture
def plant(bare: PlantDirectory) -> PlantDirectory:
    bare.drift.mkdir()
    return bare


def test_nothing_drifts_before_anybody_has_looked(plant: PlantDirectory) -> None:
    assert not standing.is_drifting(plant, "r-1")


def test_each_thing_that_is_watched_has_its_say(plant: PlantDirectory) -> None:
    standing.note(plant, "r-1", "inputs", [])
    standing.note(plant, "r-1", "errors", ["errors"])
    assert standing.is_drifting(plant, "r-1")
    standing.note(plant, "r-1", "inputs", ["heat"])
    standing.note(plant, "r-1", "errors", [])
    assert standing.is_drifting(plant, "r-1")
    standing.note(plant, "r-1", "inputs", [])
    assert not standing.is_drifting(plant, "r-1")


def test_another_release_starts_anew(plant: PlantDirectory) -> None:
    standing.note(plant, "r-1", "inputs", ["heat"])
    assert not standing.is_drifting(plant, "r-2")
    standing.note(plant, "r-2", "errors", [])
    assert not standing.is_drifting(plant, "r-2")
    assert not standing.is_drifting(plant, "r-1")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"release": "r-1"}', '{"watched": 3}'])
def test_a_damaged_file_is_no_drift_and_is_written_anew(plant: PlantDirectory, content: str) -> None:
    plant.drift_now.write_text(content)
    assert not standing.is_drifting(plant, "r-1")
    standing.note(plant, "r-1", "inputs", ["heat"])
    assert standing.is_drifting(plant, "r-1")
    assert stat.S_IMODE(plant.drift_now.stat().st_mode) == 0o600
