"""The loop that closes by itself, with real processes: a file arrives, and nobody types a command."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from interplant.client import proposals
from interplant.client.champion import champion
from interplant.client.directory import PlantDirectory
from interplant.client.serving_status import serving_status
from interplant.client.standing import is_drifting
from interplant.core import config, signing
from interplant.core.release import read_release
from interplant.core.schema import Automation, Federation, Plant
from interplant.data import events
from interplant.data.contract import columns
from interplant.data.simulator import simulate
from interplant.lab import stocked
from interplant.lab.federation import LocalFederation, local_federation
from interplant.lab.stocked import Stock
from interplant.server.automation import approve
from interplant.server.standings import standings

from .conftest import PLANTS, processes_of, turbofan

pytestmark = pytest.mark.system

MACHINES = 60
TASK = turbofan("rounds=2", "training.steps=60", "privacy.mechanism=none")


def rules(settings: Federation) -> None:
    settings.rounds.quorum = 2
    words = ["rounds=2", "training.steps=60", "privacy.mechanism=none"]
    settings.automation = [Automation(task="turbofan", overrides=words, action="start", apart_hours=0.0)]


def watchful(plant: Plant) -> None:
    plant.automation.snapshots = True
    plant.automation.rest_seconds = 0.5
    plant.automation.propose = ["new_data"]
    plant.automation.tell = "declared"
    plant.serving.listen = "0"
    plant.policy.release.margin = 10.0  # a few steps of training: the test is of the loop, not of the model
    plant.connection.backoff_max_seconds = 1.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two plants with folders as sources, serving, and a coordinator that starts runs by itself."""
    path = tmp_path_factory.mktemp("loop")
    with local_federation(path) as made:
        made.create("loop", rules)
        made.start_coordinator()
        for number, name in enumerate(PLANTS):
            stocked.join(made, Stock(name, simulate(number, MACHINES, 0).train, True), TASK, 1000.0, watchful)
            made.start_plant(name)
        made.until_online(PLANTS)
        yield made
    assert processes_of(path) == []


def arrive(federation: LocalFederation, name: str, first: int) -> None:
    readings = stocked.machines(simulate(0, 1, first).train, TASK, first)
    stocked.arrive(federation.plant(name), readings, f"machine-{first}.csv")


def told_wrong(plant: PlantDirectory) -> None:
    """Ask a plant about machines that run to failure, and tell it that each prediction was far off."""
    address = serving_status(plant).address
    frame = stocked.machines(simulate(0, 4, 7).train, TASK, 900)
    names, length = columns(TASK.contract), TASK.window.length
    with httpx.Client(base_url=address, timeout=60.0) as client:
        for machine, own in frame.groupby(TASK.contract.machine):
            every = np.lib.stride_tricks.sliding_window_view(own[names].to_numpy(np.float64), length, axis=0)
            windows = every.transpose(0, 2, 1)
            entries = [
                {
                    "name": "readings",
                    "datatype": "FP64",
                    "shape": list(windows.shape),
                    "data": windows.ravel().tolist(),
                },
                {
                    "name": "machine",
                    "datatype": "BYTES",
                    "shape": [len(windows)],
                    "data": [str(machine)] * len(windows),
                },
            ]
            answer = client.post("/v2/models/turbofan/infer", json={"inputs": entries})
            assert answer.status_code == 200, answer.text
            predicted, ids = (one["data"] for one in answer.json()["outputs"])
            for value, prediction in zip(predicted, ids, strict=True):
                label = 0.0 if value > TASK.target.cap / 2 else TASK.target.cap
                said = client.post("/feedback", json={"prediction_id": prediction, "label": label})
                assert said.status_code == 200, said.text


def notes_of(plant: PlantDirectory, what: str) -> list[dict[str, Any]]:
    return [one for one in proposals.noted(plant) if one["what"] == what]


def until_runs(federation: LocalFederation, count: int) -> None:
    federation.until(
        lambda: len([one for one in federation.registry.runs() if one.state == "finished"]) == count,
        120,
        f"{count} runs to finish",
    )


