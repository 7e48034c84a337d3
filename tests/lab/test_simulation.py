"""The simulate engine: real policies, ledgers and data, no network, the same result each time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interplant.client import policy
from interplant.client.directory import PlantDirectory
from interplant.core import certificates, config, models
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.schema import (
    Compression,
    Connection,
    Plant,
    Privacy,
    Rounds,
    Target,
    Task,
    Training,
    Window,
)
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.lab.simulation import SimulatedGrid, simulate_run
from interplant.privacy.ledger import Ledger
from interplant.server import replies, rounds
from interplant.server.records import node_id
from interplant.server.run_folder import RunFolder

NAMES = ("east", "north", "south")
RULES = Rounds(quorum=2, retries=0, retry_seconds=0.01)
TASK = Task(
    name="wear",
    rounds=2,
    contract=Contract(sensors={"health": Column("share", -1.0, 1.0)}),
    window=Window(10),
    target=Target(20.0),
    training=Training(steps=2, batch=8),
    privacy=Privacy(mechanism="none"),
)


def dataset(plant: int) -> Dataset:
    """Machines whose sensor reads the cycles left, at each plant on another scale."""
    rows = [
        {"machine": machine, "cycle": cycle, "health": (14 - cycle) / (20.0 + 10 * plant)}
        for machine in (1, 2)
        for cycle in range(1, 15)
    ]
    frame = pd.DataFrame(rows)
    return Dataset(frame, frame.assign(machine=9, rul=14 - frame.cycle), simulated=True)


def edit(plant: PlantDirectory, change: Callable[[Plant], object]) -> None:
    settings = plant.load()
    change(settings)
    plant.config.write_text(config.to_yaml(settings))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, name in enumerate(NAMES):
        made[name] = tmp_path_factory.mktemp(name) / "data"
        Repository.create(made[name], made[name].parent / "remote").snapshot(dataset(number))
    return made


@pytest.fixture
def make(tmp_path: Path, repositories: dict[str, Path]) -> Callable[..., list[PlantDirectory]]:
    """Make three willing plants; their ledgers and records are new each time."""

    def plants(folder: str = "plants") -> list[PlantDirectory]:
        made = []
        for name in NAMES:
            plant = PlantDirectory(tmp_path / folder / name)
            plant.keys.mkdir(parents=True)
            plant.snapshot_key.write_bytes(name.encode() * 32)
            certificates.write_key(plant.plant_key, certificates.key_pem(certificates.make_key()))
            settings = Plant(name=name, federation="test", connection=Connection("127.0.0.1:1"))
            settings.policy.tasks, settings.policy.privacy.allow_none = ["wear"], True
            settings.policy.privacy.epsilon = 100.0
            settings.data.declared_windows, settings.data.repository = 50, str(repositories[name])
            plant.config.write_text(config.to_yaml(settings))
            made.append(plant)
        return made

    return plants


@pytest.fixture
def plants(make: Callable[..., list[PlantDirectory]]) -> list[PlantDirectory]:
    return make()


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.allclose(one[name], other[name], atol=1e-6) for name in one)


def trained(plant: PlantDirectory) -> list[int]:
    lines = plant.rounds.read_text().splitlines() if plant.rounds.exists() else []
    return [json.loads(line)["round"] for line in lines]


def test_every_plant_takes_part_and_the_checkpoint_holds_the_result(
    plants: list[PlantDirectory], tmp_path: Path
) -> None:
    state = simulate_run(plants, tmp_path / "run", TASK, RULES)
    assert state.round == 2
    assert {name: receipt["rounds"] for name, receipt in state.plants.items()} == dict.fromkeys(NAMES, 2)
    assert len({receipt["snapshot"] for receipt in state.plants.values()}) == 3
    stored = RunFolder(tmp_path / "run").restore()
    assert stored is not None
    assert same(stored.weights, state.weights)
    first = [record["participants"] for record in RunFolder(tmp_path / "run").records()]
    assert first == [list(NAMES)] * 2


def test_the_result_does_not_depend_on_order_or_place_or_when(
    make: Callable[..., list[PlantDirectory]], tmp_path: Path
) -> None:
    one = simulate_run(make("here"), tmp_path / "one", TASK, RULES)
    other = simulate_run(reversed(make("there")), tmp_path / "two", TASK, RULES)
    assert same(one.weights, other.weights)
    seeded = simulate_run(make("elsewhere"), tmp_path / "three", replace(TASK, seed=1), RULES)
    assert not same(one.weights, seeded.weights)


def test_a_plant_that_refuses_is_named_and_the_others_go_on(
    plants: list[PlantDirectory], tmp_path: Path
) -> None:
    policy.pause(plants[1])
    state = simulate_run(plants, tmp_path / "run", TASK, RULES)
    assert set(state.plants) == {"east", "south"}
    assert trained(plants[1]) == []
    for record in RunFolder(tmp_path / "run").records():
        assert {name: drop["code"] for name, drop in record["dropped"].items()} == {"north": "paused"}


def test_what_is_merged_is_the_mean_of_who_took_part(
    make: Callable[..., list[PlantDirectory]], tmp_path: Path
) -> None:
    task, alone = replace(TASK, rounds=1), Rounds(quorum=1)
    single = [simulate_run([one], tmp_path / one.path.name, task, alone).weights for one in make("alone")[:2]]
    both = simulate_run(make("both")[:2], tmp_path / "both", task, alone).weights
    mean = {name: (single[0][name] + single[1][name]) / 2 for name in both}
    assert same(both, mean)
    assert not same(both, single[0])


def test_a_missed_quorum_can_be_gone_on_with_after_the_last_good_round(
    make: Callable[..., list[PlantDirectory]], plants: list[PlantDirectory], tmp_path: Path
) -> None:
    """Interrupted after round 1 of 2, gone on with by another grid: as if nothing had been."""
    folder = RunFolder(tmp_path / "run")

    class Interrupted(Exception):
        pass

    def interrupt(record: dict[str, object]) -> None:
        raise Interrupted

    done = simulate_run(make("whole"), tmp_path / "whole", TASK, RULES)
    from interplant.server.run_folder import make_order

    order = make_order("interrupted", TASK, RULES, engine="simulate", release=False)
    folder.create(order)
    with pytest.raises(Interrupted):
        rounds.carry_out(SimulatedGrid(plants, order.run_id), folder, tell=interrupt)
    for plant in plants[1:]:
        policy.pause(plant)
    with pytest.raises(InterplantError, match="round 2 found 1 good updates, expected 2"):
        rounds.carry_out(SimulatedGrid(plants, order.run_id), folder)
    for plant in plants[1:]:
        policy.resume(plant)
    state = rounds.carry_out(SimulatedGrid(plants, order.run_id), folder)
    assert state.round == 2
    assert same(state.weights, done.weights)
    assert trained(plants[1]) == [1, 2], "no finished round is trained again"


def test_privacy_is_charged_to_the_plants_own_ledgers(plants: list[PlantDirectory], tmp_path: Path) -> None:
    task = replace(TASK, privacy=Privacy(noise=2.0))
    edit(plants[0], lambda plant: setattr(plant.policy.privacy, "epsilon", 1e-3))
    state = simulate_run(plants, tmp_path / "run", task, RULES)
    assert set(state.plants) == {"north", "south"}
    assert Ledger(plants[0].ledger).entries() == []
    for plant in plants[1:]:
        ledger = Ledger(plant.ledger)
        assert sum(event.steps for event in ledger.events()) == 2 * TASK.training.steps
        assert state.plants[plant.load().name]["epsilon"] == ledger.spent(None, 1e-5).epsilon > 0


def test_a_run_is_not_written_over_another(plants: list[PlantDirectory], tmp_path: Path) -> None:
    simulate_run(plants[:2], tmp_path / "run", replace(TASK, rounds=1), RULES)
    with pytest.raises(InterplantError, match="there is a run here already"):
        simulate_run(plants, tmp_path / "run", TASK, RULES)


def test_the_grid_is_flowers(plants: list[PlantDirectory]) -> None:
    grid = SimulatedGrid(plants, 5)
    assert isinstance(grid, replies.RingingGrid)
    assert grid.names() == {node_id(name): name for name in NAMES}
    assert grid.get_node_ids() == sorted(grid.online()) == sorted(map(node_id, NAMES))
    assert grid.run.run_id == 5
    assert grid.wait([], 1.0) is None
    assert list(grid.pull_messages(["unknown"])) == []
    grid.finish(["unknown"], None)


@pytest.mark.parametrize("codec", ["bf16", "int8", "top_k"])
def test_plants_that_take_no_compression_are_among_the_others(
    make: Callable[..., list[PlantDirectory]], tmp_path: Path, codec: str
) -> None:
    """The model comes near the plain run's, and the plant's record says what left it."""
    task = replace(TASK, rounds=4)
    rules = replace(RULES, compression=Compression(codec, codec, keep=0.5))
    plain = simulate_run(make("plain"), tmp_path / "plain", task, RULES).weights
    plants = make("light")
    edit(plants[0], lambda plant: setattr(plant.connection, "compression", []))
    state = simulate_run(plants, tmp_path / "light", task, rules)
    assert {one["rounds"] for one in state.plants.values()} == {4}
    first = models.parameters(models.build(task))
    way = np.sqrt(sum(float(((plain[name] - first[name]) ** 2).sum()) for name in plain))
    off = np.sqrt(sum(float(((plain[name] - state.weights[name]) ** 2).sum()) for name in plain))
    assert 0 < off < way * (0.7 if codec == "top_k" else 0.1)
    words = [json.loads(one.audit.read_text().splitlines()[-1])["compression"]["update"] for one in plants]
    assert words == ["none", codec, codec]


def test_noise_from_the_tasks_seed_repeats_a_whole_run(
    make: Callable[..., list[PlantDirectory]], tmp_path: Path
) -> None:
    task = replace(TASK, privacy=Privacy(mechanism="dp-sgd-test"))
    first, again = (simulate_run(make(f"plants-{n}"), tmp_path / f"run-{n}", task, RULES) for n in (1, 2))
    assert set(first.plants) == {"north", "south", "east"}
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])
    assert {plant["epsilon"] for plant in first.plants.values()} == {0.0}
