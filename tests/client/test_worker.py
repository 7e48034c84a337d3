"""The real trainer process, with tiny models that do what users' models do."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.participation import take_part
from interplant.client.trainer import WarmTrainer
from interplant.core import certificates, config
from interplant.core.errors import Refusal
from interplant.core.flower import refusal
from interplant.core.schema import Task
from interplant.core.wire import to_parcel
from interplant.data.repository import Repository
from interplant.privacy.ledger import Ledger

from ..waiting import until
from .conftest import MODELS, OPEN, START, TASK, dataset, edit, model, request

NICE = 7
THREADS = 2

PARENT = """
import sys, time
from pathlib import Path
from interplant.client.directory import PlantDirectory
from interplant.client.trainer import WarmTrainer
WarmTrainer(PlantDirectory(Path(sys.argv[1]))).warm_up()
time.sleep(600)
"""

BUSY = """
import os, time
from pathlib import Path
Path(__file__).with_name("said").write_text(str(os.getpid()))
time.sleep(600)
"""
"""In place of torch: a trainer that is at work for ten minutes, with a start of no seconds."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a user's models, on the path of processes that start from here."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "tiny_models.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield folder


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> PlantDirectory:
    """One plant for all tests here: a trainer takes seconds to start."""
    from interplant.core.schema import Connection, Plant

    directory = PlantDirectory(tmp_path_factory.mktemp("worker") / "north")
    directory.keys.mkdir(parents=True)
    directory.snapshot_key.write_bytes(b"k" * 32)
    certificates.write_key(directory.plant_key, certificates.key_pem(certificates.make_key()))
    settings = Plant(name="north", federation="test", connection=Connection("127.0.0.1:1"))
    settings.policy.tasks, settings.policy.privacy.allow_none = ["wear"], True
    settings.policy.models = [f"tiny_models.{name}" for name in ("Line", "Loud", "Failing", "Slow")]
    settings.policy.privacy.epsilon, settings.data.declared_windows = 50.0, 100
    settings.trainer.nice, settings.trainer.threads = NICE, THREADS
    directory.config.write_text(config.to_yaml(settings))
    Repository.create(directory.data, directory.remote).snapshot(dataset())
    return directory


@pytest.fixture(scope="module")
def trainer(plant: PlantDirectory, installed: Path) -> Iterator[WarmTrainer]:
    made = WarmTrainer(plant)
    yield made
    made.close()
    made._end()


def pid(trainer: WarmTrainer) -> int:
    assert trainer._child is not None
    return trainer._child.pid


def ask(plant: PlantDirectory, trainer: WarmTrainer, task: Task) -> Any:
    return take_part(plant, trainer, request(task, START))


def test_a_private_round_comes_back_with_its_charge(plant: PlantDirectory, trainer: WarmTrainer) -> None:
    trained = trainer.train("run", 1, TASK, START)
    assert trained.update.keys() == START.keys()
    assert trained.receipt.epsilon == Ledger(plant.ledger).spent(None, 1e-5).epsilon > 0


def test_what_a_library_prints_does_not_break_the_protocol(
    plant: PlantDirectory, trainer: WarmTrainer, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    trained = trainer.train("run", 1, model("Loud", OPEN, said=str(said)), START)
    assert trained.receipt.plant == "north"
    log = plant.trainer_log.read_text()
    for line in ('{"receipt": "printed"}', "written to the descriptor", "from a child"):
        assert line in log
    nice, torch_threads, omp_threads, process = said.read_text().split()
    assert int(nice) == os.nice(0) + NICE
    assert int(torch_threads) == int(omp_threads) == THREADS
    assert int(process) == pid(trainer)
    assert psutil.Process(pid(trainer)).nice() == os.nice(0) + NICE


@pytest.mark.parametrize("how", ["odd", "os", "memory", "key"])
def test_whatever_a_users_model_raises_is_a_code_without_its_text(
    plant: PlantDirectory, trainer: WarmTrainer, how: str
) -> None:
    before = pid(trainer)
    reply = ask(plant, trainer, model("Failing", OPEN, how=how))
    assert refusal(reply) == "internal"
    assert b"42.7" not in to_parcel(reply, None).SerializeToString()
    assert "42.7" in plant.trainer_log.read_text(), "the plant's own log has it"
    assert pid(trainer) == before
    assert not ask(plant, trainer, OPEN).has_error()


def test_what_the_round_refuses_comes_through(plant: PlantDirectory, trainer: WarmTrainer) -> None:
    edit(plant, lambda settings: setattr(settings.policy.privacy, "epsilon", 1e-4))
    with pytest.raises(Refusal) as caught:
        trainer.train("run", 2, TASK, START)
    edit(plant, lambda settings: setattr(settings.policy.privacy, "epsilon", 50.0))
    assert caught.value.code == "budget_spent"
    assert "policy.privacy.epsilon" in caught.value.detail


def test_ctrl_c_at_the_terminal_does_not_end_it(plant: PlantDirectory, trainer: WarmTrainer) -> None:
    os.kill(pid(trainer), signal.SIGINT)
    before = pid(trainer)
    assert not ask(plant, trainer, OPEN).has_error()
    assert pid(trainer) == before


def test_its_death_in_a_job_is_told_at_once_and_the_next_job_works(
    plant: PlantDirectory, trainer: WarmTrainer, tmp_path: Path
) -> None:
    said, replies = tmp_path / "said", []
    slow = model("Slow", OPEN, said=str(said))
    thread = threading.Thread(target=lambda: replies.append(ask(plant, trainer, slow)))
    thread.start()
    until(said.exists)
    killed = time.monotonic()
    os.kill(pid(trainer), signal.SIGKILL)
    thread.join(100)
    assert time.monotonic() - killed < 100
    assert [refusal(reply) for reply in replies] == ["trainer_died"]
    assert not ask(plant, trainer, OPEN).has_error()

    idle = pid(trainer)
    trainer.release_if_idle(0.0)
    assert not psutil.pid_exists(idle)


def test_it_does_not_outlive_a_killed_parent(
    plant: PlantDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of something, where nobody reads standard input."""
    said = tmp_path / "said"
    (tmp_path / "torch.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(plant.path)])
    try:
        until(lambda: said.exists() and said.read_text())
        worker = psutil.Process(int(said.read_text()))
        assert worker.is_running()
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs([worker], 5)
        for one in alive:
            one.kill()
        assert alive == []
    finally:
        parent.kill()
        parent.wait()
