"""Flower's own deployment, with real processes: what runs, what is refused, what is left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from interplant.core import certificates, processes
from interplant.core.errors import InterplantError, UsageError
from interplant.lab import flower_commands
from interplant.lab import flower_engine as engine
from interplant.lab.flower_commands import Value

from ..waiting import until

APPS = '''
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
broken = ServerApp()
endless = ServerApp()
client = ClientApp()


def pull(grid, ids):
    """Yield the replies as they come, one id at a time."""
    waiting = list(ids)
    while waiting:
        for one in list(waiting):
            for reply in grid.pull_messages([one]):
                waiting.remove(one)
                yield reply
        time.sleep(0.25)


@server.main()
def main(grid, context):
    weights, plants, replies, errors = np.zeros(3, np.float32), [], [], []
    for number in range(context.run_config["rounds"]):
        nodes = {node.node_id: node.name for node in grid.get_nodes()}
        plants.append(sorted(nodes.values()))
        content = RecordDict({"weights": ArrayRecord([weights])})
        messages = [grid.create_message(content, "train", node, str(number)) for node in nodes]
        updates = []
        for reply in pull(grid, grid.push_messages(messages)):
            if reply.has_error():
                errors.append([nodes[reply.metadata.src_node_id], reply.error.code, reply.error.reason])
                continue
            updates.append(reply.content["update"].to_numpy_ndarrays()[0])
            replies.append(dict(reply.content["told"]))
        if updates:
            weights = weights + sum(updates) / len(updates)
    told = sorted(replies, key=lambda reply: (reply["group"], reply["plant"]))
    result = {"weights": weights.tolist(), "plants": plants, "told": told, "errors": errors}
    result["config"] = context.run_config
    Path(context.run_config["result"]).write_text(json.dumps(result))
    print("the ServerApp is done")


@broken.main()
def fail(grid, context):
    raise ValueError("no such strategy")


@endless.main()
def hang(grid, context):
    print("still here", flush=True)
    time.sleep(600)


@client.train()
def train(message, context):
    if context.node_config["step"] < 0:
        return Message(Error(1000, "paused"), reply_to=message)
    weights = message.content["weights"].to_numpy_ndarrays()[0]
    update = (weights + 1) * np.float32(context.node_config["step"])
    told = ConfigRecord({"plant": context.node_config["plant"], "group": message.metadata.group_id})
    return Message(RecordDict({"update": ArrayRecord([update]), "told": told}), reply_to=message)
'''

Plants = dict[str, dict[str, Value]]


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a module with tiny apps where every process finds it; return its name."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "plain_apps.py").write_text(APPS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "plain_apps"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a process, a key or a folder behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    assert flower_processes(folder) == []
    assert list(folder.glob("interplant-flower-*")) == []


def flower_processes(folder: Path) -> list[str]:
    """List the command lines of living processes that were started with this temporary folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return [line for line in found if "flower-" in line or "flwr" in line]


