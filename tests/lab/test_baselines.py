"""What the federation is compared with."""

from pathlib import Path

import numpy as np
import pytest

from interplant.core import models
from interplant.core.schema import Task
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.lab import baselines
from interplant.lab.baselines import PlantWindows


@pytest.fixture(scope="module")
def plants(small: Task) -> dict[str, PlantWindows]:
    return {name: PlantWindows.of(simulate(place, 3, 0), small) for place, name in enumerate(("a", "b"))}


def test_the_test_is_the_last_window_of_each_held_out_machine(plants: dict[str, PlantWindows]) -> None:
    for plant in plants.values():
        assert len(plant.test) == len(np.unique(plant.test.machine)) == 20
        assert plant.test.y.max() <= 125.0


def test_the_longest_machine_is_the_one_with_most_windows(plants: dict[str, PlantWindows]) -> None:
    counts = np.unique(plants["a"].train.machine, return_counts=True)[1]
    assert plants["a"].longest == max(counts)


def test_training_alone_takes_every_step_of_a_run(
    small: Task, plants: dict[str, PlantWindows], monkeypatch: pytest.MonkeyPatch
) -> None:
    import interplant.privacy.training as training

    asked = []
    honest = training.train

    def spy(*words: object, **more: object) -> object:
        asked.append(words[3])
        return honest(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", spy)
    baselines.train_alone(small, plants["a"].train)
    (settings,) = asked
    assert (settings.steps, settings.batch) == (6, 32)  # type: ignore[attr-defined]


def test_training_alone_is_repeatable_and_learns(small: Task, plants: dict[str, PlantWindows]) -> None:
    first, again = (baselines.train_alone(small, plants["a"].train) for _ in range(2))
    fresh = models.parameters(models.build(small))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    own = plants["a"].train
    assert baselines.error(small, first, own) < baselines.error(small, fresh, own)


def test_pooling_keeps_every_window(plants: dict[str, PlantWindows]) -> None:
    parts = [one.train for one in plants.values()]
    pooled = baselines.pool(parts)
    assert len(pooled) == sum(map(len, parts))
    assert np.array_equal(pooled.x[-1], parts[1].x[-1])


def test_the_error_is_in_cycles(small: Task, plants: dict[str, PlantWindows]) -> None:
    weights = models.parameters(models.build(small))
    zero = {name: np.zeros_like(value) for name, value in weights.items()}
    test = plants["a"].test
    expected = float(np.sqrt(np.mean(test.y.astype(float) ** 2)))
    assert baselines.error(small, zero, test) == pytest.approx(expected)


def test_every_plant_is_measured_on_its_own_machines(small: Task, plants: dict[str, PlantWindows]) -> None:
    weights = models.parameters(models.build(small))
    errors = baselines.measure(small, plants, {"federated": weights})
    assert set(errors) == {"a", "b"}
    assert errors["a"].keys() == {"alone", "pooled", "federated"}
    assert errors["b"]["federated"] == pytest.approx(baselines.error(small, weights, plants["b"].test))
    assert errors["a"]["federated"] != errors["b"]["federated"]


def test_a_plants_newest_snapshot_is_what_is_read(small: Task, tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "data", tmp_path / "remote")
    repository.snapshot(simulate(0, 2, 0))
    repository.snapshot(simulate(0, 3, 0))
    assert len(np.unique(baselines.read_plant(tmp_path / "data", small).train.machine)) == 3


def test_the_same_task_without_privacy(small: Task) -> None:
    assert baselines.public(small).privacy.mechanism == "none"
    assert small.privacy.mechanism == "dp-sgd"
    assert baselines.public(small).training == small.training
