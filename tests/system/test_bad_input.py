"""What a person or a machine can get wrong: one line, an exit code, nothing left.

What starts something, and what is interrupted, is tried with the real command. A refusal that comes before
anything is started is `called` in this process, which says the same and takes no second each.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import yaml

from interplant.cli.commands import call
from interplant.cli.main import exit_code
from interplant.client.directory import PlantDirectory
from interplant.core import certificates, logs, processes, signing
from interplant.core.certificates import utc_now
from interplant.core.release import CARD, LINEAGE, ONNX, TASK, WEIGHTS
from interplant.core.wire import PROTOCOL
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server import control
from interplant.server.authority import Authority
from interplant.server.packaging import package

from ..waiting import catches

pytestmark = pytest.mark.system

SECONDS = 60.0
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (INFO|WARNING) ")

CHANGED = """
import runpy, sys
from interplant.core import processes, wire
{change}
processes.python_module = lambda module, *words: [sys.executable, __file__, module, *words]
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a command, and the processes it starts, with something about them changed."""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("interplant: ")
        return lines[0]


def start(
    *words: str | Path, module: list[str] | None = None, folder: Path | None = None
) -> subprocess.Popen[str]:
    """Start a command in a session of its own, with Ctrl-C ignored until the command itself listens."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(
            [*(module or [sys.executable, "-m"]), "interplant.cli.main", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def finish(child: subprocess.Popen[str]) -> Done:
    try:
        out, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        raise AssertionError(f"it did not end; it said {err!r}") from None
    assert "Traceback" not in err
    return Done(child.returncode, out, err)


def command(*words: str | Path, module: list[str] | None = None, folder: Path | None = None) -> Done:
    return finish(start(*words, module=module, folder=folder))


Called = Callable[..., Done]


@pytest.fixture
def called(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Called:
    """Call a command in this process, whose signals and logs stay its own."""
    monkeypatch.setattr(logs, "setup", lambda: None)
    monkeypatch.setattr(processes, "on_stop_signals", lambda _: None)

    def run(*words: str | Path) -> Done:
        capfd.readouterr()
        code = exit_code(lambda: call([*map(str, words)]))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


def left_behind(path: Path) -> list[str]:
    """Command lines of processes that have to do with ``path``."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(str(path) in word for word in words):
                found.append(" ".join(words))
    return found


def hidden_parts(path: Path) -> list[Path]:
    return [found for found in path.rglob(".*.part*") if found.exists()]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    """A federation that nobody serves yet; whatever a test leaves running is its failure."""
    with local_federation(tmp_path / "f") as made:
        made.create("acme")
        yield made
    assert left_behind(tmp_path) == []


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A federation whose coordinator serves, for all tests of this module; see `newcomer`."""
    path = tmp_path_factory.mktemp("serving")
    with local_federation(path / "f") as made:
        made.create("acme")
        made.start_coordinator()
        yield made
    assert left_behind(path) == []


NUMBERS = itertools.count(1)


@pytest.fixture
def newcomer(serving: LocalFederation) -> PlantDirectory:
    """A plant that has joined the federation that is `serving`."""
    plant = joined(serving, f"plant-{next(NUMBERS)}")
    assert control.reload(serving.coordinator)
    return plant


def joined(federation: LocalFederation, name: str = "north") -> PlantDirectory:
    """A plant of a federation, without the network between."""
    from interplant.client import setup

    authority = Authority.open(federation.coordinator)
    file = federation.path / f"{name}.join"
    file.write_text(authority.invite(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            setup,
            "enrol",
            lambda join, asked: authority.accept(certificates.identity(join.certificate), asked),
        )
        return setup.join_plant(file, federation.plant(name).path)


def put(path: Path, key: str, value: object) -> int:
    """Set a dotted key of a YAML file; return the line on which its last part then stands."""
    content = yaml.safe_load(path.read_text())
    place, *rest = content, *key.split(".")
    for part in rest[:-1]:
        place = place[part]
    place[rest[-1]] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    indent = "  " * (len(rest) - 1)
    lines = path.read_text().splitlines()
    within = lines.index(f"{rest[0]}:") + 1 if len(rest) > 1 else 0
    return next(
        at for at, line in enumerate(lines, 1) if at > within and line.startswith(f"{indent}{rest[-1]}:")
    )


# --- a wrong key, type or value in any YAML --------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("policy.privcy", {"epsilon": 1.0}, "unknown key 'privcy'"),
        ("policy.privacy.epsilon", "much", "much"),
        ("policy.privacy.epsilon", -1.0, "expected more than 0, found -1.0"),
        ("trainer.threads", 0, "expected 1 or more"),
    ],
)
def test_a_mistake_in_plant_yaml(
    federation: LocalFederation, called: Called, key: str, value: object, expected: str
) -> None:
    plant = joined(federation)
    line = put(plant.config, key, value)
    before = sorted(plant.path.iterdir())
    done = called("plant", "serve", "--dir", plant.path)
    assert done.code == 2
    assert done.line.startswith(f"interplant: {plant.config}:{line}: {key}: ")
    assert expected in done.line
    assert sorted(plant.path.iterdir()) == before


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("quorum", 2, "unknown key 'quorum'"),
        ("rounds.quorum", "two", "two"),
        ("rounds.quorum", 0, "expected 1 or more, found 0"),
        ("listen", "7443", "expected host:port, found '7443'"),
    ],
)
def test_a_mistake_in_federation_yaml(
    federation: LocalFederation, called: Called, key: str, value: object, expected: str
) -> None:
    config = federation.coordinator.config
    line = put(config, key, value)
    before = sorted(federation.coordinator.path.iterdir())
    done = called("coordinator", "serve", "--dir", federation.coordinator.path)
    assert done.code == 2
    assert done.line.startswith(f"interplant: {config}:{line}: {key}: ")
    assert expected in done.line
    assert sorted(federation.coordinator.path.iterdir()) == before


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.stepps", 5, "unknown key 'stepps'"),
        ("training.steps", "many", "many"),
        ("training.steps", 0, "expected 1 or more, found 0"),
        ("privacy.unit", "plant", "expected one of row, window, unit"),
    ],
)
def test_a_mistake_in_task_yaml(
    federation: LocalFederation, called: Called, tmp_path: Path, key: str, value: object, expected: str
) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(builtin("turbofan").read_text())
    line = put(task, key, value)
    done = called("run", "start", task, "--dir", federation.coordinator.path)
    assert done.code == 2
    assert done.line.startswith(f"interplant: {task}:{line}: {key}: ")
    assert expected in done.line
    assert federation.registry.runs() == []
    assert list(federation.coordinator.runs.iterdir()) == []


