"""The trainer as the agent sees it: one real process, and stand-ins for what a real one does seldom."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from interplant.client import trainer as module
from interplant.client.directory import PlantDirectory
from interplant.client.trainer import InlineTrainer, WarmTrainer
from interplant.core import blobs
from interplant.core.errors import InterplantError, Refusal
from interplant.core.tensors import WEIGHTS, in_record, of_record

from ..waiting import until
from .conftest import OPEN, START, TASK, edit

ECHO = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    {body}
    print(json.dumps({answer}), flush=True)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a few lines of Python take the place of the trainer's module."""

    def use(answer: str = "{}", body: str = "pass", code: str = "") -> None:
        command = [sys.executable, "-S", "-c", code or ECHO.format(answer=answer, body=body)]
        monkeypatch.setattr(module.processes, "python_module", lambda *_: command)

    return use


@pytest.fixture
def warm(bare: PlantDirectory) -> Iterator[WarmTrainer]:
    bare.trainer_log.touch()
    trainer = WarmTrainer(bare)
    yield trainer
    trainer.close()
    trainer._end()


def pid(trainer: WarmTrainer) -> int:
    assert trainer._child is not None
    return trainer._child.pid


def refusal_of(trainer: WarmTrainer) -> Refusal:
    with pytest.raises(Refusal) as caught:
        trainer.train("run", 1, TASK, START)
    return caught.value


# --- arrays in files ----------------------------------------------------------------------------------


def jobs_of(stand_in: Callable[..., None], said: Path) -> Callable[[], dict[str, Any]]:
    """Have a trainer that notes its job and then dies; return a look at the last one."""
    note = "json.dumps(job | {'there': os.path.exists(job['weights'])})"
    stand_in(body=f"open({str(said)!r}, 'w').write({note}); os._exit(1)")
    return lambda: dict(json.loads(said.read_text()))


def test_weights_that_were_fetched_are_not_written_again(
    stand_in: Callable[..., None], warm: WarmTrainer, tmp_path: Path
) -> None:
    job = jobs_of(stand_in, tmp_path / "said")
    fetched = tmp_path / "fetched"
    blobs.save(fetched, in_record(WEIGHTS, START))
    with pytest.raises(Refusal):
        warm.train("run", 1, TASK, of_record(WEIGHTS, blobs.load(fetched)))
    assert job()["weights"] == str(fetched)
    assert fetched.exists(), "it is the agent's, for another try"


def test_other_weights_lie_in_a_file_while_the_job_lasts(
    stand_in: Callable[..., None], warm: WarmTrainer, tmp_path: Path
) -> None:
    job = jobs_of(stand_in, tmp_path / "said")
    with pytest.raises(Refusal):
        warm.train("run", 1, TASK, START)
    assert job()["there"]
    assert not Path(job()["weights"]).exists()


# --- death -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_a_death_in_the_middle_of_a_job_is_told_at_once(
    stand_in: Callable[..., None], warm: WarmTrainer, body: str
) -> None:
    stand_in(body=body)
    begun = time.monotonic()
    assert refusal_of(warm).code == "trainer_died"
    assert time.monotonic() - begun < 100
    stand_in()
    warm.try_release("r-1")


def test_a_death_while_the_job_is_handed_over_is_told_too(
    stand_in: Callable[..., None], warm: WarmTrainer
) -> None:
    stand_in(code="import os, time; os.close(0); print('ready', flush=True); time.sleep(0.5)")
    warm.warm_up()
    assert warm._child is not None
    assert warm._child.stdout is not None
    assert warm._child.stdout.readline() == b"ready\n"
    assert refusal_of(warm).code == "trainer_died"
    stand_in()
    warm.try_release("r-1")


def test_a_trainer_that_died_while_it_was_idle_is_replaced(
    stand_in: Callable[..., None], warm: WarmTrainer
) -> None:
    stand_in()
    warm.try_release("r-1")
    dead = pid(warm)
    os.kill(dead, signal.SIGKILL)
    assert warm._child is not None
    until(lambda: warm._child is not None and warm._child.poll() is not None)
    warm.try_release("r-2")
    assert pid(warm) != dead


def test_closing_ends_the_job_that_is_under_way(stand_in: Callable[..., None], warm: WarmTrainer) -> None:
    stand_in(body="import time; time.sleep(600)")
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(refusal_of(warm).code))
    thread.start()
    until(lambda: (warm._plant.fetched / "weights.job").exists() and warm._child is not None)
    warm.close()
    thread.join(10)
    assert found == ["trainer_died"]


def test_arrays_do_not_stay_behind(stand_in: Callable[..., None], warm: WarmTrainer) -> None:
    stand_in("{'refusal': 'budget_spent', 'detail': 'more'}")
    refusal_of(warm)
    assert list(warm._plant.fetched.iterdir()) == []


# --- answers ---------------------------------------------------------------------------------------


def test_what_the_trainer_refuses_is_refused(stand_in: Callable[..., None], warm: WarmTrainer) -> None:
    stand_in("{'refusal': 'budget_spent', 'detail': 'epsilon 9'}")
    refusal = refusal_of(warm)
    assert (refusal.code, refusal.detail) == ("budget_spent", "epsilon 9")
    stand_in("{'refusal': 'of another version'}")
    warm._end()
    assert refusal_of(warm).code == "internal"


def test_a_failure_keeps_its_sentence_for_the_plant(stand_in: Callable[..., None], warm: WarmTrainer) -> None:
    stand_in("{'error': 'the pump house is on fire'}")
    with pytest.raises(InterplantError, match="pump house"):
        warm.train("run", 1, TASK, START)


# --- warm and idle ---------------------------------------------------------------------------------


def test_one_process_serves_all_jobs_until_it_is_idle(
    stand_in: Callable[..., None], warm: WarmTrainer
) -> None:
    stand_in()
    warm.warm_up()
    first = pid(warm)
    warm.warm_up()
    warm.try_release("r-1")
    warm.try_release("r-2")
    assert pid(warm) == first
    warm.release_if_idle(60.0)
    assert psutil.pid_exists(first)
    time.sleep(0.02)
    warm.release_if_idle(0.01)
    assert not psutil.pid_exists(first)
    warm.try_release("r-3")
    assert pid(warm) != first


def test_a_trainer_at_work_is_not_idle(stand_in: Callable[..., None], warm: WarmTrainer) -> None:
    stand_in(body="import time; time.sleep(0.5)")
    thread = threading.Thread(target=lambda: warm.try_release("r-1"))
    thread.start()
    until(lambda: warm._child is not None)
    begun = time.monotonic()
    while thread.is_alive():
        warm.release_if_idle(0.25)
        assert time.monotonic() - begun < 100
    thread.join()
    assert warm._child is not None


def test_a_trainer_that_was_just_started_is_not_idle(
    stand_in: Callable[..., None], warm: WarmTrainer
) -> None:
    """After a night without work a plant connects again: what it warms up is there for a while."""
    stand_in()
    warm._used -= 3600.0
    warm.warm_up()
    warm.release_if_idle(60.0)
    assert warm._child is not None


# --- the real ones ---------------------------------------------------------------------------------


def test_training_inline_uses_the_plants_threads(
    ready: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    edit(ready, lambda plant: setattr(plant.trainer, "threads", 3))
    trained = InlineTrainer(ready).train("run", 1, OPEN, START)
    assert trained.update.keys() == START.keys()
    assert told == [3]


def test_the_agents_side_loads_no_torch(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, interplant.client.trainer; sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
