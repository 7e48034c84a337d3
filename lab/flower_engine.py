"""The ``flower`` engine on one machine: Flower's own SuperLink, SuperNodes and ``flwr run``.

Nothing of Flower is changed or reached into: its commands are started as processes, with TLS and
SuperNode authentication on, and are handed a bundle that only names installed modules. Each process
has a ``FLWR_HOME`` of its own, as on machines of their own (in a shared one, two that unpack the
same bundle at once trip over each other). That variable also marks whatever they start in turn, so
that nothing is left behind.
"""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
from cryptography.hazmat.primitives import serialization

from interplant.core import certificates, processes
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic

Value = str | int | float | bool
"""What Flower's run and node configurations can hold."""

HOST: Final = "127.0.0.1"
_BUNDLE: Final = "interplant-run"  # Flower takes letters, digits and hyphens, at most 32
_GRACE: Final = 5.0
_COMMAND_TIME: Final = 60.0
# Flower's commands cannot ask for PR_SET_PDEATHSIG (1, with SIGTERM) themselves, so it is asked for
# just before they take over the process.
_FOLLOW: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_CHATTER: Final = re.compile(r"^INFO|^WARNING|^\S+ INFO |^For more information|^\s*$")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of the SuperLink: authority, server certificate (it names 127.0.0.1) and its key."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True)
class FlowerRun:
    """How a run on Flower ended.

    Attributes:
        status: Flower's word for it: ``completed``, ``failed`` or ``stopped``.
        seconds: Wall time from the first process started to the last one stopped.
        log: What the ServerApp printed.
        details: Flower's reason if it did not complete, else empty.
    """

    status: str
    seconds: float
    log: str
    details: str


@dataclass(frozen=True)
class _Service:
    name: str
    child: "subprocess.Popen[bytes]"
    log: Path


@dataclass(frozen=True)
class Deployment:
    """A SuperLink and its SuperNodes that are running on this machine.

    Attributes:
        logs: Folder of the processes' logs; it stays.
        root: Folder of keys, bundle and ``FLWR_HOME``s; it goes with the deployment.
        address: ``host:port`` of the SuperLink, its only port.
        tls: The SuperLink's certificate files.
        deadline: Reading of `time.monotonic` at which waiting ends.
        services: What runs, the SuperLink first.
    """

    logs: Path
    root: Path
    address: str
    tls: TlsFiles
    deadline: float
    services: list[_Service]


def run_on_flower(
    directory: Path,
    server_app: str,
    client_app: str,
    plants: Mapping[str, Mapping[str, Value]],
    run_config: Mapping[str, Value],
    *,
    tls: TlsFiles | None = None,
    timeout: float = 600.0,
    port: int = 0,
) -> FlowerRun:
    """Run installed apps on a stock Flower deployment, from its start to its stop.

    Args:
        directory: Where the logs go; made if missing.
        server_app: ``module:attribute`` of the ServerApp, importable by this interpreter.
        client_app: The same of the ClientApp.
        plants: Node configuration by plant; one SuperNode each. The ServerApp finds the plant's
            name in ``grid.get_nodes()``, the ClientApp its configuration in ``context.node_config``.
        run_config: What both apps find in ``context.run_config``.
        tls: Certificate files; made for this deployment alone if None.
        timeout: Seconds until the run must have finished.
        port: The SuperLink's port; a free one if 0.

    Raises:
        UsageError: A name or a value cannot be passed to Flower, or the port is in use.
        InterplantError: A process died, a command failed, or the time is up. A run that fails does
            not raise: see `FlowerRun.status`.
    """
    started = time.monotonic()
    with flower_deployment(directory, plants, tls, timeout, port) as deployment:
        run_id = submit(deployment, server_app, client_app, run_config)
        status, details = wait(deployment, run_id)
        log = _text(deployment.logs / "run.log")
    return FlowerRun(status, time.monotonic() - started, log, details)


