"""One app, three engines, one result."""

from pathlib import Path

import numpy as np
import pytest

from interplant.core.tensors import Tensors
from interplant.lab.federation import LocalFederation
from interplant.lab.flower_engine import run_on_flower
from interplant.lab.simulation import simulate_run
from interplant.server.run_folder import RunFolder, make_order

from .conftest import PLANTS, turbofan

pytestmark = pytest.mark.system

TASK = turbofan("rounds=2", "training.steps=8", "privacy.mechanism=none")


def same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_same_app_gives_the_same_model_on_every_engine(
    federation: LocalFederation, tmp_path: Path
) -> None:
    rules = federation.coordinator.load().rounds
    run = federation.start_run(TASK, release=False)
    assert federation.until_over(run.id).state == "finished"
    over_grpc = RunFolder(federation.coordinator.runs / run.id).restore()

    plants = [federation.plant(name) for name in PLANTS]
    simulated = simulate_run(plants, tmp_path / "simulated", TASK, rules)

    folder = RunFolder(tmp_path / "flower")
    folder.create(make_order("contract", TASK, rules, engine="flower", release=False))
    nodes = {plant.load().name: {"plant": str(plant.path)} for plant in plants}
    done = run_on_flower(
        tmp_path / "logs",
        "interplant.server.rounds:app",
        "interplant.client.app:app",
        nodes,
        {"run": str(folder.path)},
        timeout=300,
    )
    assert done.status == "completed", done.log
    over_flower = folder.restore()

    assert over_grpc is not None
    assert over_flower is not None
    assert over_grpc.round == simulated.round == over_flower.round == 2
    assert set(over_grpc.plants) == set(simulated.plants) == set(over_flower.plants) == set(PLANTS)
    same(simulated.weights, over_grpc.weights)
    same(over_flower.weights, over_grpc.weights)