def test_a_mistake_as_a_person_meets_it(federation: LocalFederation, tmp_path: Path) -> None:
    """The three files again, with the real command."""
    plant, coordinator, task = joined(federation), federation.coordinator, tmp_path / "task.yaml"
    task.write_text(builtin("turbofan").read_text())
    for file, words in {
        plant.config: ["plant", "serve", "--dir", plant.path],
        task: ["run", "start", task, "--dir", coordinator.path],
        coordinator.config: ["coordinator", "serve", "--dir", coordinator.path],
    }.items():
        line = put(file, "nmae", "x")
        done = command(*words)
        assert done.code == 2
        assert done.line.startswith(f"interplant: {file}:{line}: nmae: unknown key")
        assert done.out == ""


def test_words_that_are_wrong(federation: LocalFederation, called: Called) -> None:
    where = ["--dir", str(federation.coordinator.path)]
    for words, expected in {
        ("run", "start"): "Missing argument 'TASK'",
        ("run", "start", "turbofan", "--fast"): "No such option",
        ("run", "start", "turbofan", "training.steps"): "expected key=value",
        ("run", "start", "turbofan", "training.stepps=3"): "unknown key",
        ("run", "start", "gearbox"): "expected one of turbofan",
        ("run", "start", "turbofan", "--start-from", "none"): "not in",
        ("coordinator", "enrol", "a b"): "letters, digits and hyphens",
    }.items():
        done = called(*words, *where)
        assert done.code == 2, words
        assert expected in done.line
    assert federation.registry.runs() == []


# --- ports, join files, certificates, clocks -------------------------------------------------------


def test_a_second_coordinator_or_plant_from_the_same_directory(
    serving: LocalFederation, newcomer: PlantDirectory
) -> None:
    name = newcomer.load().name
    serving.start_plant(name)
    serving.until_online([name])
    for words in (
        ["coordinator", "serve", "--dir", serving.coordinator.path],
        ["plant", "serve", "--dir", newcomer.path],
    ):
        done = command(*words)
        assert done.code == 1
        assert "is already running" in done.line
    serving.stop(name)