def test_a_new_file_ends_in_a_release_at_every_plant(federation: LocalFederation) -> None:
    plants = [federation.plant(name) for name in PLANTS]
    arrive(federation, "north", 101)
    until_runs(federation, 1)
    federation.until(lambda: all(map(champion, plants)), 60, "a first release to serve")
    (first,) = stocked.serving(plants)

    arrive(federation, "north", 102)
    until_runs(federation, 2)
    run = federation.registry.runs()[0]
    release = next(one.id for one in federation.registry.releases() if one.run == run.id)
    federation.until(lambda: stocked.serving(plants) == {release}, 60, "the next release to serve")

    assert run.config["start_from"] == first
    assert run.config["because"] == "proposed by north (new_data)"
    folder = federation.coordinator.releases / release
    opened = read_release(folder, signing.read_public(federation.coordinator.release_public_key))
    assert opened.lineage.parent == first
    newest = federation.plant("north").repository().log()[0]
    assert newest.machines == MACHINES + 2
    audit = [json.loads(line) for line in federation.plant("north").audit.read_text().splitlines()]
    said = [one for one in audit if one["what"] == "proposal"]
    assert [set(one) for one in said] == [{"time", "what", "task", "reason"}] * 2
    (standing,) = standings(federation.coordinator, federation.registry)
    assert standing.state == "started"


def test_a_person_can_stop_it_and_a_plant_can_keep_it_to_itself(federation: LocalFederation) -> None:
    settings = federation.coordinator.load()
    settings.automation[0].action = "propose"
    federation.coordinator.config.write_text(config.to_yaml(settings))
    federation.edit("south", lambda plant: setattr(plant.automation, "tell", "nothing"))
    runs = len(federation.registry.runs())

    arrive(federation, "south", 201)
    south = federation.plant("south")
    federation.until(lambda: len(south.repository().log()) == 2, 60, "a snapshot")
    federation.until(lambda: notes_of(south, "proposal"), 60, "the plant's own note")
    assert "depends on data" in notes_of(south, "proposal")[-1]["why"]

    arrive(federation, "north", 103)
    federation.until(
        lambda: standings(federation.coordinator, federation.registry)[0].state == "proposed",
        60,
        "a proposed run",
    )
    (standing,) = standings(federation.coordinator, federation.registry)
    assert standing.proposals == {"north": ["new_data"]}, "south has said nothing"
    assert len(federation.registry.runs()) == runs
    approve(federation.coordinator, "turbofan")
    until_runs(federation, runs + 1)


def test_errors_that_rise_reach_the_coordinator_as_a_proposal(federation: LocalFederation) -> None:
    """No reading is new: the plant is told that its model is wrong, and looks by itself."""
    plants = [federation.plant(name) for name in PLANTS]
    run = federation.registry.runs()[0]
    release = next(one.id for one in federation.registry.releases() if one.run == run.id)
    federation.until(lambda: stocked.serving(plants) == {release}, 60, "the last release to serve")

    def watch(plant: Plant) -> None:
        plant.data.drift.window = 50
        plant.automation.watch = True
        plant.automation.propose = ["error"]

    federation.edit("north", watch)
    north = federation.plant("north")
    federation.until(lambda: serving_status(north).release == release, 60, "the release to answer")
    told_wrong(north)
    federation.until(
        lambda: standings(federation.coordinator, federation.registry)[0].proposals == {"north": ["error"]},
        120,
        "the proposal",
    )
    (event,) = [one for one in events.read(north.drift_events) if one.watched == events.ERRORS]
    assert (event.kind, event.release) == ("error", release)
    assert is_drifting(north, release)
    audit = [json.loads(line) for line in north.audit.read_text().splitlines()]
    said = [one for one in audit if one["what"] == "proposal"][-1]
    assert {key: said[key] for key in said if key != "time"} == {
        "what": "proposal",
        "task": "turbofan",
        "reason": "error",
    }
