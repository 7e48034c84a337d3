"""Commands called in this process, in a folder with a federation, a plant and a release; no network."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from interplant.cli.commands import call
from interplant.cli.main import exit_code
from interplant.client import setup as plant_setup
from interplant.client.directory import PlantDirectory
from interplant.client.joining import JoinFile
from interplant.core import certificates, config, signing
from interplant.core.release import (
    CARD,
    LINEAGE,
    ONNX,
    TASK,
    WEIGHTS,
    Lineage,
    Participant,
    manifest_meta,
    task_digest,
)
from interplant.core.schema import Task
from interplant.data.snapshots import keyed_digest
from interplant.data.tasks import builtin
from interplant.server import setup as coordinator_setup
from interplant.server.authority import Authority
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

RUN = "20260101-120000-ab12"
RELEASE = f"turbofan-{RUN}-c0ffee"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


Call = Callable[..., Result]


@pytest.fixture
def interplant(capfd: pytest.CaptureFixture[str]) -> Call:
    """Call a command as its words, see what it printed and how it ended."""

    def command(*words: str | Path) -> Result:
        capfd.readouterr()
        code = exit_code(lambda: call([str(word) for word in words]))
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return command


def enrol_without_network(authority: Authority) -> Callable[[JoinFile, bytes], bytes]:
    def enrol(join: JoinFile, request: bytes) -> bytes:
        return authority.accept(certificates.identity(join.certificate), request)

    return enrol


def sign_release(folder: Path, key: Path, epsilon: float = 0.7312) -> None:
    """A release whose signature and lineage are right; its model is none."""
    task = config.load(builtin("turbofan"), Task)
    folder.mkdir(parents=True)
    plant = Participant("north", {"ab" * 32: 3}, 3, "dp-sgd", "window", epsilon, 1e-5, True)
    lineage = Lineage(
        folder.name, RUN, task.name, task_digest(task), "0.1.0", "1", None, "2026-01-01T12:30:00+00:00",
        3, "grpc", True, True, (plant,),
    )  # fmt: skip
    (folder / TASK).write_text(json.dumps(config.dump(task)))
    (folder / LINEAGE).write_text(lineage.to_json())
    (folder / CARD).write_text(f"# Release {folder.name}\n\nSimulated data.\n")
    for name in (WEIGHTS, ONNX):
        (folder / name).write_bytes(b"not looked at here")
    signing.sign_folder(folder, manifest_meta(lineage), signing.read_private(key))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``coordinator/`` with one finished run and its release, and ``north/``, a plant that has joined."""
    path = tmp_path_factory.mktemp("federation")
    coordinator = CoordinatorDirectory(path / "coordinator")
    coordinator_setup.init(coordinator.path, "acme", "127.0.0.1:7443", "127.0.0.1:7443")
    authority = Authority.open(coordinator)
    (path / "north.join").write_text(authority.invite("north"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plant_setup, "enrol", enrol_without_network(authority))
        plant_setup.join_plant(path / "north.join", path / "north")
    registry = Registry.open(coordinator)
    task = config.load(builtin("turbofan"), Task)
    registry.create_run(task.name, config.dump(task), 3, {}, RUN)
    sign_release(coordinator.releases / RELEASE, coordinator.release_key)
    registry.create_release(RELEASE, RUN, task.name, "ab" * 32)
    registry.close()
    return path


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `made` that is the current folder."""
    here = tmp_path / "here"
    shutil.copytree(made, here, symlinks=True)
    before = Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)


@pytest.fixture
def plant(place: Path) -> PlantDirectory:
    return PlantDirectory(place / "north")


def make_release_of(plant: PlantDirectory, digest: str) -> None:
    """Put a release at a plant whose lineage names one of the plant's snapshots."""
    folder = plant.releases / "trained-on-it"
    folder.mkdir(parents=True)
    secret = plant.snapshot_key.read_bytes()
    one = Participant("north", {keyed_digest(digest, secret): 3}, 3, "dp-sgd", "window", 0.5, 1e-5, True)
    lineage = Lineage(
        folder.name, RUN, "turbofan", "ab" * 32, "0.1.0", "1", None, "2026-01-01T12:30:00+00:00",
        3, "grpc", True, True, (one,),
    )  # fmt: skip
    (folder / LINEAGE).write_text(lineage.to_json())


def edit(path: Path, old: str, new: str) -> None:
    """Change one place of a file."""
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def waiting(place: Path, plant: PlantDirectory) -> PlantDirectory:
    """The plant has received the release, the gate has let it pass, a person has to say yes."""
    edit(plant.config, "tasks: []", "tasks: [turbofan]")
    shutil.copytree(place / "coordinator" / "releases" / RELEASE, plant.releases / RELEASE)
    verdict = {"state": "waiting", "code": "", "sentence": "waits for a person: 17 cycles", "figures": {}}
    (plant.releases / f"{RELEASE}.verdict.json").write_text(json.dumps(verdict))
    return plant
