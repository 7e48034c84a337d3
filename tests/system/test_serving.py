"""A plant's model beside the line: trained, released, served over HTTP by `plant serve`, and killed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.client.serving_status import ServingStatus, serving_status
from interplant.core import export
from interplant.core.release import ONNX, TASK, parse_task
from interplant.core.schema import Plant
from interplant.core.targets import told
from interplant.data.contract import columns
from interplant.data.cuts import windows_of
from interplant.data.mapped import Cut
from interplant.data.simulator import simulate
from interplant.data.windows import last_windows
from interplant.lab.federation import LocalFederation, local_federation

from .conftest import add_plant, child_of, processes_of, turbofan, willing

pytestmark = pytest.mark.system


def serving(plant: Plant) -> None:
    willing(plant)
    plant.serving.listen = "0"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """One plant that serves, from before its first release."""
    path = tmp_path_factory.mktemp("federation")
    with local_federation(path) as made:
        made.create("test", lambda settings: setattr(settings.rounds, "quorum", 1))
        made.start_coordinator()
        add_plant(made, "north", serving)
        made.start_plant("north")
        made.until_online(["north"])
        yield made
    assert processes_of(path) == []


def until_serving(federation: LocalFederation) -> ServingStatus:
    plant = federation.plant("north")
    federation.until(lambda: bool(serving_status(plant).address), 60, "the plant to serve", "north")
    return serving_status(plant)


def ask(address: str, path: str, content: Any) -> Any:
    answer = httpx.post(f"{address}{path}", json=content, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def command(plant: PlantDirectory, *words: str) -> Any:
    """What a command prints of the plant."""
    done = subprocess.run(
        [sys.executable, "-m", "interplant.cli.main", *words, "--dir", str(plant.path), "--json"],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_release_is_served_from_readings_to_label(federation: LocalFederation) -> None:
    plant = federation.plant("north")
    address = until_serving(federation).address
    ready = httpx.get(f"{address}/v2/health/ready")
    assert (ready.status_code, "no release serves here yet" in ready.json()["error"]) == (503, True)

    words = ["rounds=3", "training.steps=60", "privacy.mechanism=none"]
    run = federation.until_over(federation.start_run(turbofan(*words)).id)
    assert run.state == "finished"
    federation.until(lambda: bool(serving_status(plant).release), 60, "the release to serve", "north")
    release = serving_status(plant).release
    assert command(plant, "plant", "status")["serving"] == {
        "state": "serving", "address": address, "model": "turbofan", "release": release, "trouble": ""
    }  # fmt: skip

    task = parse_task((plant.releases / release / TASK).read_bytes())
    frame = simulate(1, 6, seed=3).holdout
    windows = last_windows(frame, task)
    expected = told(task.target, export.predict_onnx(plant.releases / release / ONNX, windows.x[:]))
    # The same machines' readings are in the plant's own store, without a label.
    frame.drop(columns="rul").to_csv(plant.path / "export.csv", index=False)
    command(plant, "data", "ingest", "--from", str(plant.path / "export.csv"), "--task", "turbofan")
    found, ids = [], []
    for machine in windows.machine:
        readings = frame[frame["machine"] == machine].sort_values("cycle").tail(task.window.length)
        values = readings[columns(task.contract)].to_numpy()
        tensor = {"name": "readings", "datatype": "FP64", "shape": [1, *values.shape]}
        machine_input = {"name": "machine", "datatype": "INT64", "shape": [1], "data": [int(machine)]}
        last = [float(readings["cycle"].iloc[-1])]
        time_input = {"name": "time", "datatype": "FP64", "shape": [1], "data": last}
        inputs = [{**tensor, "data": values.ravel().tolist()}, machine_input, time_input]
        answer = ask(address, "/v2/models/turbofan/infer", {"inputs": inputs})
        assert answer["parameters"] == {"release": release, "drifting": False}
        found += answer["outputs"][0]["data"]
        ids += answer["outputs"][1]["data"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    said = ask(address, "/feedback", {"prediction_id": ids[0], "label": 42})
    assert said == {"prediction_id": ids[0], "label": 42, "store": True}
    with Predictions.open(plant) as log:
        (labelled,) = log.labelled(release)
        assert (labelled.id, labelled.label, labelled.machine) == (ids[0], 42, str(windows.machine[0]))

    made = command(plant, "data", "snapshot", "--task", "turbofan")
    assert (made["corrections"], made["rows"]) == (1, len(frame))
    snapshot = plant.repository().open(made["digest"])
    cuts = [windows_of(snapshot, task, plant.windows, Cut(held=held)) for held in (False, True)]
    of_machine = {
        machine: [float(y) for cut in cuts for y in cut.y[np.asarray(cut.machine) == machine]]
        for machine in windows.machine
    }
    first, *others = of_machine.values()
    assert first[-3:] == [44, 43, 42], "it fails 42 cycles after its last reading"
    assert all(own[-3:] == [2, 1, 0] for own in others), "nobody said of the others that they go on"


def test_a_killed_serving_process_comes_back_and_training_does_not_notice(
    federation: LocalFederation,
) -> None:
    plant = federation.plant("north")
    before = until_serving(federation)
    plant_serve = federation.children["north"]
    agent = child_of(plant_serve, "interplant.client.agent").pid
    child_of(plant_serve, "interplant.client.serving").kill()
    federation.until(
        lambda: serving_status(plant).address not in ("", before.address), 60, "serving to come back", "north"
    )
    assert serving_status(plant).release == before.release
    assert httpx.get(f"{serving_status(plant).address}/v2/health/ready").status_code == 200
    assert child_of(plant_serve, "interplant.client.agent").pid == agent


def test_an_address_of_another_machine_ends_the_plant_with_one_sentence(federation: LocalFederation) -> None:
    federation.stop("north")
    federation.edit("north", lambda settings: setattr(settings.serving, "listen", "192.0.2.1:80"))
    words = ["plant", "serve", "--dir", str(federation.plant("north").path)]
    command = [sys.executable, "-m", "interplant.cli.main", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "serving.listen: 192.0.2.1:80 cannot be listened on" in done.stderr.splitlines()[-1]
