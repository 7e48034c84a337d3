"""``interplant data drift``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interplant.client.directory import PlantDirectory
from interplant.data.repository import Repository
from interplant.data.simulator import simulate

Call = Callable[..., Any]


@pytest.fixture
def digest(place: Path, plant: PlantDirectory) -> str:
    """A snapshot of simulated machines, and three files of readings of the same machines."""
    dataset = simulate(0, 8, 0)
    dataset.train.to_parquet(place / "same.parquet")
    broken = dataset.train.copy()
    broken["machine"] += 1000
    broken["s2"] += 40
    (place / "readings").mkdir()
    broken.to_csv(place / "readings" / "broken.csv", index=False)
    return Repository(plant.data).snapshot(dataset).digest


def test_no_drift_says_so_and_exits_with_0(place: Path, interplant: Call, digest: str) -> None:
    done = interplant("data", "drift", "--from", "same.parquet", "--dir", "north", "--snapshot", digest)
    assert (done.code, done.err) == (0, "")
    assert "No drift began." in done.out
    assert "s21" in done.out


def test_a_drift_is_in_the_document_and_in_the_table(place: Path, interplant: Call, digest: str) -> None:
    words = ("data", "drift", "--from", "readings", "--dir", "north", "--snapshot", digest, "--json")
    done = interplant(*words)
    assert (done.code, done.err) == (0, "")
    said = done.json
    assert (said["snapshot"], said["release"]) == (digest, None)
    assert [(one["sensor"], one["kind"]) for one in said["alarms"]] == [("s2", "offset")]
    assert said["drifting"] == {"s2": "offset"}
    (sensor,) = [one for one in said["sensors"] if one["sensor"] == "s2"]
    assert sensor["spread"] > 1
    assert sensor["drift"] == "offset"
    # The same readings again are passed over.
    again = interplant(*words).json
    assert (again["windows"], again["alarms"], again["drifting"]) == (0, [], {"s2": "offset"})


def test_fail_exits_with_1_and_says_where_the_events_are(
    place: Path, interplant: Call, digest: str, plant: PlantDirectory
) -> None:
    words = ("data", "drift", "--from", "readings", "--dir", "north", "--snapshot", digest, "--fail")
    done = interplant(*words, "--plot", "drift.png")
    assert done.code == 1
    assert done.err == "interplant: 1 drifts began; north/drift.jsonl holds them\n"
    assert "s2: offset" in done.out
    assert (place / "drift.png").read_bytes().startswith(b"\x89PNG")
    assert plant.drift_events.read_text().count("\n") == 1
    # Nothing new began.
    assert interplant(*words).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "none.csv"], "none.csv"),
        (["--from", "same.parquet", "--snapshot", "0" * 12], "snapshot '000000000000'"),
        (["--from", "same.parquet", "--task", "none"], "task 'none'"),
        (["--from", "empty"], "expected .parquet or .csv tables here"),
        (["--from", "cut.parquet"], "cannot be read as parquet"),
        (["--from", "gone.csv"], "column 's2': expected by the contract"),
    ],
)
def test_wrong_words_and_files_are_one_sentence(
    place: Path, interplant: Call, digest: str, words: list[str], said: str
) -> None:
    (place / "empty").mkdir()
    (place / "cut.parquet").write_bytes((place / "same.parquet").read_bytes()[:500])
    (place / "gone.csv").write_text("machine,cycle,setting1,setting2,setting3\n1,1,0,0,100\n")
    named = [] if "--snapshot" in words else ["--snapshot", digest]
    done = interplant("data", "drift", "--dir", "north", *words, *named)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


def test_without_a_champion_one_is_told_what_to_name(place: Path, interplant: Call, digest: str) -> None:
    done = interplant("data", "drift", "--dir", "north", "--from", "same.parquet")
    assert done.code == 2
    assert "--snapshot" in done.err
