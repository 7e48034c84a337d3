"""Virtual plants come to the very same bits as real ones: processes, TLS, data repositories."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from interplant.core.schema import Compression, Plant, Rounds, Task
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.simulate import Fleet, fleet_settings, simulate_fleet
from interplant.server.run_folder import RunFolder

from .conftest import turbofan

pytestmark = pytest.mark.system

FLEET = Fleet(4, machines=2, seed=3, epsilon=50.0, processes=2)
TASK = turbofan("rounds=3", "training.steps=5", "training.batch=32", "strategy.name=fedavgm")


def mechanism(name: str) -> Task:
    return replace(TASK, privacy=replace(TASK.privacy, mechanism=name))


def as_virtual() -> Callable[[Plant], None]:
    """The settings that virtual plants have."""
    settings = fleet_settings(FLEET, TASK)

    def change(plant: Plant) -> None:
        plant.data, plant.policy = settings.data, settings.policy

    return change


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    root = tmp_path_factory.mktemp("real")
    with local_federation(root / "f") as made:
        made.create("real")
        made.start_coordinator()
        for number, name in enumerate(FLEET.names):
            plant = made.join(name, as_virtual())
            Repository(plant.data).snapshot(simulate(number, FLEET.machines, FLEET.seed))
            made.start_plant(name)
        made.until_online(FLEET.names)
        yield made


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        ("none", Compression()),
        ("dp-sgd-test", Compression()),
        ("none", Compression("int8", "int8")),
        ("dp-sgd-test", Compression("top_k", "bf16", 0.1)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.update,
)
def test_a_simulation_gives_the_bits_of_a_real_federation(
    federation: LocalFederation, name: str, compression: Compression
) -> None:
    """Without privacy, and with its noise drawn from the task's seed; plain and compressed."""
    rules = Rounds(quorum=4, order="plants", deadline_seconds=120.0, compression=compression)
    run = federation.until_over(federation.start_run(mechanism(name), False, rounds=rules).id)
    assert run.state == "finished", run.reason
    real = RunFolder(federation.coordinator.runs / run.id).restore()
    assert real is not None
    _, virtual = simulate_fleet(FLEET, mechanism(name), rules)
    assert (real.round, virtual.round) == (3, 3)
    assert real.weights.keys() == virtual.weights.keys()
    for key, array in real.weights.items():
        np.testing.assert_array_equal(array, virtual.weights[key])
