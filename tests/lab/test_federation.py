"""The harness itself: it waits, says what it waits for, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interplant.core.errors import InterplantError
from interplant.core.processes import is_alive
from interplant.lab import federation as module
from interplant.lab.federation import LocalFederation, free_port, last_line, local_federation, pss_mb

from ..waiting import until

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
FAMILY = (
    "import subprocess, sys, time; x = bytearray(30 << 20);"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; x = bytearray(30 << 20); "
    "print(1, flush=True); time.sleep(600)'], stdout=subprocess.PIPE); child.stdout.readline();"
    "print('ready', flush=True); time.sleep(600)"
)


def put(federation: LocalFederation, name: str, code: str = SLEEPER) -> "subprocess.Popen[bytes]":
    """Have some process take the place of a plant's."""
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    federation.children[name] = child
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    return child


def test_coordinator_and_plants_have_folders_of_their_own(tmp_path: Path) -> None:
    made = LocalFederation(tmp_path)
    assert made.coordinator.path == tmp_path / "coordinator"
    assert made.plant("north").path == tmp_path / "plants" / "north"
    assert made.log_of("north") == tmp_path / "logs" / "north.log"


def test_a_federation_is_made_as_it_was_asked_for(tmp_path: Path) -> None:
    made = LocalFederation(tmp_path)
    made.create("lab", lambda settings: setattr(settings.rounds, "quorum", 3))
    settings = made.coordinator.load()
    assert (settings.name, settings.rounds.quorum) == ("lab", 3)
    assert settings.listen == settings.address
    assert settings.listen.startswith("127.0.0.1:"), "loopback only"


def test_a_plants_file_is_changed_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = LocalFederation(tmp_path)
    plant = made.plant("north")
    plant.keys.mkdir(parents=True)
    plant.config.write_text("name: north\nfederation: lab\nconnection: {coordinator: '127.0.0.1:1'}\n")
    made.edit("north", lambda settings: setattr(settings.policy, "tasks", ["wear"]))
    assert plant.load().policy.tasks == ["wear"]
    assert plant.load().name == "north"


def test_waiting_in_vain_says_what_for_and_where_the_logs_are(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(InterplantError, match=rf"waited 0\.2 s for the moon; logs are in {tmp_path}/logs"):
        LocalFederation(tmp_path).until(lambda: False, 0.2, "the moon")
    assert time.monotonic() - begun >= 0.2


def test_a_child_that_ends_while_it_is_waited_for_is_told_with_its_last_words(tmp_path: Path) -> None:
    with local_federation(tmp_path) as made:
        made.log_of("north").parent.mkdir()
        made.log_of("north").write_text("first\nthe port is in use\n")
        put(made, "north", "pass").wait()
        with pytest.raises(InterplantError, match="north ended: the port is in use"):
            made.until(lambda: False, 60, "north", "north")


def test_everything_ends_whatever_happens(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with local_federation(tmp_path) as made:
            pids.extend(put(made, name).pid for name in ("coordinator", "north"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert not any(map(is_alive, pids))


KILLED = """
import os, signal, sys
from pathlib import Path
from interplant.lab.federation import LocalFederation
made = LocalFederation(Path(sys.argv[1]))
made.create("lab")
made.start_coordinator()
print(made.children["coordinator"].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.system
def test_nothing_is_left_of_a_killed_demo(tmp_path: Path) -> None:
    """Who started the servers cannot end them any more."""
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    until(lambda: not is_alive(int(done.stdout)))


def test_one_is_ended_politely_or_at_once(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); " + SLEEPER
    with local_federation(tmp_path) as made:
        polite, killed = put(made, "north", code), put(made, "south", code)
        made.stop("north")
        made.stop("south", kill=True)
        assert (polite.returncode, killed.returncode) == (0, -9)
        assert made.children == {}


def test_memory_counts_descendants_and_forgets_who_is_gone(tmp_path: Path) -> None:
    with local_federation(tmp_path) as made:
        put(made, "north", FAMILY)
        assert 60 < made.memory_mb() < 200
        (gone,) = [made.children["north"].pid]
    assert pss_mb(gone) == 0.0


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == "it said nothing"
    log.write_bytes(b"")
    assert last_line(log) == "it said nothing"
    log.write_bytes(b"one\ntwo \xff\n\n")
    assert last_line(log) == "two \ufffd"


def test_processes_are_the_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def start(command: list[str], log: Path, **_: object) -> object:
        started.append(command)
        log.write_text("")
        return subprocess.Popen([sys.executable, "-S", "-c", "pass"])

    monkeypatch.setattr(module.processes, "start", start)
    with local_federation(tmp_path) as made:
        made.start_plant("north")
        monkeypatch.setattr(module.control, "reload", lambda _: True)
        made.start_coordinator()
        monkeypatch.setattr(module.control, "online", lambda _: {"north": True, "south": False})
        made.until_online(["north"], 0.1)
        with pytest.raises(InterplantError, match="north, south to connect"):
            made.until_online(["south", "north"], 0.1)
    assert [words[3:5] for words in started] == [["plant", "serve"], ["coordinator", "serve"]]
    assert [words[-1] for words in started] == [str(made.plant("north").path), str(made.coordinator.path)]
    assert os.path.isabs(started[0][0])
