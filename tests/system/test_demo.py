"""The demo as a person runs it: real processes, and none left behind."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from interplant.cli.commands import call
from interplant.cli.main import exit_code

from .conftest import processes_of

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "interplant.cli.main", "demo"]


def demo(*words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "interplant-demo"


@pytest.fixture(scope="module")
def done(folder: Path) -> "subprocess.CompletedProcess[str]":
    return demo("--dir", str(folder), "--rounds", "6", "--json")


def test_the_whole_loop_with_real_processes(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (written,) = (folder / "runs").glob("*/summary.json")
    assert json.loads(written.read_text()) == document
    assert written.parent.name == document["run"]
    assert written.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"

    assert (document["dataset"], document["simulated"], document["rounds"]) == ("simulated", True, 6)
    assert document["release"]["signature_verified"] is True
    assert 0 < document["memory_mb"] < 2500
    seconds = document["seconds"]
    assert 0 <= seconds["overhead_per_round"] < seconds["train"] < seconds["total"]
    assert 0 < seconds["to_first_training"] < seconds["total"]

    assert [plant["name"] for plant in document["plants"]] == ["plant-1", "plant-2", "plant-3", "plant-4"]
    for plant in document["plants"]:
        assert plant["release_state"] == "active", plant["release_reason"]
        assert plant["release"] == document["release"]["id"]
        assert 0 < plant["epsilon"] < plant["epsilon_budget"]
        assert (plant["privacy_unit"], plant["delta"]) == ("window", 1e-5)
        assert plant["rows"] > plant["machines"] > 0
        assert plant["machine_epsilon"] is None or plant["machine_epsilon"] > plant["epsilon"]
        for kind in ("alone", "pooled", "federated", "federated_private"):
            assert 5 < plant[f"rmse_{kind}"] < 125
    loop = document["loop"]
    assert written.with_name("loop.png").read_bytes()[:4] == b"\x89PNG"
    assert loop["because"] == f"proposed by {loop['plant']} (drift)"
    assert loop["sensor"] in loop["alarms"]
    assert {one["plant"]: one["state"] for one in loop["tried"]}[loop["plant"]] == "active"
    refused = [one for one in loop["tried"] if one["state"] == "refused"]
    assert refused
    assert all("not sure that the release is" in one["sentence"] for one in refused)
    before, after = loop["arrived"][: loop["alarm"]], loop["arrived"][loop["alarm"] :]
    assert {one["release"] for one in after} == {loop["release"]}
    old, new = (sum(one[error] for one in after) for error in ("rmse_first", "rmse"))
    assert new < 0.95 * old, "the error on later files goes down"
    assert before[0]["rmse"] < before[-1]["rmse"], "the drift had brought it up"
    better = [plant["rmse_federated"] < plant["rmse_alone"] for plant in document["plants"]]
    assert sum(better) >= 3


def test_progress_is_told_on_stderr_alone(done: "subprocess.CompletedProcess[str]") -> None:
    assert "training with privacy: 6 of 6 rounds" in done.stderr
    assert done.stdout.startswith("{")


def test_nothing_is_left_running(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    assert processes_of(folder) == []


@pytest.mark.parametrize(
    ("moment", "word"),
    [("starting a coordinator", signal.SIGTERM), ("without privacy: [1-9]", signal.SIGINT)],
)
def test_who_ends_it_gets_one_line_and_nothing_is_left_running(
    folder: Path, done: "subprocess.CompletedProcess[str]", moment: str, word: signal.Signals
) -> None:
    runs = sorted((folder / "runs").iterdir())
    words = [*COMMAND, "--dir", str(folder), "--rounds", "50"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        for line in child.stderr:
            if re.search(moment, line):
                time.sleep(0.5)
                child.send_signal(word)
                break
        said = child.stderr.read()
        assert child.wait(30) == 1
    assert said.splitlines()[-1] == "interplant: stopped"
    assert "Traceback" not in said
    assert processes_of(folder) == []
    assert sorted((folder / "runs").iterdir()) == runs


def test_a_port_in_use_is_one_line(folder: Path, done: "subprocess.CompletedProcess[str]") -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = demo("--dir", str(folder), "--port", str(port))
    assert refused.returncode == 1
    assert str(port) in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert processes_of(folder) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dataset", "mnist"], "expected one of simulated, cmapss, found 'mnist'"),
        (["--dataset", "cmapss"], "expected --data DIR"),
        (["--dataset", "cmapss", "--data", "nowhere"], "nowhere: expected cmapss.tar.xz"),
        (["--engine", "ray"], "expected one of grpc, simulate, flower"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(
    words: list[str], sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: nothing is started."""
    assert exit_code(lambda: call(["demo", "--dir", str(tmp_path / "demo"), *words])) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert sentence in said
    assert not (tmp_path / "demo" / "federation").exists()