@contextmanager
def flower_deployment(
    directory: Path,
    plants: Mapping[str, Mapping[str, Value]],
    tls: TlsFiles | None = None,
    timeout: float = 600.0,
    port: int = 0,
) -> Iterator[Deployment]:
    """Start a SuperLink and one SuperNode per plant; stop all when the block ends, however it ends.

    Arguments and errors as `run_on_flower`. Every SuperNode is online when the block begins.
    """
    _check_plants(plants)
    deadline = time.monotonic() + timeout
    link, *nodes = free_ports(1 + len(plants), port)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="interplant-flower-") as folder:
        root = Path(folder).resolve()
        tls = tls or _make_tls(root / "tls")
        deployment = Deployment(directory, root, f"{HOST}:{link}", tls, deadline, [])
        try:
            _start_superlink(deployment, link)
            for (name, config), node in zip(plants.items(), nodes, strict=True):
                _start_supernode(deployment, name, config, node)
            _wait_online(deployment, len(plants))
            yield deployment
        finally:
            _stop(deployment)


def submit(deployment: Deployment, server_app: str, client_app: str, run_config: Mapping[str, Value]) -> str:
    """Start a run of installed apps with ``flwr run``; return Flower's id of it."""
    bundle = deployment.root / _BUNDLE
    write_bundle(bundle, server_app, client_app, run_config)
    return str(_flwr(deployment, "run", str(bundle))["run-id"])


def write_bundle(folder: Path, server_app: str, client_app: str, run_config: Mapping[str, Value]) -> None:
    """Write a Flower app that carries no code: its components name installed modules.

    Args:
        folder: Its name may hold letters, digits and hyphens, at most 32.
        server_app: ``module:attribute`` of the ServerApp.
        client_app: ``module:attribute`` of the ClientApp.
        run_config: Run configuration; ``flwr run --run-config`` can change its values later.
    """
    write_atomic(folder / "README.md", "Names the apps installed with Interplant; no code inside.\n")
    # Without fab-include Flower packs every .py, .json, .yaml and .md below the folder.
    lines = [
        "[project]",
        _toml({"name": _BUNDLE, "version": version("interplant")}),
        "[tool.flwr.app]",
        _toml({"publisher": "interplant"}),
        'fab-include = ["/README.md"]',
        "[tool.flwr.app.components]",
        _toml({"serverapp": server_app, "clientapp": client_app}),
        "[tool.flwr.app.config]",
        _toml(run_config),
    ]
    write_atomic(folder / "pyproject.toml", "\n".join(lines))


def wait(deployment: Deployment, run_id: str) -> tuple[str, str]:
    """Wait until a run has finished; its log is written to ``run.log`` meanwhile.

    Returns:
        Flower's status (``completed``, ``failed``, ``stopped``) and its reason, empty if completed.
    """
    while True:
        _follow(deployment, run_id)
        _check_alive(deployment)
        found = _flwr(deployment, "list", "--run-id", run_id)["runs"][0]
        state, _, outcome = found["status"].partition(":")
        if state == "finished":
            return outcome, "" if outcome == "completed" else found["status-details"]
        # The log stream broke off although the run goes on: follow it again from the beginning.
        _check_time(deployment, "finish the run")


def _follow(deployment: Deployment, run_id: str) -> None:
    """Let ``flwr log`` write the run's log until it ends, and watch the processes meanwhile."""
    path = deployment.logs / "run.log"
    path.unlink(missing_ok=True)
    child = _spawn([_tool("flwr"), "log", run_id, "--stream"], _environment(deployment.root, "cli"), path)
    try:
        while child.poll() is None:
            _check_alive(deployment)
            _check_time(deployment, "finish the run")
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
    finally:
        processes.stop(child, _GRACE)


# --- starting --------------------------------------------------------------------------------------


