"""Virtual plants whose readings lie in folders: each with sizes of its own, measured on its own hold-out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import UsageError
from interplant.core.schema import Model, Privacy, Task, Training, Window
from interplant.core.targets import Target
from interplant.lab.host import Recipe
from interplant.lab.simulate import Fleet, fleet_settings, plant_folders, simulate_fleet

TASK = Task(
    name="parts",
    rounds=4,
    contract=Contract(machine="part", time="made", label="torn", sensors={"heat": Column("K", -2.0, 2.0)}),
    window=Window(1),
    target=Target(kind="event"),
    model=Model("mlp", {"width": 8, "depth": 1}),
    training=Training(steps=30, batch=32, learning_rate=0.05, loss="bce"),
    privacy=Privacy(mechanism="none", unit="row"),
)


def table(first: int, count: int) -> pd.DataFrame:
    heat = np.random.default_rng(first).uniform(-2, 2, count)
    parts = np.arange(first, first + count)
    return pd.DataFrame({"part": parts, "made": parts, "heat": heat, "torn": (heat > 1).astype(int)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two plants of different sizes, one later, and a folder that is none."""
    for number, (name, size) in enumerate({"north": 300, "south": 120, "later/east": 80}.items()):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        table(1000 * number, size).to_parquet(folder / "train.parquet")
        table(1000 * number + 500, 50).to_csv(folder / "holdout.csv", index=False)
    return tmp_path / "data"


def test_a_fleet_has_a_plant_for_each_folder(data: Path) -> None:
    fleet = Fleet.of(data, epsilon=3.0, processes=1)
    assert (fleet.names, fleet.plants, fleet.epsilon) == (["north", "south"], 2, 3.0)
    assert [one.name for one in plant_folders(data / "later")] == ["east"]
    with pytest.raises(UsageError, match="expected one folder a plant, with train and holdout tables"):
        Fleet.of(data / "north")


def test_each_plant_declares_its_own_size(data: Path) -> None:
    fleet = Fleet.of(data)
    made, state = simulate_fleet(replace(fleet, epsilon=1e3), replace(TASK, privacy=Privacy(unit="row")))
    epsilons = {name: float(one["epsilon"]) for name, one in state.plants.items()}
    assert epsilons["south"] > 1.5 * epsilons["north"] > 0
    assert made.epsilon == epsilons["south"]


def test_a_run_over_folders_learns_and_is_measured_on_hold_outs_and_later_plants(data: Path) -> None:
    made, state = simulate_fleet(Fleet.of(data, processes=2), TASK, later=data / "later")
    assert made.simulated is False
    assert (made.rmse, made.rmse_first) == (None, None)
    assert list(made.scores) == list(made.scores_first) == ["north", "south", "later/east"]
    for name, own in made.scores.items():
        assert own["auc"] > 0.95 > 0.5
        assert own["brier"] < made.scores_first[name]["brier"]
    again = simulate_fleet(Fleet.of(data, processes=1), TASK)[1]
    for name, array in state.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


def test_a_recipe_reads_folders_or_simulates(data: Path, tmp_path: Path) -> None:
    fleet = Fleet.of(data)
    settings = fleet_settings(fleet, TASK)
    assert settings.data.declared_windows == 300
    recipe = Recipe(tmp_path, settings, 2, 0, folders=fleet.folders)
    assert len(recipe.readings(1).train) == 120
    assert recipe.settings_of(1) is settings
    assert recipe.readings(0).simulated is False
    assert Recipe(tmp_path, settings, 2, 0).readings(0).simulated is True
