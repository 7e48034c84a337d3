"""Flower's own commands on one machine: how they are found, what they find around them, what they print.

Each process has a ``FLWR_HOME`` of its own, as on machines of their own (in a shared one, two that unpack
the same bundle at once trip over each other). That variable also marks whatever they start in turn, so
that nothing is left behind.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import write_atomic

Value = str | int | float | bool
"""What Flower's run and node configurations can hold."""

HOST: Final = "127.0.0.1"
BUNDLE: Final = "interplant-run"  # Flower takes letters, digits and hyphens, at most 32
# Flower's commands cannot ask for PR_SET_PDEATHSIG (1, with SIGTERM) themselves, so it is asked for
# just before they take over the process.
_FOLLOW: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def tool(name: str) -> str:
    """Return the path of one of Flower's commands, beside this interpreter."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise InterplantError(f"{path} is missing; install flwr beside this interpreter")
    return str(path)


def home(root: Path, name: str) -> Path:
    """Return a process's own ``FLWR_HOME``."""
    return root / "homes" / name


def environment(root: Path, name: str) -> dict[str, str]:
    """Return the variables of one process: a home of its own, no calls outside, no proxy."""
    own = home(root, name)
    own.mkdir(parents=True, exist_ok=True)
    bypass = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST]))
    changes = {
        "FLWR_HOME": str(own),
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


def toml(values: Mapping[str, Value]) -> str:
    """Return values as the lines of a TOML table."""
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
        toml({"name": BUNDLE, "version": version("interplant")}),
        "[tool.flwr.app]",
        toml({"publisher": "interplant"}),
        'fab-include = ["/README.md"]',
        "[tool.flwr.app.components]",
        toml({"serverapp": server_app, "clientapp": client_app}),
        "[tool.flwr.app.config]",
        toml(run_config),
    ]
    write_atomic(folder / "pyproject.toml", "\n".join(lines))


def spawn(root: Path, name: str, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a command that ends with this process, however that ends, but not on its Ctrl-C."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _FOLLOW, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(root, name),
            start_new_session=True,
        )


def flwr(root: Path, timeout: float, *words: str) -> dict[str, Any]:
    """Run a ``flwr`` command and return the JSON it prints.

    Args:
        root: The deployment's folder.
        timeout: Seconds it may take.
        words: What follows ``flwr``.

    Raises:
        TimeoutExpired: It gave no answer in time.
        InterplantError: It failed, and why.
    """
    done = subprocess.run(
        [tool("flwr"), *words, "--format", "json"],
        env=environment(root, "cli"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    # Most failures exit with 0 and say so in the JSON.
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success"):
        raise InterplantError(f"`flwr {words[0]}` failed: {_reason(answer.get('error-message', ''))}")
    return answer


def text(log: Path) -> str:
    """Return what a log holds, without colours; nothing if it is not there."""
    return _COLOUR.sub("", log.read_text(errors="replace")) if log.exists() else ""


def started_under(root: Path) -> list[psutil.Process]:
    """Find the live processes whose ``FLWR_HOME`` lies in the deployment's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # somebody else's process, or one that has just ended
            if process.environ().get("FLWR_HOME", "").startswith(f"{root}{os.sep}"):
                found.append(process)
    return found


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


def _reason(message: str) -> str:
    """Put Flower's words on one line, without what it tells of its progress."""
    lines = [line.strip() for line in _COLOUR.sub("", message).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Using SuperLink"))
