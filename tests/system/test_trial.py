"""A release's trial at a real plant while requests come in, and kills in the middle of swaps."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from interplant.client import champion as pointers
from interplant.client import deployment, history
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.client.serving_status import serving_status
from interplant.core.release import TASK, parse_task
from interplant.core.schema import Plant
from interplant.lab.federation import LocalFederation, local_federation

from .conftest import add_plant, child_of, processes_of, turbofan, willing

pytestmark = pytest.mark.system

QUICK = ["rounds=2", "training.steps=60", "privacy.mechanism=none"]
KILLED = ("interplant.client.serving", "interplant.client.agent", "interplant.client.trial")


def careful(plant: Plant) -> None:
    """Each release but the first goes on trial; whatever the gate may say of how good it is."""
    willing(plant)
    plant.serving.listen = "0"
    release = plant.policy.release
    release.margin, release.rollback = 10.0, "obey"
    release.trial.predictions, release.trial.canary = 60, 0.5
    release.trial.disagreement, release.trial.milliseconds = 1.0, 30_000.0  # a slow machine is no slow model


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    path = tmp_path_factory.mktemp("federation")
    with local_federation(path) as made:
        made.create("test", lambda settings: setattr(settings.rounds, "quorum", 1))
        made.start_coordinator()
        add_plant(made, "north", careful)
        made.start_plant("north")
        made.until_online(["north"])
        yield made
    assert processes_of(path) == []


class Asking:
    """A client that asks without a pause, each time of another machine; what it was answered by whom."""

    def __init__(self, plant: PlantDirectory, task: str, shape: tuple[int, int]) -> None:
        self.plant, self.task = plant, task
        x = np.zeros((1, *shape))
        self.windows = {
            "name": "windows",
            "datatype": "FP32",
            "shape": list(x.shape),
            "data": x.ravel().tolist(),
        }
        self.releases: list[str] = []
        self.refused: list[str] = []
        self.away = 0
        self.stopping = threading.Event()

    def work(self) -> None:
        number = 0
        with httpx.Client(timeout=60) as client:
            while not self.stopping.is_set():
                number += 1
                machine = {"name": "machine", "datatype": "INT64", "shape": [1], "data": [number % 50]}
                address = serving_status(self.plant).address
                try:
                    answer = client.post(
                        f"{address}/v2/models/{self.task}/infer", json={"inputs": [self.windows, machine]}
                    )
                except (httpx.TransportError, httpx.UnsupportedProtocol):
                    self.away += 1
                    time.sleep(0.02)
                    continue
                if answer.status_code != 200:
                    self.refused.append(answer.text)
                else:
                    self.releases.append(answer.json()["parameters"]["release"])


@contextmanager
def asking(plant: PlantDirectory) -> Iterator[Asking]:
    champion = pointers.champion(plant)
    assert champion is not None
    task = parse_task((plant.releases / champion.release / TASK).read_bytes())
    made = Asking(plant, task.name, task.shape)
    thread = threading.Thread(target=made.work)
    thread.start()
    try:
        yield made
    finally:
        made.stopping.set()
        thread.join(120)
    assert not thread.is_alive()


def state(plant: PlantDirectory, release: str) -> str:
    found = dict(deployment.standing(plant)).get(release)
    return found.state if found else ""


def learned(federation: LocalFederation) -> str:
    """A run's release, once the plant has it."""
    run = federation.until_over(federation.start_run(turbofan(*QUICK)).id)
    (release,) = [one.id for one in federation.registry.releases() if one.run == run.id]
    plant = federation.plant("north")
    federation.until(lambda: state(plant, release) != "", 120, f"{release} to be tried", "north")
    return release


def command(*words: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "interplant.cli.main", *words], capture_output=True, text=True, check=False
    )


def test_a_release_goes_through_its_trial_while_requests_come_in_and_back(
    federation: LocalFederation,
) -> None:
    plant = federation.plant("north")
    first = learned(federation)
    assert state(plant, first) == "active", dict(deployment.standing(plant))[first].sentence
    federation.until(lambda: serving_status(plant).release == first, 60, "it to serve", "north")
    with asking(plant) as asked:
        second = learned(federation)
        federation.until(lambda: state(plant, second) == "active", 180, "the trial to end", "north")
        federation.until(lambda: serving_status(plant).release == second, 60, "it to serve", "north")
        before = len(asked.releases)
        done = command("release", "rollback", "--plant", str(plant.path))
        assert done.returncode == 0, done.stderr
        federation.until(lambda: first in asked.releases[before:], 60, "the one before to answer", "north")
        federation.until(lambda: serving_status(plant).release == first, 60, "it to serve", "north")
        since = len(asked.releases) + 1
        federation.until(lambda: len(asked.releases) > since + 20, 60, "answers", "north")
    assert asked.refused == []
    assert asked.away == 0
    assert set(asked.releases) == {first, second}
    assert set(asked.releases[since:]) == {first}, "nothing of the other is left"
    steps = [(step.release, step.state) for step in history.steps(plant)]
    assert [one for one in steps if one[0] == second] == [
        (second, "shadow"), (second, "canary"), (second, "active"), (second, "rolled_back")
    ]  # fmt: skip
    with Predictions.open(plant) as log:
        both = [row for row in log.since(0, 100_000) if row.challenger_prediction is not None]
    assert len(both) >= 100
    assert {(row.release, row.challenger) for row in both} == {(first, second), (second, first)}

    def told() -> bool:
        return any(
            (one.release, one.state) == (second, "rolled_back") for one in federation.registry.deployments()
        )

    federation.until(told, 60, "the coordinator to hear of it")


def test_kills_in_the_middle_of_swaps_leave_one_good_model_that_serves(federation: LocalFederation) -> None:
    plant = federation.plant("north")
    champion = pointers.champion(plant)
    assert champion is not None
    both = [name for name, one in deployment.standing(plant) if one.state in ("active", "rolled_back")]
    assert len(both) == 2
    with asking(plant) as asked:
        for turn in range(9):
            now = pointers.champion(plant)
            assert now is not None
            (other,) = [name for name in both if name != now.release]
            words = ("release", "rollback", other, "--plant", str(plant.path))
            swap = threading.Thread(target=command, args=words)
            swap.start()
            moved = plant.champion.stat().st_mtime_ns
            while turn % 3 and swap.is_alive() and plant.champion.stat().st_mtime_ns == moved:
                time.sleep(0.0005)  # in two of three turns the kill comes just when the pointer has moved
            with suppress(AssertionError, psutil.NoSuchProcess):  # it may not be back since the turn before
                child_of(federation.children["north"], KILLED[turn // 3]).kill()
            swap.join(120)
            found = pointers.champion(plant)
            assert found is not None
            assert found.release in both
            active = [name for name, one in deployment.standing(plant) if one.state == "active"]
            assert active == [found.release]
        last = pointers.champion(plant)
        assert last is not None
        count = len(asked.releases)
        federation.until(
            lambda: len(asked.releases) > count + 20 and set(asked.releases[-10:]) == {last.release},
            120,
            "the last champion to answer",
            "north",
        )
    assert asked.refused == []
    assert set(asked.releases) <= set(both)
