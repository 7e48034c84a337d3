"""The ``flower`` engine on one machine: Flower's own SuperLink, SuperNodes and ``flwr run``.

Nothing of Flower is changed or reached into: its commands are started as processes, with TLS and
SuperNode authentication on, and are handed a bundle that only names installed modules.
"""

import http.client
import re
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psutil
from cryptography.hazmat.primitives import serialization

from interplant.core import certificates, processes
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic
from interplant.lab import flower_commands
from interplant.lab.flower_commands import HOST, Value, tool

_GRACE: Final = 5.0
_COMMAND_TIME: Final = 60.0
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
        log = flower_commands.text(deployment.logs / "run.log")
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
    link, *nodes = flower_commands.free_ports(1 + len(plants), port)
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
    bundle = deployment.root / flower_commands.BUNDLE
    flower_commands.write_bundle(bundle, server_app, client_app, run_config)
    return str(_flwr(deployment, "run", str(bundle))["run-id"])


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
    child = flower_commands.spawn(deployment.root, "cli", [tool("flwr"), "log", run_id, "--stream"], path)
    try:
        while child.poll() is None:
            _check_alive(deployment)
            _check_time(deployment, "finish the run")
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
    finally:
        processes.stop(child, _GRACE)


def _check_plants(plants: Mapping[str, Mapping[str, Value]]) -> None:
    wrong = [name for name in plants if not certificates.is_valid_name(name)]
    if wrong or not plants:
        raise UsageError(
            "the flower engine needs at least one plant, each named with letters, digits and "
            f"hyphens; found {', '.join(map(repr, wrong)) or 'none'}"
        )


# --- starting --------------------------------------------------------------------------------------


def _start_superlink(deployment: Deployment, port: int) -> None:
    tls = deployment.tls
    connection = {"address": deployment.address, "root-certificates": str(tls.ca.resolve())}
    config = f'[superlink]\ndefault = "here"\n[superlink.here]\n{flower_commands.toml(connection)}'
    write_atomic(flower_commands.home(deployment.root, "cli") / "config.toml", config)
    words = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    words += ["--ssl-ca-certfile", str(tls.ca), "--ssl-certfile", str(tls.cert)]
    words += ["--ssl-keyfile", str(tls.key), "--host", HOST, "--port", str(port)]
    _start(deployment, "superlink", [tool("flower-superlink"), *words])
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
    write_atomic(folder / "node.toml", flower_commands.toml(config))
    _flwr(deployment, "supernode", "register", str(folder / "node.pub"), "--name", name)
    words = ["--superlink", deployment.address, "--root-certificates", str(deployment.tls.ca)]
    words += ["--auth-supernode-private-key", str(folder / "node")]
    words += ["--host", HOST, "--port", str(port), "--node-config", str(folder / "node.toml")]
    _start(deployment, f"supernode-{name}", [tool("flower-supernode"), *words])


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
    child = flower_commands.spawn(deployment.root, name, command, log)
    deployment.services.append(_Service(name, child, log))


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
    lines = flower_commands.text(log).splitlines()
    telling = [line for line in lines if not _CHATTER.match(line)]
    return (telling or lines or ["(nothing)"])[-1].strip()


def _stop(deployment: Deployment) -> None:
    """Stop the SuperNodes (they sign off), then the SuperLink, then what these have left."""
    for service in deployment.services[1:]:
        service.child.terminate()
    for service in reversed(deployment.services):
        processes.stop(service.child, _GRACE)
    left = flower_commands.started_under(deployment.root)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, _GRACE)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _flwr(deployment: Deployment, *words: str) -> dict[str, Any]:
    """Run a ``flwr`` command within the time that is left; return the JSON it prints."""
    left = max(1.0, min(_COMMAND_TIME, deployment.deadline - time.monotonic()))
    try:
        return flower_commands.flwr(deployment.root, left, *words)
    except subprocess.TimeoutExpired:
        _check_time(deployment, f"hear from `flwr {words[0]}`")
        raise InterplantError(
            f"`flwr {words[0]}` gave no answer within {left:.0f} s; see the logs in {deployment.logs}"
        ) from None
