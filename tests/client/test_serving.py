"""The process that serves predictions, asked over HTTP: what it answers, what it refuses, what it follows."""

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from interplant.client import champion, deployment, serving, serving_models, standing, verdicts
from interplant.client.directory import PlantDirectory
from interplant.client.predictions import Predictions
from interplant.client.protocol import ProtocolError
from interplant.client.serving_app import Rate
from interplant.client.serving_http import CONNECTIONS
from interplant.client.serving_status import ServingStatus, serving_status
from interplant.core import config, export
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Plant

from ..waiting import until
from .conftest import edit
from .federation import Federation
from .served import COLD, Asking, plant_with, readings
from .served import serving as served

WEAR = "/v2/models/wear"


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """One process for the tests that leave it as it is; at the end it still answers."""
    with pytest.MonkeyPatch.context() as patch:
        federation = plant_with(tmp_path_factory.mktemp("served"), patch, body_megabytes=1, queue=200)
        with served(federation.plant) as asking:
            yield asking
            assert asking.predict() == [pytest.approx(12.0)]
            assert asking.release == "r-1"


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return plant_with(tmp_path, monkeypatch)


def in_log(plant: PlantDirectory, prediction: str) -> Any:
    """The row of a prediction, once it is written."""
    with Predictions.open(plant) as log:
        until(lambda: log.find(prediction) is not None)
        return log.find(prediction)


# --- what is answered ------------------------------------------------------------------------------


def test_health_and_metadata(asking: Asking) -> None:
    assert asking.get("/v2/health/live") == {"live": True}
    assert asking.get("/v2/health/ready") == {"ready": True}
    about = asking.get("/v2")
    assert (about["name"], about["extensions"]) == ("interplant", ["binary_tensor_data"])
    assert asking.get(f"{WEAR}/ready") == {"name": "wear", "ready": True}
    assert asking.get(f"{WEAR}/versions/r-1/ready") == {"name": "wear", "ready": True}
    model = asking.get(WEAR)
    assert model == asking.get(f"{WEAR}/versions/r-1")
    assert (model["versions"], model["parameters"]["release"]) == (["r-1"], "r-1")
    assert model["inputs"][0]["parameters"]["columns"] == ["load", "heat"]


def test_readings_are_predicted_in_the_labels_unit(asking: Asking) -> None:
    answer = asking.infer(readings([COLD, [[row[0] / 2, row[1]] for row in COLD]]), id="7")
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("wear", "r-1", "7")
    assert answer["parameters"] == {"release": "r-1", "drifting": False}
    prediction, ids = answer["outputs"]
    assert prediction["data"] == [pytest.approx(12.0), pytest.approx(-4.0)]
    assert len(set(ids["data"])) == 2


def test_readings_and_windows_say_the_same_as_the_file_itself(asking: Asking) -> None:
    x = np.random.default_rng(0).uniform(-2, 2, (100, 2, 4)).astype(np.float32)
    entry = {"name": "windows", "datatype": "FP32", "shape": [100, 2, 4], "data": x.ravel().tolist()}
    found = asking.infer(entry)["outputs"][0]["data"]
    direct = export.predict_onnx(asking.plant.releases / "r-1" / "model.onnx", x)
    np.testing.assert_allclose(found, 20.0 * direct, rtol=1e-6)
    raw = x.transpose(0, 2, 1) * [5.0, 100.0] + [5.0, 300.0]
    np.testing.assert_allclose(asking.predict(raw.tolist()), found, atol=1e-4)


def test_a_version_is_asked_by_the_releases_name(asking: Asking) -> None:
    answer = asking.post(f"{WEAR}/versions/r-1/infer", {"inputs": [readings()]})
    assert answer["outputs"][0]["data"] == [pytest.approx(12.0)]