def test_an_expired_join_file(federation: LocalFederation, called: Called, tmp_path: Path) -> None:
    file = tmp_path / "old.join"
    file.write_text(Authority.open(federation.coordinator).invite("north", 1, utc_now() - timedelta(hours=3)))
    done = called("plant", "join", file, "--dir", tmp_path / "p")
    assert done.code == 2
    assert f"{file}: this join file expired on" in done.line
    assert "interplant coordinator enrol north" in done.line
    assert not (tmp_path / "p").exists()
    assert hidden_parts(tmp_path) == []


def test_what_is_no_join_file(called: Called, tmp_path: Path) -> None:
    (tmp_path / "x.join").write_text("hello: 1\n")
    for name, expected in {
        "x.join": "expected a join file",
        "none.join": "No such file",
        ".": "directory",
    }.items():
        done = called("plant", "join", tmp_path / name, "--dir", tmp_path / "p")
        assert done.code == 2
        assert expected in done.line
        assert not (tmp_path / "p").exists()


def test_a_join_file_that_somebody_else_has_used(serving: LocalFederation, tmp_path: Path) -> None:
    file = tmp_path / "used.join"
    file.write_text(Authority.open(serving.coordinator).invite("used"))
    assert command("plant", "join", file, "--dir", tmp_path / "mine").code == 0
    done = command("plant", "join", file, "--dir", tmp_path / "other")
    assert done.code == 1
    assert "the join file for used was used on" in done.line
    assert "ask for a new one" in done.line
    assert not (tmp_path / "other").exists()
    assert hidden_parts(tmp_path) == []


def test_a_coordinator_that_is_not_there(federation: LocalFederation, tmp_path: Path) -> None:
    file = tmp_path / "north.join"
    file.write_text(Authority.open(federation.coordinator).invite("north"))
    done = command("plant", "join", file, "--dir", tmp_path / "p")
    assert done.code == 1
    assert "the coordinator does not answer there; is it running?" in done.line
    assert not (tmp_path / "p").exists()


def test_a_certificate_of_another_federation_in_the_plants_directory(
    federation: LocalFederation, called: Called, tmp_path: Path
) -> None:
    with local_federation(tmp_path / "g") as other:
        other.create("rival")
        theirs = joined(other)
    plant = joined(federation)
    shutil.copy(theirs.plant_certificate, plant.plant_certificate)
    done = called("plant", "serve", "--dir", plant.path)
    assert done.code == 1
    assert "the certificate is not from this federation's authority" in done.line
    assert "ask the coordinator's operator for a new join file" in done.line


def test_a_certificate_that_belongs_to_another_plant(federation: LocalFederation, called: Called) -> None:
    plant, south = joined(federation), joined(federation, "south")
    shutil.copy(south.plant_certificate, plant.plant_certificate)
    done = called("plant", "serve", "--dir", plant.path)
    assert done.code == 1
    assert "the certificate belongs to another key" in done.line
    shutil.copy(south.plant_key, plant.plant_key)
    done = called("plant", "serve", "--dir", plant.path)
    assert done.code == 1
    assert "expected the certificate of plant north, found that of plant south" in done.line


def test_a_servers_certificate_that_belongs_to_another_key(
    federation: LocalFederation, called: Called
) -> None:
    keys = federation.coordinator
    keys.server_key.write_bytes(certificates.key_pem(certificates.make_key()))
    done = called("coordinator", "serve", "--dir", keys.path)
    assert done.code == 1
    assert f"{keys.server_certificate}: the certificate belongs to another key" in done.line


def test_a_plant_that_dials_another_federations_coordinator(
    serving: LocalFederation, called: Called, tmp_path: Path
) -> None:
    """It says so once, and goes on trying: an address or a server's certificate can be mended there."""
    log = serving.log_of("coordinator").read_text()
    with local_federation(tmp_path / "g") as other:
        other.create("rival")
        lost = joined(other)
    put(lost.config, "connection.coordinator", serving.coordinator.load().address)
    put(lost.config, "connection.backoff_max_seconds", 0.5)
    child = start("plant", "serve", "--dir", lost.path)
    status = until(lambda: called("plant", "status", "--dir", lost.path, "--json").out, "not the coordinator")
    assert json.loads(status)["connection"]["state"] == "away"
    time.sleep(2)  # it tries again, and says nothing
    interrupt(child)
    done = finish(child)
    assert done.code == 0
    assert len(done.err.splitlines()) == 1
    assert "this is not the coordinator that the plant joined" in done.err
    assert serving.log_of("coordinator").read_text() == log
    assert left_behind(tmp_path) == []


