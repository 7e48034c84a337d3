"""Many virtual plants in a few processes: the same results whatever their number, and the same rules."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from interplant.client.participation import Trainer
from interplant.client.trained import Trained
from interplant.core import config, models
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.schema import Compression, Rounds, Task
from interplant.core.tensors import Tensors
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab import virtual
from interplant.lab.pool import AHEAD, PooledGrid
from interplant.lab.simulate import Fleet, fleet_settings, simulate_fleet
from interplant.lab.virtual import Kept, VirtualDirectory, VirtualTrainer
from interplant.privacy.ledger import Ledger
from interplant.server.rounds import QuorumError
from interplant.server.run_folder import RunFolder
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.registry import REGISTERED

from ..waiting import until

OPEN = (
    "rounds=2",
    "training.steps=4",
    "training.batch=16",
    "privacy.mechanism=none",
    "model.args={hidden: 8}",
)
PRIVATE = ("rounds=2", "training.steps=4", "training.batch=16", "model.args={hidden: 8}")


def turbofan(*words: str) -> Task:
    return config.load(builtin("turbofan"), Task, words)


def weights(fleet: Fleet, task: Task, **words: Any) -> Tensors:
    return simulate_fleet(fleet, task, **words)[1].weights


def test_the_same_bits_whatever_the_number_of_processes() -> None:
    one, three = (weights(Fleet(5, machines=2, processes=count), turbofan(*OPEN)) for count in (1, 3))
    assert one.keys() == three.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, three[name])
    other = weights(Fleet(5, machines=2, seed=1, processes=2), turbofan(*OPEN))
    assert any((array != other[name]).any() for name, array in one.items())


def test_private_plants_charge_their_ledgers_and_stop_at_their_budgets(
    monkeypatch: Any, tmp_path: Path
) -> None:
    task = replace(turbofan(*PRIVATE), rounds=3)
    made, state = simulate_fleet(Fleet(3, machines=2, epsilon=50.0, processes=1), task)
    assert (made.mechanism, made.unit, made.delta) == ("dp-sgd", "window", 1e-5)
    assert 0 < made.epsilon <= 50.0
    assert {one["rounds"] for one in state.plants.values()} == {3}
    entries = {one["entries"] for one in state.plants.values()}
    assert entries == {6}, "a charge and a commit for each round, in each plant's own ledger"
    with pytest.raises(InterplantError, match="budget does not cover this round"):
        simulate_fleet(Fleet(3, machines=2, epsilon=made.epsilon / 2, processes=1), task)


class Pausing(VirtualTrainer):
    """The first plant takes no part in the second round, and is sent the third model whole."""

    def train(self, run: str, number: int, task: Task, start: Tensors) -> Trained:
        if number == 2 and self._plant.load().name == "plant-1":
            raise Refusal("no_snapshot")
        return super().train(run, number, task, start)


def test_models_whole_and_as_differences_go_out_in_one_round() -> None:
    """Whole ones and differences in turn, over one process and three, come to the same bits."""
    task, light = replace(turbofan(*OPEN), rounds=4), Compression("int8", "int8")
    rules = Rounds(order="plants", retries=0, compression=light)
    one, three = (
        simulate_fleet(Fleet(5, machines=2, processes=count), task, rules, trainer=Pausing)
        for count in (1, 3)
    )
    assert [len(record["participants"]) for record in one[0].rounds] == [5, 4, 5, 5]
    for name, array in one[1].weights.items():
        np.testing.assert_array_equal(array, three[1].weights[name])
    plain = weights(Fleet(5, machines=2, processes=1), task, trainer=Pausing)
    assert any((array != plain[name]).any() for name, array in one[1].weights.items())


def test_what_came_of_it(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    made, _ = simulate_fleet(
        Fleet(3, machines=3, processes=2),
        turbofan(*OPEN, "training.steps=40", "strategy.name=fedavgm"),
        folder=tmp_path / "run",
        tell=told.append,
    )
    assert (made.plants, made.processes, made.strategy) == (3, 2, "fedavgm")
    assert made.rmse < made.rmse_first
    assert told == made.rounds == RunFolder(tmp_path / "run").records()
    assert [record["participants"] for record in told] == [["plant-1", "plant-2", "plant-3"]] * 2
    assert made.parameters == sum(a.size for a in models.parameters(models.build(turbofan(*OPEN))).values())
    assert made.as_dict()["simulated"] is True


def shared() -> set[str]:
    """Folders of simulations in shared memory."""
    return {path.name for path in Path("/dev/shm").glob("interplant-*")}


def test_nothing_is_left_behind() -> None:
    before = shared()
    weights(Fleet(2, machines=1, processes=2), turbofan(*OPEN))
    left = shared() - before
    until(lambda: not left & shared())  # another process's tests simulate too; what is theirs goes by itself
    assert [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())] == []


class Dying(VirtualTrainer):
    def train(self, run: str, number: int, task: Task, start: Tensors) -> Trained:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_process_that_dies_is_told_in_one_sentence() -> None:
    with pytest.raises(InterplantError, match="a process of the simulation has died"):
        simulate_fleet(Fleet(2, machines=1, processes=1), turbofan(*OPEN), trainer=Dying)


class Refusing(VirtualTrainer):
    """The second plant's fault is its own."""

    def train(self, run: str, number: int, task: Task, start: Tensors) -> Trained:
        if self._plant.load().name == "plant-2":
            raise InterplantError("broken")
        return super().train(run, number, task, start)


