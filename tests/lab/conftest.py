"""A finished demo's summary, made up, and small data."""

from dataclasses import replace

import pytest

from interplant.core import config
from interplant.core.schema import Task
from interplant.data.tasks import builtin
from interplant.lab.summary import PlantResult, Summary

PLANT = PlantResult(
    name="plant-1",
    snapshot="7f06e0ae" * 8,
    snapshot_keyed="0a" * 32,
    rows=5283,
    machines=24,
    rmse_alone=62.2,
    rmse_pooled=18.9,
    rmse_federated=17.3,
    rmse_federated_private=22.3,
    privacy_unit="window",
    epsilon=2.17,
    delta=1e-5,
    epsilon_budget=4.0,
    machine_windows=236,
    machine_epsilon=2717.0,
    release="turbofan-1",
    release_state="active",
    release_reason="better than the mean",
)


@pytest.fixture
def made() -> Summary:
    second = replace(PLANT, name="plant-2", epsilon=2.77, machine_epsilon=None, release_state="refused")
    return Summary(
        run="20260101-000000-abcd",
        dataset="simulated",
        simulated=True,
        engine="grpc",
        seed=0,
        plants=(PLANT, replace(second, release_reason="no better than predicting the average")),
        rounds=20,
        seconds={"total": 100.0, "train": 60.0, "overhead_per_round": 0.05, "to_first_training": 12.0},
        memory_mb=2345.6,
        release={"id": "turbofan-1", "sha256": "ab" * 32, "signature_verified": True},
    )


@pytest.fixture(scope="session")
def small() -> Task:
    """The turbofan task, a few steps of it."""
    return config.load(builtin("turbofan"), Task, ["rounds=2", "training.steps=3", "training.batch=32"])