def certificate_from(
    federation: LocalFederation, plant: PlantDirectory, ago: timedelta, hours: float
) -> None:
    """Give the plant a certificate that was issued at another time."""
    issuer = Authority.open(federation.coordinator).issuer
    key = certificates.read_key(plant.plant_key).public_key()
    pem = certificates.issue(
        issuer, key, "plant", "north", lifetime=timedelta(hours=hours), now=utc_now() - ago
    )
    plant.plant_certificate.write_bytes(pem)


@pytest.mark.parametrize(
    ("ago", "hours"), [(timedelta(hours=3), 1.0), (timedelta(hours=-3), 9.0)], ids=["ahead", "behind"]
)
def test_a_clock_outside_the_certificates_time(
    federation: LocalFederation, called: Called, ago: timedelta, hours: float
) -> None:
    plant = joined(federation)
    certificate_from(federation, plant, ago, hours)
    done = called("plant", "serve", "--dir", plant.path)
    assert done.code == 1
    assert "the clock of this machine says" in done.line
    assert "set the clock or ask the coordinator's operator for a new join file" in done.line


def test_a_join_file_from_the_future(federation: LocalFederation, called: Called, tmp_path: Path) -> None:
    file = tmp_path / "north.join"
    file.write_text(Authority.open(federation.coordinator).invite("north", 4, utc_now() + timedelta(hours=2)))
    done = called("plant", "join", file, "--dir", tmp_path / "p")
    assert done.code == 2
    assert "the clock of this machine says" in done.line
    assert not (tmp_path / "p").exists()


def changed(folder: Path, change: str) -> list[str]:
    """The words that run a command with ``change`` carried out first."""
    script = folder / "changed.py"
    script.write_text(CHANGED.format(change=change))
    return [sys.executable, str(script)]


def test_a_plants_clock_that_differs_from_the_coordinators(
    newcomer: PlantDirectory, called: Called, tmp_path: Path
) -> None:
    shift = "import time; real = time.time; time.time = lambda: real() + 900"
    done = command("plant", "serve", "--dir", newcomer.path, module=changed(tmp_path, shift))
    assert done.code == 1
    assert re.search("(899|900|901) s ahead of", done.line)
    assert "set the clock of the machine that is wrong" in done.line
    state = json.loads(called("plant", "status", "--dir", newcomer.path, "--json").out)["connection"]
    assert state["state"] == "turned away"


# --- protocol ---------------------------------------------------------------------------------------


def test_a_plant_of_another_protocol(
    serving: LocalFederation, newcomer: PlantDirectory, tmp_path: Path
) -> None:
    older = changed(tmp_path, "wire.PROTOCOL = '0'")
    done = command("plant", "serve", "--dir", newcomer.path, module=older)
    assert done.code == 1
    assert f"the coordinator speaks protocol {PROTOCOL}, the plant 0: install the same version" in done.line
    file = tmp_path / "south.join"
    file.write_text(Authority.open(serving.coordinator).invite("south"))
    done = command("plant", "join", file, "--dir", tmp_path / "south", module=older)
    assert done.code == 1
    assert f"the coordinator speaks protocol {PROTOCOL}, the plant 0" in done.line
    assert not (tmp_path / "south").exists()
    assert hidden_parts(tmp_path) == []
    assert command("plant", "join", file, "--dir", tmp_path / "south").code == 0


def test_a_coordinator_of_another_protocol(
    federation: LocalFederation, called: Called, tmp_path: Path
) -> None:
    plant = joined(federation)
    newer = changed(tmp_path, "wire.PROTOCOL = 'newer'")
    coordinator = start("coordinator", "serve", "--dir", federation.coordinator.path, module=newer)
    until(lambda: called("coordinator", "status", "--dir", federation.coordinator.path).out, "is serving")
    done = command("plant", "serve", "--dir", plant.path)
    assert done.code == 1
    said = f"the coordinator speaks protocol newer, the plant {PROTOCOL}: install the same version"
    assert said in done.line
    interrupt(coordinator)
    assert finish(coordinator).code == 0