def _start_superlink(deployment: Deployment, port: int) -> None:
    tls = deployment.tls
    connection = {"address": deployment.address, "root-certificates": str(tls.ca.resolve())}
    config = f'[superlink]\ndefault = "here"\n[superlink.here]\n{_toml(connection)}'
    write_atomic(_home(deployment.root, "cli") / "config.toml", config)
    words = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    words += ["--ssl-ca-certfile", str(tls.ca), "--ssl-certfile", str(tls.cert)]
    words += ["--ssl-keyfile", str(tls.key), "--host", HOST, "--port", str(port)]
    _start(deployment, "superlink", [_tool("flower-superlink"), *words])
    while not _answers(port, tls.ca):
        _check_alive(deployment)
        _check_time(deployment, "start the SuperLink")
        time.sleep(0.1)


def _start_supernode(deployment: Deployment, name: str, config: Mapping[str, Value], port: int) -> None:
    """Make the plant's key pair, make it known to the SuperLink, start the SuperNode."""
    folder = deployment.root / "keys" / name
    key = certificates.make_key()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    certificates.write_key(folder / "node", private)
    write_atomic(folder / "node.pub", public)
    write_atomic(folder / "node.toml", _toml(config))
    _flwr(deployment, "supernode", "register", str(folder / "node.pub"), "--name", name)
    words = ["--superlink", deployment.address, "--root-certificates", str(deployment.tls.ca)]
    words += ["--auth-supernode-private-key", str(folder / "node")]
    words += ["--host", HOST, "--port", str(port), "--node-config", str(folder / "node.toml")]
    _start(deployment, f"supernode-{name}", [_tool("flower-supernode"), *words])


def _wait_online(deployment: Deployment, count: int) -> None:
    while True:
        _check_alive(deployment)
        nodes = _flwr(deployment, "supernode", "list")["nodes"]
        if sum(node["status"] == "online" for node in nodes) >= count:
            return
        _check_time(deployment, "see every SuperNode online")
        time.sleep(0.5)


def _start(deployment: Deployment, name: str, command: Sequence[str]) -> None:
    log = deployment.logs / f"{name}.log"
    log.unlink(missing_ok=True)
    child = _spawn(command, _environment(deployment.root, name), log)
    deployment.services.append(_Service(name, child, log))


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a command that ends with this process, however that ends, but not on its Ctrl-C."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _FOLLOW, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _answers(port: int, ca: Path) -> bool:
    connection = None
    try:
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(HOST, port, timeout=5, context=context)
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except ssl.SSLCertVerificationError as error:
        raise InterplantError(
            f"the SuperLink's certificate cannot be verified: {error.verify_message}; give one that "
            f"names {HOST} and is signed by {ca}"
        ) from None
    except (OSError, http.client.HTTPException):
        return False  # not listening yet; if it never will, the SuperLink's death says why
    finally:
        if connection:
            connection.close()


def _make_tls(folder: Path) -> TlsFiles:
    """Make an authority and a server certificate that live as long as this deployment."""
    files = TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    authority, key = certificates.make_authority("flower"), certificates.make_key()
    signed = certificates.issue(
        authority,
        key.public_key(),
        "server",
        "flower",
        lifetime=timedelta(days=7),
        hosts=(HOST, "localhost"),
    )
    write_atomic(files.ca, authority.pem)
    write_atomic(files.cert, signed)
    certificates.write_key(files.key, certificates.key_pem(key))
    return files


