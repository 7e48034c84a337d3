"""A run's folder is enough to go on, whenever its writer is killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from interplant.core import config
from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.schema import Rounds, Task
from interplant.server.run_folder import Checkpoint, Order, RunFolder, make_order

TASK = Task(name="wear", rounds=3, contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}))
PLANTS = {"north": {"plant": "north", "epsilon": 0.5, "simulated": True, "rounds": 2}}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "r-1")


def test_an_order_comes_back(run):
    rules = Rounds(quorum=3, retry_seconds=0.5)
    order = make_order("r-1", TASK, rules, "grpc", release=False, start_from="/x")
    run.create(order)
    again = RunFolder(run.path)
    assert again.order() == order
    assert again.task() == TASK
    assert again.rounds() == rules
    assert again.restore() is None
    assert again.records() == []


def test_an_order_is_written_once(run):
    run.create(make_order("r-1", TASK, Rounds(), "grpc", True))
    with pytest.raises(InterplantError, match="there is a run here already"):
        run.create(make_order("r-1", Task(name="other"), Rounds(), "grpc", True))
    assert run.task().name == "wear"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"run": "r", "nonsense": 1}'])
def test_a_damaged_order_is_told_in_one_sentence(run, text):
    run.path.mkdir(parents=True)
    if text is not None:
        (run.path / "order.json").write_text(text)
    with pytest.raises(InterplantError, match=r"expected a run's order\.json"):
        run.order()


def test_a_checkpoint_comes_back_bit_for_bit(run):
    weights = {
        "conv.weight": np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32),
        "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "scale": np.array(-0.0, np.float32),
        "empty": np.zeros((0, 3), np.float16),
        "count": np.array([2**40], np.int64),
    }
    run.save(Checkpoint(7, weights, PLANTS))
    found = RunFolder(run.path).restore()
    assert (found.round, found.plants) == (7, PLANTS)
    assert found.weights.keys() == weights.keys()
    for name, array in weights.items():
        assert (found.weights[name].shape, found.weights[name].dtype) == (array.shape, array.dtype)
        assert found.weights[name].tobytes() == array.tobytes()


def test_the_newer_checkpoint_replaces_the_older(run):
    for number in (1, 2):
        run.save(Checkpoint(number, {"w": np.full(3, number, np.float32)}))
    assert run.restore().round == 2
    assert [path.name for path in run.path.iterdir()] == ["checkpoint.safetensors"]


def test_a_full_disk_leaves_the_old_checkpoint(run, monkeypatch):
    run.save(Checkpoint(1, {"w": np.ones(3, np.float32)}))
    before = run.weights.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InterplantError, match="the disk is full"):
        run.save(Checkpoint(2, {"w": np.zeros(3, np.float32)}))
    assert run.weights.read_bytes() == before
    assert run.restore().round == 1


KILLED = """
import os, sys, time
from pathlib import Path
import numpy as np
from interplant.server.run_folder import Checkpoint, RunFolder
run, number = RunFolder(Path(sys.argv[1])), 1
print(flush=True)
while True:
    number += 1
    run.save(Checkpoint(number, {"w": np.full(200_000, number, np.float32)}, {"north": {"rounds": number}}))
"""


def test_a_killed_write_leaves_a_whole_checkpoint(run):
    run.save(Checkpoint(1, {"w": np.full(200_000, 1, np.float32)}, {"north": {"rounds": 1}}))
    for pause in (0.02, 0.05, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(run.path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait(20)
        writer.stdout.close()
        found = run.restore()
        assert (found.weights["w"] == found.round).all()
        assert found.plants["north"]["rounds"] == found.round


@pytest.mark.parametrize("damage", [b"", b"nonsense", bytes(100)])
def test_a_damaged_checkpoint_is_told_in_one_sentence(run, damage):
    run.save(Checkpoint(1, {"w": np.ones(3, np.float32)}))
    run.weights.write_bytes(damage)
    with pytest.raises(InterplantError, match="the checkpoint cannot be read") as failed:
        run.restore()
    assert "\n" not in str(failed.value)


def test_a_file_of_weights_alone_is_no_checkpoint(run):
    from safetensors.numpy import save_file

    run.path.mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, run.weights)
    with pytest.raises(InterplantError, match="the checkpoint cannot be read"):
        run.restore()


def test_records_come_back_in_order(run):
    run.create(make_order("r-1", TASK, Rounds(), "grpc", True))
    for number in (1, 2):
        run.append({"round": number, "participants": ["north"]})
    assert RunFolder(run.path).records() == [
        {"round": 1, "participants": ["north"]},
        {"round": 2, "participants": ["north"]},
    ]


def test_a_line_that_a_kill_cut_off_spoils_no_other(run):
    run.create(make_order("r-1", TASK, Rounds(), "grpc", True))
    run.append({"round": 1})
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "partici')
    assert run.records() == [{"round": 1}]
    run.append({"round": 2})
    run.append({"round": 3})
    assert [record["round"] for record in run.records()] == [1, 2, 3]


def test_an_order_is_plain_json(run):
    order = make_order("r-1", TASK, Rounds(), "simulate", release=False)
    run.create(order)
    words = json.loads((run.path / "order.json").read_text())
    assert words["task"] == config.dump(TASK)
    assert Order(**words) == order
    assert 0 < order.run_id < 2**63