@pytest.mark.system
def test_two_plants_train_two_rounds(tmp_path: Path, apps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A company's proxy must not see loopback traffic, nor coloured output break what is parsed.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("FORCE_COLOR", "1")
    plants: Plants = {
        "north": {"plant": '/plants/with space, "quotes" and ü', "step": 1.0},
        "south": {"plant": "/plants/south", "step": 3.0},
    }
    result = tmp_path / "result.json"
    config: dict[str, Value] = {
        "rounds": 2,
        "result": str(result),
        "private": True,
        "lr": 0.5,
    }
    run = engine.run_on_flower(
        tmp_path / "flower", f"{apps}:server", f"{apps}:client", plants, config, timeout=200
    )
    assert (run.status, run.details) == ("completed", "")
    assert "the ServerApp is done" in run.log
    assert "\x1b" not in run.log
    assert run.seconds < 200
    found = json.loads(result.read_text())
    # Each round adds the mean of (w + 1) * 1 and (w + 1) * 3: 0 -> 2 -> 8.
    assert found["weights"] == [8.0, 8.0, 8.0]
    assert found["plants"] == [["north", "south"]] * 2
    assert found["errors"] == []
    assert found["config"] == config
    assert [(reply["group"], reply["plant"]) for reply in found["told"]] == [
        (group, plant) for group in "01" for plant in sorted(str(p["plant"]) for p in plants.values())
    ]
    logs = {path.name for path in (tmp_path / "flower").iterdir()}
    assert logs == {"superlink.log", "supernode-north.log", "supernode-south.log", "run.log"}


@pytest.mark.system
def test_what_goes_wrong_is_said(tmp_path: Path, apps: str) -> None:
    """One deployment: a missing app, a failing one, a refusing plant, a stranger, dead processes."""
    plants: Plants = {"north": {"plant": "/n", "step": -1}}
    result = tmp_path / "result.json"
    with engine.flower_deployment(tmp_path / "flower", plants, timeout=200) as deployment:
        with pytest.raises(InterplantError, match="Unable to find attribute missing in module"):
            engine.submit(deployment, f"{apps}:missing", f"{apps}:client", {})

        run_id = engine.submit(deployment, f"{apps}:broken", f"{apps}:client", {})
        assert engine.wait(deployment, run_id) == (
            "failed",
            "ServerApp failed with exception: no such strategy",
        )

        config: dict[str, Value] = {"rounds": 1, "result": str(result)}
        run_id = engine.submit(deployment, f"{apps}:server", f"{apps}:client", config)
        assert engine.wait(deployment, run_id) == ("completed", "")
        assert json.loads(result.read_text())["errors"] == [["north", 1000, "paused"]]

        assert "All SuperNodes must be registered" in knock(deployment, tmp_path)

        run_id = engine.submit(deployment, f"{apps}:endless", f"{apps}:client", {})
        deployment.services[1].child.kill()
        with pytest.raises(InterplantError, match=r"supernode-north ended .*supernode-north\.log"):
            engine.wait(deployment, run_id)

        deployment.services[0].child.kill()
        deployment.services[0].child.wait()  # of two that are dead the first is named
        with pytest.raises(InterplantError, match=r"superlink ended .*exit code -9.*superlink\.log"):
            engine.wait(deployment, run_id)


def knock(deployment: engine.Deployment, folder: Path) -> str:
    """Start a SuperNode that nobody has registered; return what it says before it ends."""
    words = ["--superlink", deployment.address, "--root-certificates", str(deployment.tls.ca)]
    words += ["--host", flower_commands.HOST, "--port", str(flower_commands.free_ports(1)[0])]
    command = [str(Path(sys.executable).parent / "flower-supernode"), *words]
    environment = os.environ | {
        "FLWR_HOME": str(deployment.root / "stranger"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    # Into a file: the SuperNode's helper would hold a pipe open until somebody reaps the SuperNode.
    log = folder / "stranger.log"
    with log.open("wb") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        assert child.wait(60) != 0
    finally:
        processes.stop(child)
    return log.read_text()


@pytest.mark.system
def test_time_runs_out(tmp_path: Path, apps: str) -> None:
    with pytest.raises(InterplantError, match=r"no time left to .* allow it more time"):
        engine.run_on_flower(
            tmp_path / "flower",
            f"{apps}:endless",
            f"{apps}:client",
            {"north": {"step": 1}},
            {},
            timeout=1.5,
        )


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_its_starter(tmp_path: Path, apps: str, number: signal.Signals) -> None:
    """Ctrl-C while it starts, and a death without a chance to clean up."""
    script = (
        "from pathlib import Path; from interplant.lab.flower_engine import run_on_flower; "
        f"run_on_flower(Path('flower'), '{apps}:endless', '{apps}:client', {{'north': {{}}}}, {{}})"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE)
    log = tmp_path / "flower" / "supernode-north.log"
    temporary = tmp_path / "temporary"
    try:
        until(lambda: child.poll() is not None or (log.exists() and "Starting" in log.read_text()))
        assert flower_processes(temporary)
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    finally:
        processes.stop(child)
    if number == signal.SIGINT:
        assert said.decode().rstrip().endswith("KeyboardInterrupt")
        return
    until(lambda: not flower_processes(temporary))
    for folder in temporary.glob("interplant-flower-*"):
        shutil.rmtree(folder)


@pytest.mark.system
def test_a_certificate_for_another_host_is_named(tmp_path: Path) -> None:
    authority, key = certificates.make_authority("test"), certificates.make_key()
    files = engine.TlsFiles(tmp_path / "ca.crt", tmp_path / "cert.crt", tmp_path / "key.pem")
    signed = certificates.issue(
        authority,
        key.public_key(),
        "server",
        "test",
        lifetime=certificates.AUTHORITY_LIFETIME,
        hosts=("elsewhere.example",),
    )
    files.ca.write_bytes(authority.pem)
    files.cert.write_bytes(signed)
    files.key.write_bytes(certificates.key_pem(key))
    with (
        pytest.raises(InterplantError, match=r"IP address mismatch.*give one that names 127\.0\.0\.1"),
        engine.flower_deployment(tmp_path / "flower", {"north": {}}, files, timeout=60),
    ):
        raise AssertionError("must not start")


@pytest.mark.system
def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    files = engine.TlsFiles(tmp_path / "no.crt", tmp_path / "no.crt", tmp_path / "no.key")
    with (
        pytest.raises(InterplantError, match=r"superlink ended .*--ssl-ca-certfile.*superlink\.log"),
        engine.flower_deployment(tmp_path / "flower", {"north": {}}, files, timeout=60),
    ):
        raise AssertionError("must not start")


def test_ports_of_a_deployment_differ() -> None:
    """All ports of a deployment are held until the last one is chosen."""
    ports = flower_commands.free_ports(20)
    assert len(set(ports)) == 20
    assert all(1024 < port < 65536 for port in ports)


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((flower_commands.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} .*choose another port"):
            engine.run_on_flower(tmp_path / "flower", "a:b", "c:d", {"north": {}}, {}, port=port)
    assert not (tmp_path / "flower").exists()


@pytest.mark.parametrize("name", ["", "two words", "north/south", "-north", "nörd"])
def test_a_plant_flower_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits and hyphens"):
        engine.run_on_flower(tmp_path / "flower", "a:b", "c:d", {name: {}}, {})
    assert not (tmp_path / "flower").exists()


def test_no_plant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one plant"):
        engine.run_on_flower(tmp_path / "flower", "a:b", "c:d", {}, {})


def test_values_reach_the_bundle_unchanged(tmp_path: Path) -> None:
    config: dict[str, Value] = {
        "text": 'quote " backslash \\ tab \t line \n delete \x7f ü 😀',
        "empty": "",
        "yes": True,
        "count": -(2**62),
        "rate": 1e-7,
        "dotted.key": 1e300,
    }
    flower_commands.write_bundle(tmp_path, "some.module:app", "other.module:app", config)
    app = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"] == config
    assert app["components"] == {"serverapp": "some.module:app", "clientapp": "other.module:app"}


def test_a_value_flower_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"strings, numbers and booleans .* found list"):
        flower_commands.write_bundle(tmp_path, "a:b", "c:d", {"plants": ["north"]})  # type: ignore[dict-item]


@pytest.mark.system
def test_the_bundle_takes_nothing_along(tmp_path: Path, apps: str) -> None:
    """What lies beside a bundle, code or a plant's readings, is not packed by Flower."""
    folder = tmp_path / "bundle"
    flower_commands.write_bundle(folder, f"{apps}:server", f"{apps}:client", {})
    for stray in ("readings.json", "notes.md", "plant.yaml", "code.py"):
        (folder / stray).write_text("{}")
    tool = str(Path(sys.executable).parent / "flwr")
    environment = os.environ | {"FLWR_HOME": str(tmp_path), "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment["FLWR_TELEMETRY_ENABLED"] = "0"
    subprocess.run(
        [tool, "build", "--app", str(folder)], cwd=tmp_path, env=environment, check=True, timeout=60
    )
    (bundle,) = tmp_path.glob("*.fab")
    assert set(zipfile.ZipFile(bundle).namelist()) == {"pyproject.toml", "README.md", ".info/CONTENT"}
