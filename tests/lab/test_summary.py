"""What a plant manager and a program read after a demo."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interplant.lab import summary
from interplant.lab.plot import BARS, draw, errors
from interplant.lab.summary import COLUMNS, Summary

PLANT_KEYS = {
    "name",
    "snapshot",
    "rows",
    "rmse_alone",
    "rmse_pooled",
    "rmse_federated",
    "rmse_federated_private",
    "privacy_unit",
    "epsilon",
    "delta",
    "epsilon_budget",
    "release",
    "release_state",
}


def size(png: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its first chunk."""
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_the_document_has_the_keys_that_programs_rely_on(made: Summary, tmp_path: Path) -> None:
    made.write(tmp_path)
    document = json.loads((tmp_path / "summary.json").read_text())
    assert all(plant.keys() >= PLANT_KEYS for plant in document["plants"])
    assert {"total", "train", "overhead_per_round", "to_first_training"} <= document["seconds"].keys()
    assert document["release"].keys() == {"id", "sha256", "signature_verified"}
    assert (document["rounds"], document["simulated"], document["dataset"]) == (20, True, "simulated")
    assert document["plants"][1]["machine_epsilon"] is None


def test_a_number_that_json_cannot_hold_is_left_out(made: Summary) -> None:
    assert summary.finite(float("inf")) is None
    assert summary.finite(2.0) == 2.0
    with pytest.raises(ValueError, match="Out of range"):
        replace(made, memory_mb=float("nan")).to_json()


def test_the_table_shows_each_plant_and_the_means(made: Summary) -> None:
    first, second, mean = summary.rows(made)
    assert len(first) == len(mean) == len(COLUMNS)
    assert dict(zip(COLUMNS, first, strict=True)) == {
        "plant": "plant-1",
        "snapshot": "7f06e0ae",
        "machines": "24",
        "rows": "5283",
        "alone": "62.2",
        "pooled": "18.9",
        "federated": "17.3",
        "with privacy": "22.3",
        "ε spent of budget": "2.17 of 4",
        "release": "active",
    }
    assert second[-1] == "refused"
    assert mean[:1] + mean[4:8] == ["mean", "62.2", "18.9", "17.3", "22.3"]


def test_simulated_data_is_called_that_and_the_benchmark_is_not(made: Summary) -> None:
    assert "SIMULATED" in summary.title(made)
    assert any("simulated" in note for note in summary.notes(made))
    real = replace(made, dataset="cmapss", simulated=False)
    assert "C-MAPSS" in summary.title(real)
    assert not any("simulated" in note for note in summary.notes(real))


def test_the_notes_say_what_epsilon_does_not_protect(made: Summary) -> None:
    text = "\n".join(summary.notes(made))
    assert "ε protects one window (δ = 1e-05)" in text
    assert "at plant-2 a machine with 236 windows is not protected" in text
    assert "In a real federation errors, ledgers and verdicts stay in the plant" in text
    assert "plant-2 refused the release: no better than predicting the average" in text


def test_the_notes_do_not_call_a_bad_signature_verified(made: Summary) -> None:
    assert any("signature verified at every plant" in note for note in summary.notes(made))
    bad = replace(made, release=made.release | {"signature_verified": False})
    assert any("signature NOT verified" in note for note in summary.notes(bad))


def test_overhead_is_the_round_less_the_slowest_plants_training() -> None:
    plants = [
        [{"run": "a", "round": 1, "seconds": 1.0}, {"run": "a", "round": 2, "seconds": 2.0}],
        [{"run": "a", "round": 1, "seconds": 3.0}, {"run": "b", "round": 1, "seconds": 9.0}],
    ]
    training = summary.slowest(plants)
    assert training == {("a", 1): 3.0, ("a", 2): 2.0, ("b", 1): 9.0}
    rounds = [
        {"round": 1, "seconds": 3.2, "settled": True},
        {"round": 2, "seconds": 99.0, "settled": False},
        {"round": 2, "seconds": 2.4, "settled": True},
    ]
    assert summary.overhead(rounds, training, "a") == pytest.approx(0.3)


def test_the_picture_is_a_png_of_the_errors_and_the_budgets(made: Summary, tmp_path: Path) -> None:
    draw(made, tmp_path / "summary.png")
    width, height = size(tmp_path / "summary.png")
    assert width > 1.5 * height > 600
    before = (tmp_path / "summary.png").read_bytes()
    draw(made, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == before
    worse = tuple(replace(plant, rmse_federated=90.0) for plant in made.plants)
    draw(replace(made, plants=worse), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() != before


def test_errors_alone_can_be_drawn(tmp_path: Path) -> None:
    by_kind = {key: [20.0, 30.0] for key, _, _ in BARS}
    errors(["north", "south"], by_kind, "Reference experiment", tmp_path / "folder" / "errors.png")
    assert size(tmp_path / "folder" / "errors.png")[0] > 600
