"""`coordinator serve` as a person meets it: real processes."""

import os
import signal
import socket
import threading

import psutil
import pytest

from interplant.core import config
from interplant.core.automation_config import Automation
from interplant.core.errors import InterplantError, UsageError
from interplant.server import control, coordinator
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

from ..waiting import catches, until


def children(module):
    found = []
    for child in psutil.Process().children():
        try:
            if module in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def at_work(directory):
    """Whether both processes have read their files: the round loop hears a polite end from then on."""
    loops = children("interplant.server.runner")
    return control.reload(directory) and any(catches(loop.pid, signal.SIGTERM) for loop in loops)


@pytest.fixture
def served():
    """Serve in a thread; what it returned or raised is kept."""
    stopping, threads, ends = threading.Event(), [], []

    def serve(directory):
        def run():
            try:
                ends.append(coordinator.serve(directory, stopping))
            except InterplantError as error:
                ends.append(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return stopping, threads[-1], ends

    yield serve
    stopping.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not children("interplant.server.service")
    assert not children("interplant.server.runner")
    assert not children("interplant.server.automation")


def test_what_dies_is_restarted_and_a_stop_ends_everything(coordinator_directory, served):
    stopping, thread, ends = served(coordinator_directory)
    until(lambda: at_work(coordinator_directory))
    for module in ("interplant.server.service", "interplant.server.runner"):
        (child,) = children(module)
        os.kill(child.pid, signal.SIGKILL)
        until(
            lambda child=child, module=module: [one.pid for one in children(module)] not in ([], [child.pid])
        )
    until(lambda: control.reload(coordinator_directory))
    with pytest.raises(InterplantError, match="a coordinator is already running from"):
        coordinator.serve(coordinator_directory, threading.Event())
    assert control.reload(coordinator_directory)  # the first one did not suffer
    stopping.set()
    thread.join(30)
    assert ends == [0]
    assert not control.reload(coordinator_directory)


def test_an_automation_that_comes_while_it_serves_is_started(coordinator_directory, served, caplog):
    served(coordinator_directory)
    until(lambda: at_work(coordinator_directory))
    settings = coordinator_directory.load()
    coordinator_directory.config.write_text("whim: 1\n")
    until(lambda: "until that is mended" in caplog.text)
    assert not children("interplant.server.automation")
    settings.automation = [Automation(task="turbofan")]
    coordinator_directory.config.write_text(config.to_yaml(settings))
    until(lambda: children("interplant.server.automation"))
    registry = Registry.open(coordinator_directory)
    until(lambda: registry.events("turbofan"))
    registry.close()


def test_a_file_that_is_spoilt_while_it_serves_is_waited_for(coordinator_directory, served, caplog):
    """The gRPC process dies just then: it comes back once the file is mended."""
    _, _, ends = served(coordinator_directory)
    until(lambda: at_work(coordinator_directory))
    whole = coordinator_directory.config.read_bytes()
    coordinator_directory.config.write_text("whim: 1\n")
    (child,) = children("interplant.server.service")
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: "gRPC server ended" in caplog.text.partition("signal SIGKILL")[2])
    assert "whim" in caplog.text.partition("signal SIGKILL")[2]
    coordinator_directory.config.write_bytes(whole)
    until(lambda: control.reload(coordinator_directory))
    assert ends == []


def test_a_port_in_use_ends_it_with_one_sentence(coordinator_directory, served):
    host, _, port = coordinator_directory.load().listen.rpartition(":")
    with socket.create_server((host, int(port))):
        _, thread, ends = served(coordinator_directory)
        thread.join(40)
    (error,) = ends
    assert isinstance(error, InterplantError)
    assert str(error).startswith(f"{host}:{port}: cannot listen there; the port is in use")
    assert "\n" not in str(error)


def test_a_directory_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="expected a coordinator directory"):
        coordinator.serve(CoordinatorDirectory(tmp_path), threading.Event())
    assert list(tmp_path.iterdir()) == []


def test_the_servers_own_certificate_is_renewed_in_time(coordinator_directory, monkeypatch):
    monkeypatch.setattr(coordinator, "_RENEW_EVERY", 0.0)
    asked = []
    monkeypatch.setattr(
        coordinator.Authority, "ensure_server_certificate", lambda self: asked.append(0) or len(asked) > 2
    )
    tick = coordinator._chores(coordinator_directory)
    assert len(asked) == 1  # before it serves
    tick()
    tick()
    assert len(asked) == 3


@pytest.fixture
def coordinator_directory(request):
    return request.getfixturevalue("coordinator")