def test_a_plant_that_fails_is_named_and_the_others_go_on() -> None:
    made, _ = simulate_fleet(Fleet(3, machines=1, processes=2), turbofan(*OPEN), trainer=Refusing)
    assert [set(record["dropped"]) for record in made.rounds] == [{"plant-2"}] * 2
    assert {record["dropped"]["plant-2"]["code"] for record in made.rounds} == {"internal"}


def test_a_strategy_that_ends_the_process_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(FedAvg):
        def fold(self, *_: Any) -> None:
            raise SystemExit(0)

    monkeypatch.setitem(REGISTERED, "leaving", Leaving)
    with pytest.raises(InterplantError, match="strategy Leaving: fold failed with SystemExit: 0") as failed:
        simulate_fleet(Fleet(2, machines=1, processes=1), turbofan(*OPEN, "strategy.name=leaving"))
    assert failed.value.exit_code == 1


def test_without_a_quorum_only_what_can_be_done_here_is_advised() -> None:
    rules = Rounds(quorum=3, order="plants", retries=0)
    with pytest.raises(QuorumError, match=r"plant-2: .*; mend it$") as failed:
        simulate_fleet(Fleet(3, machines=1, processes=1), turbofan(*OPEN), rules, trainer=Refusing)
    assert "resume" not in str(failed.value)