def free_ports(count: int, first: int = 0) -> list[int]:
    """Choose free ports by binding them all at once, so that they differ.

    Args:
        count: How many.
        first: The first of them is to be this one, if not 0.

    Raises:
        UsageError: The first port is in use.
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for index, each in enumerate(sockets):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((HOST, 0 if index else first))
        return [each.getsockname()[1] for each in sockets]
    except OSError as error:
        raise UsageError(
            f"port {first} on {HOST} cannot be used for the SuperLink ({error.strerror}); stop what "
            "listens there or choose another port"
        ) from None
    finally:
        for each in sockets:
            each.close()


# --- watching and stopping -------------------------------------------------------------------------


def _check_alive(deployment: Deployment) -> None:
    for service in deployment.services:
        code = service.child.poll()
        if code is not None:
            raise InterplantError(
                f"Flower's {service.name} ended unexpectedly (exit code {code}): "
                f"{_last_words(service.log)!r}; its whole log is {service.log}"
            )


def _check_time(deployment: Deployment, aim: str) -> None:
    if time.monotonic() > deployment.deadline:
        raise InterplantError(
            f"the flower engine had no time left to {aim}; see the logs in {deployment.logs}, and "
            "allow it more time if they show no fault"
        )


def _last_words(log: Path) -> str:
    """Return the last line that is neither empty nor everyday chatter."""
    lines = _text(log).splitlines()
    telling = [line for line in lines if not _CHATTER.match(line)]
    return (telling or lines or ["(nothing)"])[-1].strip()


def _text(log: Path) -> str:
    return _COLOUR.sub("", log.read_text(errors="replace")) if log.exists() else ""


def _stop(deployment: Deployment) -> None:
    """Stop the SuperNodes (they sign off), then the SuperLink, then what these have left."""
    for service in deployment.services[1:]:
        service.child.terminate()
    for service in reversed(deployment.services):
        processes.stop(service.child, _GRACE)
    left = _started_under(deployment.root)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, _GRACE)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _started_under(root: Path) -> list[psutil.Process]:
    """Find the live processes whose ``FLWR_HOME`` lies in the deployment's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # somebody else's process, or one that has just ended
            if process.environ().get("FLWR_HOME", "").startswith(f"{root}{os.sep}"):
                found.append(process)
    return found


# --- Flower's commands -----------------------------------------------------------------------------


def _flwr(deployment: Deployment, *words: str) -> dict[str, Any]:
    """Run a ``flwr`` command and return the JSON it prints."""
    left = max(1.0, min(_COMMAND_TIME, deployment.deadline - time.monotonic()))
    try:
        done = subprocess.run(
            [_tool("flwr"), *words, "--format", "json"],
            env=_environment(deployment.root, "cli"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _check_time(deployment, f"hear from `flwr {words[0]}`")
        raise InterplantError(
            f"`flwr {words[0]}` gave no answer within {left:.0f} s; see the logs in {deployment.logs}"
        ) from None
    # Most failures exit with 0 and say so in the JSON.
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success"):
        raise InterplantError(f"`flwr {words[0]}` failed: {_reason(answer.get('error-message', ''))}")
    return answer


def _reason(message: str) -> str:
    """Put Flower's words on one line, without what it tells of its progress."""
    lines = [line.strip() for line in _COLOUR.sub("", message).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Using SuperLink"))


def _tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise InterplantError(f"{path} is missing; install flwr beside this interpreter")
    return str(path)


def _home(root: Path, name: str) -> Path:
    return root / "homes" / name


def _environment(root: Path, name: str) -> dict[str, str]:
    """Return the variables of one process: a home of its own, no calls outside, no proxy."""
    home = _home(root, name)
    home.mkdir(parents=True, exist_ok=True)
    bypass = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST]))
    changes = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # SuperLink and SuperNode look for flower-superexec and the app commands on the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "NO_PROXY": bypass,
        "no_proxy": bypass,
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    kept = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"}
    return kept | changes


def _check_plants(plants: Mapping[str, Mapping[str, Value]]) -> None:
    wrong = [name for name in plants if not certificates.is_valid_name(name)]
    if wrong or not plants:
        raise UsageError(
            "the flower engine needs at least one plant, each named with letters, digits and "
            f"hyphens; found {', '.join(map(repr, wrong)) or 'none'}"
        )


def _toml(values: Mapping[str, Value]) -> str:
    return "".join(f"{_literal(key)} = {_literal(value)}\n" for key, value in values.items())


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML string, but for one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    raise UsageError(f"Flower passes strings, numbers and booleans to an app, found {type(value).__name__}")