def test_tensors_travel_as_bytes(asking: Asking) -> None:
    x = np.array([COLD], "<f8")
    entry = {"name": "readings", "datatype": "FP64", "shape": [1, 4, 2]}
    head = json.dumps(
        {
            "inputs": [{**entry, "parameters": {"binary_data_size": x.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = asking.client.post(f"{WEAR}/infer", content=head + x.tobytes(), headers=length)
    assert answer.status_code == 200
    at = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[at : at + 4], "<f4") == pytest.approx(12.0)
    assert answer.headers["content-type"] == "application/octet-stream"


def test_what_was_answered_is_in_the_log(asking: Asking) -> None:
    answer = asking.infer(
        readings([COLD, COLD]),
        {"name": "machine", "datatype": "BYTES", "shape": [2], "data": ["press 1", "press 2"]},
        {"name": "time", "datatype": "FP64", "shape": [2], "data": [17, 18]},
    )
    row = in_log(asking.plant, answer["outputs"][1]["data"][1])
    assert (row.release, row.machine, row.at, row.drifting) == ("r-1", "press 2", 18.0, False)
    assert row.prediction == (answer["outputs"][0]["data"][1],)
    assert abs(row.time - time.time()) < 60


def test_many_at_once_get_their_own_answers(asking: Asking) -> None:
    def ask(number: int) -> None:
        with httpx.Client(base_url=asking.client.base_url, timeout=30) as client:
            for step in range(20):
                load = (number + step) % 10
                window = [[float(load), 300.0]] * 4
                answer = client.post(f"{WEAR}/infer", json={"inputs": [readings([window])]}).json()
                found.append(abs(answer["outputs"][0]["data"][0] - 20.0 * (load / 5.0 - 1.0)))

    found: list[float] = []
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert max(found) < 1e-4


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/", 404, "nothing is there"),
        ("GET", "/v3", 404, "nothing is there"),
        ("GET", "/v2/models", 404, "nothing is there"),
        ("GET", "/v2/models/other", 404, "model 'other': not served here; what serves: 'wear'"),
        ("POST", "/v2/models/other/infer", 404, "model 'other': not served here"),
        ("GET", f"{WEAR}/versions/r-2", 404, "version 'r-2': not served here; it is 'r-1'"),
        ("POST", f"{WEAR}/versions/r-2/infer", 404, "version 'r-2': not served here"),
        ("GET", f"{WEAR}/infer", 405, "expected POST"),
        ("GET", "/feedback", 405, "expected POST"),
        ("DELETE", WEAR, 405, "expected GET"),
        ("POST", "/v2/health/live", 405, "expected GET"),
        ("GET", f"/v2/models/{'x' * 5000}", 404, "not served here"),
        ("GET", f"/v2/models/{'x' * 5000}/infer", 405, "expected POST"),
        ("DELETE", f"/v2/models/wear/versions/{'x' * 5000}", 404, "not served here"),
    ],
)
def test_what_is_not_there_is_said_in_the_protocols_form(
    asking: Asking, method: str, path: str, status: int, said: str
) -> None:
    answer = asking.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert len(answer.content) < 500


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not JSON"),
        ({"inputs": [readings(shape=[1, 2, 4])]}, "expected shape"),
        ({"inputs": [readings(datatype="BYTES")]}, "expected texts"),
        ({"inputs": [readings(parameters={"units": "kN,F"})]}, "expected 'K' for column 'heat', found 'F'"),
        ({"inputs": [readings([[[5.0, 5000.0]] * 4])]}, "far outside its declared range"),
        ({"inputs": [readings()], "outputs": [{"name": "score"}]}, "found 'score'"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(asking: Asking, content: Any, said: str) -> None:
    assert said in asking.post(f"{WEAR}/infer", content, 400)


def test_a_body_of_100_mb_is_refused_and_not_kept(asking: Asking) -> None:
    before = memory(asking.child.pid)
    assert "expected a body of at most 1 MB" in asking.post(f"{WEAR}/infer", bytes(100_000_000), 413)
    assert "expected a body of at most 1 MB" in asking.post("/feedback", bytes(100_000_000), 413)
    assert memory(asking.child.pid) - before < 20_000_000


def test_a_body_of_unsaid_length_is_bounded_too(asking: Asking) -> None:
    answer = asking.client.post(f"{WEAR}/infer", content=(bytes(100_000) for _ in range(50)))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("expected a body of at most 1 MB")


def memory(pid: int) -> int:
    """Bytes in memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_too_many_windows_in_one_request(asking: Asking) -> None:
    entry = {"name": "windows", "datatype": "FP32", "shape": [201, 2, 4], "data": [0.0] * 201 * 8}
    assert "expected at most 200 windows" in asking.infer(entry, status=413)


def test_a_caller_who_goes_in_the_middle_is_not_missed(asking: Asking) -> None:
    host, port = asking.client.base_url.host, asking.client.base_url.port
    for said in (
        b"POST /v2/models/wear/infer HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{",
        b"nonsense\r\n\r\n",
        b"",
    ):
        with socket.create_connection((host, port)) as connection:
            connection.sendall(said)
    assert asking.predict() == [pytest.approx(12.0)]


def test_more_requests_than_the_rate_are_refused(federation: Federation) -> None:
    edit(federation.plant, lambda settings: setattr(settings.serving, "rate", 0.001))
    with served(federation.plant) as asking:
        assert asking.predict() == [pytest.approx(12.0)]
        answer = asking.client.post(f"{WEAR}/infer", json={"inputs": [readings()]})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["connection"] == "close"
        assert answer.json() == {"error": "more than 0.001 requests a second; send it again"}
        assert "more than 0.001 requests" in asking.post("/feedback", {}, 429)
        assert asking.get("/v2/health/ready") == {"ready": True}


def test_bodies_that_never_end_take_bounded_room(asking: Asking) -> None:
    """Six callers who each keep back the last byte of 1 MB; four find room."""
    head = b"POST /feedback HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    with ExitStack() as stack:
        callers = [stack.enter_context(connected(asking)) for _ in range(6)]
        for caller in callers:
            caller.sendall(head + bytes(999_999))
        refused, _, _ = select.select(callers, [], [], 10)
        assert refused
        assert b"HTTP/1.1 503" in refused[0].recv(1000)
    until(lambda: asking.client.post("/feedback", content=bytes(999_999)).status_code == 400)


def connected(asking: Asking) -> socket.socket:
    return socket.create_connection((str(asking.client.base_url.host), asking.client.base_url.port), 10)


def test_who_is_refused_before_all_is_read_is_read_no_further(federation: Federation) -> None:
    edit(federation.plant, lambda settings: setattr(settings.serving, "body_megabytes", 1))
    before = "from interplant.client import serving_app; serving_app.STEP_SECONDS = 0.1"
    head = b"POST /feedback HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    with served(federation.plant, before) as asking:
        for length, sent, status in (
            (900_000, 100_000, b"408"),
            (200_000_000, 100_000, b"408"),
            (1_000_001, 1_000_001, b"413"),
        ):
            with connected(asking) as connection:
                connection.sendall(head % length + bytes(sent))
                answer = b"".join(iter(lambda: connection.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"connection: close" in answer
        assert "connection" not in asking.client.post("/feedback", content=b"7").headers


def test_too_many_connections_are_refused(asking: Asking) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            last = stack.enter_context(connected(asking))
        assert asking.get("/v2/health/ready") == {"ready": True}  # by a connection that was there before
        stack.enter_context(more := connected(asking))
        assert b"HTTP/1.1 503" in more.recv(1000)
        last.close()


def test_what_is_no_http_is_refused_in_the_protocols_form(asking: Asking) -> None:
    with connected(asking) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "Invalid HTTP request received."}


def test_the_rate_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(2.0)

    def passed() -> int:
        count = 0
        while True:
            try:
                rate.take()
            except ProtocolError:
                return count
            count += 1

    assert passed() == 2
    now[0] += 0.5
    assert passed() == 1
    now[0] += 100.0
    assert passed() == 2


# --- feedback --------------------------------------------------------------------------------------


def test_a_label_joins_its_prediction(asking: Asking) -> None:
    prediction = asking.infer(readings())["outputs"][1]["data"][0]
    said = asking.post("/feedback", {"prediction_id": prediction, "label": 17})
    why = "the plant keeps no store of readings"
    assert said == {"prediction_id": prediction, "label": 17, "store": False, "why": why}
    row = in_log(asking.plant, prediction)
    assert (row.label, row.prediction) == (17, (pytest.approx(12.0),))


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({"prediction_id": "f" * 32, "label": 1}, 404, "not in this plant's log"),
        ({"prediction_id": "f" * 32}, 400, "expected prediction_id"),
        ({"prediction_id": 7, "label": 1}, 400, "expected prediction_id"),
        ({"prediction_id": "f" * 32, "label": 1, "more": 1}, 400, "expected prediction_id"),
        ({"prediction_id": "f" * 32, "label": "soon"}, 400, "label: expected a number"),
        ({"prediction_id": "f" * 32, "label": 10**400}, 400, "label: expected a number"),
        ({"prediction_id": "f" * 32, "label": -1}, 400, "label: expected 0 or more"),
        (b"7", 400, "expected a JSON object"),
    ],
)
def test_a_label_for_nothing_is_refused(asking: Asking, content: Any, status: int, said: str) -> None:
    assert said in asking.post("/feedback", content, status)


# --- what is followed ------------------------------------------------------------------------------


def test_a_new_champion_is_served_and_no_request_fails(federation: Federation) -> None:
    with served(federation.plant) as asking:
        found: list[tuple[str, float]] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=asking.client.base_url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post(f"{WEAR}/infer", json={"inputs": [readings()]})
                    assert answer.status_code == 200
                    content = answer.json()
                    found.append((content["model_version"], content["outputs"][0]["data"][0]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for release in ("r-2", "r-1", "r-2"):
            champion.activate(federation.plant, release)
            until(lambda release=release: found and found[-1][0] == release)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        expected = {"r-1": pytest.approx(12.0), "r-2": pytest.approx(14.0)}
        assert all(number == expected[release] for release, number in found)
        assert {release for release, _ in found} == {"r-1", "r-2"}
        until(lambda: serving_status(federation.plant).release == "r-2")


def spoil_model(federation: Federation) -> None:
    model = federation.plant.releases / "r-2" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    pointer = json.loads(federation.plant.champion.read_text())
    federation.plant.champion.write_text(json.dumps(pointer | {"release": "r-2", "previous": "r-1"}))


def spoil_pointer(federation: Federation) -> None:
    federation.plant.champion.write_text('{"release": "r-2"')


def point_nowhere(federation: Federation) -> None:
    pointer = json.loads(federation.plant.champion.read_text())
    federation.plant.champion.write_text(json.dumps(pointer | {"release": "r-3", "previous": "r-1"}))


@pytest.mark.parametrize("spoil", [spoil_model, spoil_pointer, point_nowhere])
def test_what_cannot_be_loaded_leaves_the_old_one_serving(federation: Federation, spoil: Any) -> None:
    with served(federation.plant) as asking:
        assert asking.release == "r-1"
        spoil(federation)
        until(lambda: serving_status(federation.plant).trouble != "")
        assert asking.predict() == [pytest.approx(12.0)]
        assert asking.release == "r-1"
        status = serving_status(federation.plant)
        assert (status.state, status.release) == ("serving", "r-1")
        champion_of(federation, "r-1")
        until(lambda: serving_status(federation.plant).trouble == "")


def champion_of(federation: Federation, release: str) -> None:
    federation.plant.champion.unlink()
    champion.activate(federation.plant, release)


@pytest.mark.parametrize("spoil", [spoil_model, point_nowhere])
def test_a_start_with_a_damaged_champion_serves_the_one_before(federation: Federation, spoil: Any) -> None:
    spoil(federation)
    with served(federation.plant) as asking:
        assert asking.predict() == [pytest.approx(12.0)]
        assert "r-" in serving_status(federation.plant).trouble


def test_without_a_champion_nothing_is_ready_until_there_is_one(federation: Federation) -> None:
    federation.plant.champion.unlink()
    with served(federation.plant) as asking:
        assert asking.get("/v2/health/live") == {"live": True}
        assert "no release serves here yet" in asking.get("/v2/health/ready", 503)
        assert "not served here" in asking.infer(readings(), status=503)
        assert "nothing serves" in asking.post("/feedback", {"prediction_id": "a", "label": 1}, 503)
        champion.activate(federation.plant, "r-2")
        until(lambda: serving_status(federation.plant).release == "r-2")
        assert asking.predict() == [pytest.approx(14.0)]


def test_the_drift_flag_is_the_monitors_word_on_what_serves(federation: Federation) -> None:
    def flagged() -> bool:
        answer = asking.infer(readings())
        flag = answer["parameters"]["drifting"]
        assert in_log(federation.plant, answer["outputs"][1]["data"][0]).drifting is flag
        return bool(flag)

    with served(federation.plant) as asking:
        assert not flagged()
        federation.plant.drift.mkdir()
        standing.note(federation.plant, "r-2", "inputs", ["heat"])
        time.sleep(0.2)  # it is of another release: nothing would be heard of it later either
        assert not flagged()
        standing.note(federation.plant, "r-1", "inputs", ["heat"])
        until(flagged)
        standing.note(federation.plant, "r-1", "predictions", [])
        standing.note(federation.plant, "r-1", "inputs", [])
        until(lambda: not flagged())
        standing.note(federation.plant, "r-1", "errors", [""])
        until(flagged)


def test_a_full_disk_does_not_keep_a_new_champion_from_serving(federation: Federation) -> None:
    """What serves cannot be noted, but it serves."""
    with served(federation.plant) as asking:
        federation.plant.serving.unlink()
        federation.plant.serving.mkdir()  # nothing can be put there
        champion.activate(federation.plant, "r-2")
        until(lambda: asking.release == "r-2")
        champion.activate(federation.plant, "r-1")
        until(lambda: asking.release == "r-1")
        federation.plant.serving.rmdir()


def test_no_fault_keeps_the_next_champion_from_serving(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def load(plant: PlantDirectory, release: str, batch: int, threads: int) -> Any:
        if release == "r-2" and not failed:
            failed.append(release)
            raise MemoryError
        return real(plant, release, batch, threads)

    real = serving_models.load
    monkeypatch.setattr(serving_models, "load", load)
    monkeypatch.setattr(serving_models, "AGAIN_SECONDS", 0.1)
    models = serving_models.Followed(federation.plant, lambda _: None)
    models.start()
    try:
        champion.activate(federation.plant, "r-2")
        until(lambda: models.model is not None and models.model.release == "r-2")
    finally:
        models.close()
    assert (failed, models.trouble) == (["r-2"], "")


def test_with_a_damaged_pointer_the_newest_good_release_serves(federation: Federation) -> None:
    plant = federation.plant
    with verdicts.deciding(plant):
        deployment.promote(plant, "r-1", "the first", {})
        deployment.promote(plant, "r-2", "better", {})
    for content in ("{", None):
        plant.champion.unlink()
        if content:
            plant.champion.write_text(content)
        models = serving_models.Followed(plant, lambda _: None)
        models.start()
        models.close()
        assert models.model is not None
        assert models.model.release == "r-2"
        assert "champion.json: expected" in models.trouble


# --- the process -----------------------------------------------------------------------------------


def test_a_polite_end_answers_what_is_under_way_and_writes_all(federation: Federation) -> None:
    with served(federation.plant) as asking:
        ids = [asking.infer(readings())["outputs"][1]["data"][0] for _ in range(50)]
        asking.child.send_signal(signal.SIGTERM)
        assert asking.child.wait(30) == 0
    with Predictions.open(federation.plant) as log:
        assert [row.id for row in log.since(0)] == ids
    assert serving_status(federation.plant) == ServingStatus("stopped")


def test_a_kill_loses_only_what_was_not_written_yet(federation: Federation) -> None:
    with served(federation.plant) as asking:
        first = asking.infer(readings())["outputs"][1]["data"][0]
        in_log(federation.plant, first)
        asking.infer(readings())
        asking.child.kill()
        asking.child.wait(30)
        assert serving_status(federation.plant).state == "stopped"
    with served(federation.plant) as asking:
        assert asking.post("/feedback", {"prediction_id": first, "label": 3})["label"] == 3


def test_one_process_serves_a_plant(federation: Federation) -> None:
    with served(federation.plant), pytest.raises(InterplantError, match="serving is already running"):
        serving.serve(federation.plant, threading.Event())


def test_a_taken_port_is_told_and_may_become_free(federation: Federation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        edit(federation.plant, lambda settings: setattr(settings.serving, "listen", str(port)))
        with pytest.raises(InterplantError, match=f"serving.listen: 127.0.0.1:{port} is taken") as caught:
            serving.serve(federation.plant, threading.Event())
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("host", ["nowhere.invalid:80", "192.0.2.1:8080"])
def test_an_address_that_is_not_this_machines_is_wrong(federation: Federation, host: str) -> None:
    edit(federation.plant, lambda settings: setattr(settings.serving, "listen", host))
    with pytest.raises(UsageError, match=r"serving\.listen: "):
        serving.serve(federation.plant, threading.Event())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("listen", "everywhere", "expected host:port, a port, or nothing"),
        ("listen", "127.0.0.1:99999", "expected host:port"),
        ("batch", 0, "expected 1 or more"),
        ("queue", 0, "expected 1 or more"),
        ("rate", -1.0, "expected 0 to"),
        ("wait_milliseconds", -1.0, "expected 0 to 1000"),
        ("body_megabytes", 5000, "expected at most 1000"),
        ("nice", 15, "expected no more than trainer.nice"),
        ("threads", 0, "expected 1 or more"),
        ("keep", 0, "expected 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(federation: Federation, key: str, value: Any, said: str) -> None:
    edit(federation.plant, lambda settings: setattr(settings.serving, key, value))
    with pytest.raises(UsageError, match=rf"plant\.yaml:\d+: serving\.{key}: {said}"):
        federation.plant.load()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_a_port_alone_is_this_machines(listen: str, address: tuple[str, int]) -> None:
    settings = Plant(name="north", federation="test")
    settings.serving.listen = listen
    assert settings.serving.address == address


def test_nothing_is_served_unless_it_is_asked_for(federation: Federation) -> None:
    edit(federation.plant, lambda settings: setattr(settings.serving, "listen", ""))
    assert serving_status(federation.plant) == ServingStatus("off")
    assert "listen: ''" in config.to_yaml(Plant(name="north", federation="test"))
