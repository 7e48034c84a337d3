import time

import numpy as np
import pandas as pd
import pytest

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Task
from interplant.data.contract import check, columns, condition_of
from interplant.data.frames import Dataset
from interplant.data.simulator import HOLDOUT_LEAST, simulate
from interplant.data.tasks import builtin
from interplant.data.windows import Windows, training_windows


@pytest.fixture(scope="module")
def task() -> Task:
    return config.load(builtin("turbofan"), Task)


@pytest.fixture(scope="module")
def plants() -> list[Dataset]:
    return [simulate(plant, 24, seed=3) for plant in range(4)]


def conditions(frame: pd.DataFrame, task: Task) -> set[int]:
    settings = frame[list(task.contract.settings)].to_numpy(dtype=np.float64)
    return set(condition_of(settings, task.contract).tolist())


def rmse(predicted: np.ndarray, windows: Windows) -> float:
    return float(np.sqrt(np.mean((predicted - windows.y) ** 2)))


def features(windows: Windows) -> np.ndarray:
    """Mean and trend of each channel, and their squares: enough for a straight-line fit."""
    x = windows.x.astype(np.float64)
    half = x.shape[2] // 2
    mean, trend = x.mean(axis=2), x[:, :, half:].mean(axis=2) - x[:, :, :half].mean(axis=2)
    return np.column_stack([np.ones(len(x)), mean, trend, mean**2])


def fit(*parts: Windows) -> np.ndarray:
    """Ridge weights: a model good enough to show whether there is something to learn."""
    inputs = np.concatenate([features(part) for part in parts])
    labels = np.concatenate([part.y for part in parts])
    return np.linalg.solve(inputs.T @ inputs + 10 * np.eye(inputs.shape[1]), inputs.T @ labels)


def test_it_fits_the_turbofan_contract(plants: list[Dataset], task: Task) -> None:
    for dataset in plants:
        names = ["machine", "cycle", *columns(task.contract)]
        assert list(dataset.train.columns) == names
        assert list(dataset.holdout.columns) == [*names, "rul"]
        for frame in (dataset.train, dataset.holdout):
            assert not [one for one in check(frame, task.contract) if one.blocks]


def test_it_is_labelled_simulated(plants: list[Dataset]) -> None:
    assert all(dataset.simulated for dataset in plants)


def test_the_same_seed_gives_the_same_readings_and_another_does_not() -> None:
    again = simulate(1, 5, seed=7)
    pd.testing.assert_frame_equal(simulate(1, 5, seed=7).train, again.train)
    pd.testing.assert_frame_equal(simulate(1, 5, seed=7).holdout, again.holdout)
    assert not simulate(1, 5, seed=8).train.equals(again.train)
    assert not simulate(2, 5, seed=7).train.equals(again.train)


def test_every_machine_of_the_record_runs_from_its_first_cycle_to_failure(plants: list[Dataset]) -> None:
    for dataset in plants:
        lives = dataset.train.groupby("machine")["cycle"].agg(["min", "max", "count"])
        assert len(lives) == 24
        assert (lives["min"] == 1).all()
        assert (lives["max"] == lives["count"]).all()
        assert lives["max"].between(90, 380).all()
        assert lives["max"].nunique() > 10


def test_the_holdout_is_cut_off_and_knows_its_true_rul(plants: list[Dataset]) -> None:
    for dataset in plants:
        life = dataset.holdout["cycle"] + dataset.holdout["rul"]
        assert (life.groupby(dataset.holdout["machine"]).nunique() == 1).all()
        last = dataset.holdout.groupby("machine")["rul"].min()
        assert len(last) == 24
        assert last.min() >= 0
        assert last.max() > 60
    assert simulate(0, 2, seed=0).holdout["machine"].nunique() == HOLDOUT_LEAST


def test_plants_differ_in_their_conditions(plants: list[Dataset], task: Task) -> None:
    assert [len(conditions(dataset.train, task)) for dataset in plants] == [1, 6, 1, 6]
    assert conditions(plants[0].train, task) != conditions(plants[2].train, task)
    assert conditions(plants[0].train, task) == conditions(plants[0].holdout, task)


def test_any_number_of_plants(task: Task) -> None:
    dataset = simulate(137, 3, seed=0)
    assert check(dataset.train, task.contract) == []


def test_the_two_faults_move_a_sensor_in_opposite_directions() -> None:
    def drift(plant: int) -> float:
        frame = simulate(plant, 12, seed=1).train
        left = frame.groupby("machine")["cycle"].transform("max") - frame["cycle"]
        # Plants 0 (compressor only, sea level) and 4 of the next four (the same, at 20 kft).
        return float(frame.loc[left < 10, "s7"].mean() - frame.loc[frame["cycle"] < 20, "s7"].mean())

    assert drift(0) < 0
    assert drift(4) < 0
    frame = simulate(1, 12, seed=1).train  # fan only, all conditions
    sea = frame[frame["setting3"].gt(99) & frame["setting1"].lt(1)]
    left = sea.groupby("machine")["cycle"].transform("max") - sea["cycle"]
    assert sea.loc[left < 15, "s7"].mean() > sea.loc[sea["cycle"] < 40, "s7"].mean()


def test_it_can_be_learned_and_learning_together_is_better(plants: list[Dataset], task: Task) -> None:
    trained = [training_windows(dataset.train, task) for dataset in plants]
    held = [training_windows(dataset.holdout, task) for dataset in plants]
    together = fit(*trained)
    mean = np.mean([rmse(np.full(len(h), t.y.mean()), h) for t, h in zip(trained, held, strict=True)])
    alone = np.mean([rmse(features(h) @ fit(t), h) for t, h in zip(trained, held, strict=True)])
    pooled = np.mean([rmse(features(h) @ together, h) for h in held])
    assert pooled < 0.75 * mean
    assert pooled < 0.85 * alone


def test_four_plants_are_ready_in_a_moment() -> None:
    started = time.process_time()
    for plant in range(4):
        simulate(plant, 30, seed=0)
    assert time.process_time() - started < 4.0


@pytest.mark.parametrize(("plant", "machines", "seed"), [(-1, 5, 0), (0, 0, 0), (0, 5, -1)])
def test_impossible_numbers_are_refused(plant: int, machines: int, seed: int) -> None:
    with pytest.raises(UsageError, match="expected plant and seed from 0 and at least 1 machine"):
        simulate(plant, machines, seed)