# --- a full disk ------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Callable[..., Done]]:
    """A disk that is soon full, and how to run a command that sees it.

    A memory disk of its own where that may be mounted, as here or in a user namespace of the
    command's own; files of a limited size where not.
    """
    path.mkdir()
    options = f"size={kilobytes}k"
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=False, capture_output=True
        ).returncode
        == 0
    ):
        try:
            yield command
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        return
    script = path.with_suffix(".py")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes << 10},) * 2)"
    script.write_text(CHANGED.format(change=limit))
    yield lambda *words: command(*words, module=[sys.executable, str(script)])


def test_a_full_disk_while_a_federation_is_made(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20) as run:
        done = run("coordinator", "init", "acme", "--dir", tmp_path / "disk" / "c")
        assert done.code == 1
        # SQLite calls a file that may not grow an I/O error.
        assert re.search("disk is full|disk I/O error; check the disk", done.line)
        assert not (tmp_path / "disk" / "c").exists()
        assert hidden_parts(tmp_path) == []


def test_a_full_disk_while_a_join_file_is_written(federation: LocalFederation, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as run:
        out = tmp_path / "disk" / "north.join"
        with contextlib.suppress(OSError):
            (tmp_path / "disk" / "fill").write_bytes(bytes(1 << 14))
        done = run("coordinator", "enrol", "north", "--dir", federation.coordinator.path, "--out", out)
        assert done.code == 1
        assert "full" in done.line
        assert not out.exists()
        assert hidden_parts(tmp_path / "disk") == []


def test_a_full_disk_while_a_snapshot_is_made(
    federation: LocalFederation, called: Called, tmp_path: Path
) -> None:
    plant = joined(federation)
    with small_disk(tmp_path / "disk", 600) as run:
        shutil.move(plant.path, tmp_path / "disk" / "north")
        there = tmp_path / "disk" / "north"
        before = called("data", "log", "--dir", there, "--json").out
        done = run("data", "snapshot", "--dir", there, "--simulate", "0", "--machines", "60")
        assert done.code == 1
        assert "full" in done.line
        assert called("data", "log", "--dir", there, "--json").out == before == "[]\n"


# --- data -------------------------------------------------------------------------------------------


def test_readings_with_a_missing_column(federation: LocalFederation, called: Called, tmp_path: Path) -> None:
    plant = joined(federation)
    dataset = simulate(0, 2, 0)
    folder = tmp_path / "export"
    folder.mkdir()
    dataset.train.drop(columns=["s11"]).to_csv(folder / "train.csv", index=False)
    dataset.holdout.to_parquet(folder / "holdout.parquet")
    for words in (["data", "check", folder], ["data", "snapshot", "--dir", plant.path, "--from", folder]):
        done = called(*words)
        assert done.code == 2
        assert "column 's11': expected by the contract, not in the data" in done.line
        assert "train" in done.line
    assert Repository(plant.data).log() == []
    dataset.train.to_csv(folder / "train.csv", index=False)
    dataset.holdout.drop(columns=["rul"]).to_parquet(folder / "holdout.parquet")
    done = called("data", "snapshot", "--dir", plant.path, "--from", folder)
    assert done.code == 2
    assert "holdout: column 'rul'" in done.line
    (folder / "train.csv").unlink()
    done = called("data", "snapshot", "--dir", plant.path, "--from", folder)
    assert done.code == 2
    assert "expected train.parquet or train.csv here" in done.line


# --- releases ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed release with a real model, and its public key beside it."""
    folder = tmp_path_factory.mktemp("release")
    key = signing.make_key()
    (folder / "release.key").write_bytes(signing.key_pem(key))
    (folder / "release.pub").write_bytes(signing.public_pem(key.public_key()))
    from safetensors.numpy import save_file

    from interplant.core import config, models
    from interplant.core.release import Lineage, Participant, task_digest
    from interplant.core.schema import Task
    from interplant.server.packaging import PackageOrder

    task = config.load(builtin("turbofan"), Task)
    save_file(models.parameters(models.build(task)), folder / "merged.safetensors")
    plant = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", 0.7, 1e-5, True)
    lineage = Lineage(
        "turbofan-1", "run-1", task.name, task_digest(task), "0.1.0", "1", None, "2026-01-01T12:00:00+00:00",
        3, "grpc", True, True, (plant,),
    )  # fmt: skip
    order = PackageOrder(folder / "merged.safetensors", task, lineage, folder / "release.key")
    return package(order, folder / "turbofan-1").folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", [WEIGHTS, ONNX, TASK, LINEAGE, CARD, signing.MANIFEST, signing.SIGNATURE])
def test_a_release_with_one_bit_changed(release: Path, called: Called, tmp_path: Path, name: str) -> None:
    copy = tmp_path / release.name
    shutil.copytree(release, copy)
    key = release.parent / "release.pub"
    flip(copy / name)
    done = called("release", "verify", copy, "--key", key)
    assert done.code == 1
    assert "do not use it" in done.line
    assert done.out == ""


def test_a_release_that_is_whole_and_others_that_are_not(
    release: Path, called: Called, tmp_path: Path
) -> None:
    key = release.parent / "release.pub"
    done = called("release", "verify", release, "--key", key, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["signature_verified"] is True
    copy = tmp_path / release.name
    shutil.copytree(release, copy)
    (copy / "more.txt").write_text("hello")
    assert "'more.txt' is not listed in the release" in called("release", "verify", copy, "--key", key).line
    (copy / "more.txt").unlink()
    (copy / CARD).unlink()
    assert f"'{CARD}' is missing" in called("release", "verify", copy, "--key", key).line
    other = tmp_path / "other.pub"
    other.write_bytes(signing.public_pem(signing.make_key().public_key()))
    done = called("release", "verify", release, "--key", other)
    assert done.code == 1
    assert "not signed by this federation's release key" in done.line


# --- Ctrl-C -----------------------------------------------------------------------------------------


def until(look: Callable[[], str], wanted: str) -> str:
    end = time.monotonic() + SECONDS
    while wanted not in (found := look()):
        assert time.monotonic() < end, f"waited for {wanted!r}, found {found!r}"
        time.sleep(0.1)
    return found


def interrupt(child: subprocess.Popen[str], after: float = 0.0) -> None:
    """Press Ctrl-C so many seconds after the command began."""
    while child.poll() is None and not catches(child.pid, signal.SIGINT):  # it is Python's own start
        time.sleep(0.005)
    time.sleep(after)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)


def unlogged(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if not LOGGED.match(line)]


MOMENTS = [0.0, 0.15, 0.4, 0.8, 1.5, None]
"""Seconds after the command began to listen; None when it serves."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_the_coordinator_serves(federation: LocalFederation, moment: float | None) -> None:
    child = start("coordinator", "serve", "--dir", federation.coordinator.path)
    if moment is None:
        federation.until(lambda: control.reload(federation.coordinator), SECONDS, "the coordinator")
    interrupt(child, moment or 0.0)
    done = finish(child)
    assert unlogged(done) in ([], ["interplant: stopped"])
    assert done.code == (1 if unlogged(done) else 0)
    assert done.code == 0 or moment is not None
    assert left_behind(federation.path) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_a_plant_serves(
    serving: LocalFederation, newcomer: PlantDirectory, moment: float | None
) -> None:
    child = start("plant", "serve", "--dir", newcomer.path)
    if moment is None:
        serving.until_online([newcomer.load().name])
    interrupt(child, moment or 0.0)
    done = finish(child)
    assert unlogged(done) in ([], ["interplant: stopped"])
    assert done.code == (1 if unlogged(done) else 0)
    assert done.code == 0 or moment is not None
    assert left_behind(newcomer.path) == []


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8])
def test_ctrl_c_while_a_run_is_started(federation: LocalFederation, moment: float) -> None:
    """It is queued, whole, or it is not."""
    child = start("run", "start", "turbofan", "--dir", federation.coordinator.path)
    interrupt(child, moment)
    done = finish(child)
    assert done.err in ("", "interplant: stopped\n")
    assert done.code == (1 if done.err else 0)
    queued = [run.id for run in federation.registry.runs()]
    assert [folder.name for folder in federation.coordinator.runs.iterdir()] == queued
    assert len(queued) == 1 or done.code == 1


def test_a_stop_that_is_polite(federation: LocalFederation, called: Called) -> None:
    """SIGTERM, as systemd sends it, ends like Ctrl-C; and so does Ctrl-C pressed again and again."""
    child = start("coordinator", "serve", "--dir", federation.coordinator.path)
    until(lambda: called("coordinator", "status", "--dir", federation.coordinator.path).out, "is serving")
    child.send_signal(signal.SIGTERM)
    for _ in range(5):
        time.sleep(0.1)
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
    done = finish(child)
    assert done.code == 0
    assert unlogged(done) == []