@pytest.mark.parametrize("order", ["plants", "arrival"])
def test_few_updates_wait_in_memory(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    really = PooledGrid.wait

    def watched(self: PooledGrid, *words: Any) -> Any:
        nonlocal most
        found = really(self, *words)
        most = max(most, sum(len(worker.sent) + len(worker.held) for worker in self._workers))
        return found

    monkeypatch.setattr(PooledGrid, "wait", watched)
    rules = Rounds(order=order, retries=0)
    simulate_fleet(Fleet(20, machines=1, processes=2), turbofan(*OPEN, "training.steps=1"), rules)
    assert 2 <= most <= 2 * (AHEAD + 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"plants": 0}, "--plants: expected 1 or more, found 0"),
        ({"plants": 10**9}, "--plants: expected 100000 or fewer, found 1000000000"),
        ({"plants": 2, "machines": 10**9}, "--machines: expected 10000 or fewer, found 1000000000"),
        ({"plants": 2, "processes": 10**9}, "--processes: expected 1024 or fewer, found 1000000000"),
        ({"plants": 2, "machines": 0}, "--machines: expected 1 or more, found 0"),
        ({"plants": 2, "processes": -1}, "--processes: expected 0 or more, found -1"),
        ({"plants": 2, "epsilon": 0.0}, "--epsilon: expected a number more than 0, found 0"),
        ({"plants": 2, "epsilon": float("nan")}, "--epsilon: expected a number more than 0, found nan"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Fleet(**words)


def test_a_folder_that_cannot_take_a_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file, held = tmp_path / "file", tmp_path / "held"
    file.touch()
    held.mkdir()
    (held / "order.json").touch()
    for folder, said in (
        (held, f"--dir: expected a folder without a run, found one in {held}; name another"),
        (file, f"--dir: expected a folder, found the file {file}; name another"),
        (file / "a" / "b", f"--dir: expected a folder, found the file {file}; name another"),
    ):
        with pytest.raises(UsageError) as failed:
            simulate_fleet(Fleet(2, machines=1), turbofan(*OPEN), folder=folder)
        assert str(failed.value) == said


@pytest.mark.parametrize("part", ["train", "holdout"])
@pytest.mark.parametrize("role", ["data", "test"])
def test_readings_that_break_the_contract_are_named_with_plant_and_file(
    tmp_path: Path, part: str, role: str
) -> None:
    for place, number in (("data/a", 0), ("data/b", 1), ("test/c", 2)):
        made = simulate(number, 2, 0)
        (tmp_path / place).mkdir(parents=True)
        for name, table in (("train", made.train), ("holdout", made.holdout)):
            table.to_csv(tmp_path / place / f"{name}.csv", index=False)
    bad = tmp_path / {"data": "data/b", "test": "test/c"}[role] / f"{part}.csv"
    pd.read_csv(bad).assign(s4=1e9).to_csv(bad, index=False)
    task = turbofan(*OPEN)
    with pytest.raises(UsageError, match=f"^{re.escape(str(bad.parent))}, {part}: column 's4'"):
        simulate_fleet(Fleet.of(tmp_path / "data"), task, later=tmp_path / "test")


def test_columns_that_the_simulator_does_not_make_are_named() -> None:
    task = turbofan(*OPEN)
    sensors = {"pressure": next(iter(task.contract.sensors.values()))}
    strange = replace(task, contract=replace(task.contract, sensors=sensors, conditions=[]))
    with pytest.raises(UsageError, match="not pressure"):
        simulate_fleet(Fleet(2), strange)


def test_windows_are_kept_as_far_as_memory_goes(tmp_path: Path) -> None:
    kept = Kept(limit=100)
    for name, size in (("a", 60), ("b", 60), ("c", 40)):
        bench = kept.bench(tmp_path / name)
        bench.windows = virtual_windows(size)
        kept.settle(tmp_path / name)
        kept.settle(tmp_path / name)
    left = {path.name: bench.windows is not None for path, bench in kept.benches.items()}
    assert left == {"a": True, "b": False, "c": True}


def test_ledgers_stay_open_as_far_as_there_is_room(tmp_path: Path) -> None:
    kept = Kept(open=2)
    for name in ("a", "b", "c", "a"):
        bench = kept.bench(tmp_path / name)
        bench.ledger = bench.ledger or Ledger(tmp_path / name)
        kept.settle(tmp_path / name)
    held = {Path(one.path).name for one in psutil.Process().open_files()}
    assert held & {"a", "b", "c"} == {"a", "b"}
    assert kept.bench(tmp_path / "c").ledger.lineages() == []


def virtual_windows(size: int) -> Any:
    class Windows:
        x = np.zeros(size, np.uint8)

    return Windows()


def test_a_virtual_plants_ledger_is_a_real_one(tmp_path: Path) -> None:
    fleet = Fleet(1, machines=2, epsilon=50.0)
    task = turbofan(*PRIVATE)
    plant = virtual.virtual_plant(tmp_path, "plant-1", fleet_settings(fleet, task), data)
    Ledger(tmp_path / "plain.db").close()
    assert plant.ledger.read_bytes() == (tmp_path / "plain.db").read_bytes()
    assert plant.ledger.stat().st_mode & 0o777 == 0o600
    trainer: Trainer = VirtualTrainer(plant, Kept())
    start = models.parameters(models.build(task))
    first, second = (trainer.train("run-1", number, task, start) for number in (1, 2))
    assert 0 < first.receipt.epsilon < second.receipt.epsilon
    assert Ledger(plant.ledger).verify().entries == 4
    assert isinstance(plant, VirtualDirectory)


def data() -> Any:
    return simulate(0, 2, 0)
