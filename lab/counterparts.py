"""Real counterparts of a plant's sources, for tests and benchmarks: a broker and a database on loopback.

They are the distribution's own programs. Each has a folder of its own and ends with its block.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from interplant.core import certificates, processes
from interplant.core.errors import InterplantError
from interplant.core.files import write_atomic
from interplant.lab.federation import free_port

_SECONDS = 30.0
"""That a counterpart may take to start or to end."""


@dataclass
class Broker:
    """A mosquitto with persistence, one user, a plain port and one with TLS.

    Args:
        folder: Its own: configuration, passwords, sessions; ``ca.pem`` is to be trusted.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    username: str = "line"
    password: str = "not-a-secret"  # noqa: S105 - of a broker on loopback that lives for a test
    _child: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, with the sessions and messages that it had when it was stopped."""
        command = [program("mosquitto"), "-c", str(self.folder / "mosquitto.conf")]
        self._child = processes.start(
            command, self.folder / "log", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        until_listens(self._child, self.port, self.folder / "log")

    def stop(self) -> None:
        """Stop it politely: it saves its sessions."""
        if self._child:
            processes.stop(self._child)
            self._child = None

    def prepare(self) -> None:
        """Write its files."""
        authority = certificates.make_authority("counterparts")
        key = certificates.make_key()
        issued = certificates.issue(
            authority, key.public_key(), "server", "broker", lifetime=timedelta(days=1), hosts=["127.0.0.1"]
        )
        write_atomic(self.folder / "ca.pem", authority.pem)
        write_atomic(self.folder / "broker.pem", issued)
        write_atomic(self.folder / "broker.key", certificates.key_pem(key), 0o600)
        passwords = self.folder / "passwords"
        subprocess.run(
            [program("mosquitto_passwd"), "-b", "-c", str(passwords), self.username, self.password],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"listener {self.tls_port} 127.0.0.1",
            f"certfile {self.folder}/broker.pem",
            f"keyfile {self.folder}/broker.key",
            "allow_anonymous false",
            f"password_file {passwords}",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_inflight_messages 1000",
            "max_queued_messages 0",
            f"user {pwd.getpwuid(os.getuid()).pw_name}",
        ]
        write_atomic(self.folder / "mosquitto.conf", "\n".join(lines) + "\n")


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Run a broker from ``folder``.

    Raises:
        InterplantError: mosquitto is not installed.
    """
    made = Broker(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Database:
    """A PostgreSQL cluster.

    Args:
        folder: Its own.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = "not-a-secret"  # noqa: S105 - of a cluster on loopback that lives for a test
    _child: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """For SQLAlchemy, through pg8000."""
        return f"postgresql+pg8000://line:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it; after a kill it recovers first."""
        command = [program("postgres"), "-D", str(self.folder / "cluster"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self._child = processes.start(
            command, self.folder / "log", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **_as_user()
        )
        until_listens(self._child, self.port, self.folder / "log", _answers)

    def kill(self) -> None:
        """End it at once: connections break, nothing is tidied up."""
        if self._child:
            self._child.send_signal(signal.SIGQUIT)
            self._child.wait(_SECONDS)
            self._child = None

    def prepare(self) -> None:
        """Make the cluster."""
        secret = self.folder / "password"
        write_atomic(secret, self.password)
        command = [program("initdb"), "-D", str(self.folder / "cluster"), "-U", "line", "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        if user := _as_user().get("user"):
            shutil.chown(self.folder, user)
            shutil.chown(secret, user)
        done = subprocess.run(
            command, check=False, capture_output=True, stdin=subprocess.DEVNULL, text=True, **_as_user()
        )
        if done.returncode:
            raise InterplantError(f"initdb failed: {done.stderr.strip()}")


@contextmanager
def database() -> Iterator[Database]:
    """Run a PostgreSQL from a scratch folder, which is gone at the end.

    Raises:
        InterplantError: PostgreSQL is not installed.
    """
    # Not below a test's own folder: PostgreSQL runs as another user than root, who could not enter it.
    with tempfile.TemporaryDirectory(prefix="interplant-postgres-") as scratch:
        made = Database(Path(scratch))
        made.prepare()
        made.start()
        try:
            yield made
        finally:
            made.kill()


@dataclass
class OpcServer:
    """An OPC UA server with history, as a process; see `opcua_server`.

    Args:
        folder: Its own; ``server.der`` is to be trusted.
        nodes: How many.
        hertz: Values a second of each.
        most: Values of each after which nothing is new.
        epoch: Time of the first ones, in seconds since 1970.
    """

    folder: Path
    nodes: int
    hertz: float
    most: int
    epoch: float = field(default_factory=time.time)
    port: int = field(default_factory=free_port)
    _child: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"opc.tcp://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it; its clock has gone on. It ends with the thread that starts it."""
        numbers = [str(number) for number in (self.port, self.nodes, self.hertz, self.epoch, self.most)]
        command = processes.python_module("interplant.lab.opcua_server", str(self.folder), *numbers)
        self._child = processes.start(command, self.folder / "log", stdin=subprocess.DEVNULL)
        until_listens(self._child, self.port, self.folder / "log")

    def stop(self) -> None:
        """Stop it politely."""
        if self._child:
            processes.stop(self._child)
            self._child = None


@contextmanager
def opc_server(folder: Path, nodes: int, hertz: float, most: int) -> Iterator[OpcServer]:
    """Run an OPC UA server from ``folder``; see `OpcServer`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = OpcServer(folder, nodes, hertz, most)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def program(name: str) -> str:
    """Find a program of the distribution's.

    Raises:
        InterplantError: It is not installed.
    """
    places = [
        os.environ.get("PATH", ""),
        "/usr/sbin",
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))),
    ]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        package = "mosquitto" if name.startswith("mosquitto") else "postgresql"
        raise InterplantError(
            f"expected the program {name}, found none; install the distribution's package, such as "
            f"`apt-get install {package}`"
        )
    return found


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(port: int) -> bool:
    """Whether a PostgreSQL answers there: it listens before."""
    ready = [program("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    return subprocess.run(ready, check=False, stdin=subprocess.DEVNULL).returncode == 0


def until_listens(
    child: "subprocess.Popen[bytes]", port: int, log_file: Path, ready: Callable[[int], bool] = listens
) -> None:
    """Wait until a child listens on its port.

    Args:
        child: The process.
        port: Its port.
        log_file: Where its last words are.
        ready: Tells whether it does.

    Raises:
        InterplantError: It ended instead, or did not within some seconds.
    """
    end = time.monotonic() + _SECONDS
    while not ready(port):
        if child.poll() is not None or time.monotonic() >= end:
            last = log_file.read_text(errors="replace").strip().splitlines()[-1:]
            raise InterplantError(f"{child.args!r} does not listen on port {port}: {last}; see {log_file}")
        time.sleep(0.02)


def _as_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.getuid():
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_name, "group": owner.pw_gid, "extra_groups": []}
