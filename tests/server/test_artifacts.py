"""Releases are kept at a URL, and come back from there: a folder, memory, and a server over the network."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime

import fsspec
import pytest

from interplant.core import config, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.release import FILES, Lineage, Participant, ReleaseRefused, manifest_meta, task_digest
from interplant.core.schema import Task
from interplant.data.tasks import builtin
from interplant.lab.counterparts import until_listens
from interplant.lab.federation import free_port
from interplant.server.artifacts import Artifacts
from interplant.server.backup import back_up
from interplant.server.registry import Registry

TASK = config.load(builtin("turbofan"), Task)


@pytest.fixture
def ftp(tmp_path):
    """A server that keeps files for who knows the password; a process."""
    store, port = tmp_path / "store", free_port()
    store.mkdir()
    words = ["-i", "127.0.0.1", "-p", str(port), "-u", "line", "-P", "not-a-secret", "-w", "-d", str(store)]
    with (tmp_path / "ftp.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "pyftpdlib", *words], stdout=log, stderr=log
        )
    try:
        until_listens(server, port, tmp_path / "ftp.log")
        yield f"ftp://line:not-a-secret@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(params=["file", "memory", "ftp"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/store/releases"
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://store/releases"
    return f"{request.getfixturevalue('ftp')}/releases"


@pytest.fixture
def release(coordinator):
    """A signed release in the coordinator's folder; nobody looks into its model."""
    folder = coordinator.releases / "wear-1"
    folder.mkdir()
    lineage = Lineage(
        release="wear-1", run="r", task=TASK.name, task_digest=task_digest(TASK), version="1", protocol="1",
        parent=None, created=datetime.now(UTC).isoformat(), rounds=1, engine="grpc", private=False,
        simulated=True,
        participants=(Participant("north", {"ab" * 32: 1}, 1, "none", "window", 0.0, 0.0, True),),
    )  # fmt: skip
    for name in FILES:
        (folder / name).write_bytes(b"x" * 100_000)
    (folder / "task.json").write_text(config.to_json(TASK))
    (folder / "lineage.json").write_text(lineage.to_json())
    signing.sign_folder(folder, manifest_meta(lineage), signing.read_private(coordinator.release_key))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_lost_here_comes_back(coordinator, release, url):
    artifacts, before = Artifacts(coordinator, url), contents(release)
    artifacts.keep("wear-1")
    artifacts.keep("wear-1")  # a coordinator that was killed comes here again
    shutil.rmtree(release)
    assert artifacts.folder("wear-1") == release
    assert contents(release) == before
    assert [path.name for path in coordinator.releases.iterdir()] == ["wear-1"]


def test_what_was_changed_there_does_not_come_back(coordinator, release, url):
    artifacts = Artifacts(coordinator, url)
    artifacts.keep("wear-1")
    shutil.rmtree(release)
    system, root = fsspec.core.url_to_fs(url)
    with system.open(f"{root}/wear-1/weights.safetensors", "wb") as file:
        file.write(b"y" * 100_000)
    with pytest.raises(ReleaseRefused, match=r"weights.safetensors.* was changed after signing"):
        artifacts.folder("wear-1")
    assert list(coordinator.releases.iterdir()) == []


def test_half_a_copy_is_none_and_is_finished_later(coordinator, release, url):
    artifacts = Artifacts(coordinator, url)
    artifacts.keep("wear-1")
    system, root = fsspec.core.url_to_fs(url)
    system.rm_file(f"{root}/wear-1/manifest.sig")  # the last one that is written
    elsewhere = coordinator.path / "elsewhere"
    release.rename(elsewhere)
    with pytest.raises(UsageError, match="is neither in"):
        artifacts.folder("wear-1")
    elsewhere.rename(release)
    artifacts.keep("wear-1")
    shutil.rmtree(release)
    assert artifacts.folder("wear-1") == release


def test_another_release_of_the_name_is_not_overwritten(coordinator, release, url):
    artifacts = Artifacts(coordinator, url)
    artifacts.keep("wear-1")
    (release / "manifest.json").write_bytes(b"another")
    with pytest.raises(InterplantError, match="holds another release wear-1") as caught:
        artifacts.keep("wear-1")
    assert "not-a-secret" not in str(caught.value)


def test_plants_are_told_of_a_release_that_lies_there_alone(coordinator, change, release, url, serve):
    change("artifacts", url)
    Artifacts.of(coordinator).keep("wear-1")
    shutil.rmtree(release)
    registry = Registry.open(coordinator)
    registry.create_release("wear-1", None, "turbofan", "00")
    registry.approve_release("wear-1", "by a test")
    registry.close()
    serving = serve()
    north = serving.plant("north")
    with north.watch() as stream:
        offer = next(stream).release
    sizes = {file.name: len(north.fetch(file.blob.sha256)) for file in offer.files}
    assert sizes["weights.safetensors"] == 100_000


def test_a_backup_holds_what_lies_there_alone(coordinator, change, release, url, tmp_path):
    change("artifacts", url)
    Artifacts.of(coordinator).keep("wear-1")
    shutil.rmtree(release)
    registry = Registry.open(coordinator)
    registry.create_release("wear-1", None, "turbofan", "00")
    registry.create_release("wear-2", None, "turbofan", "00")
    registry.close()
    made = back_up(coordinator, tmp_path / "copy.tar")
    assert made.missing == ("wear-2",)
    assert "releases/wear-1/manifest.sig" in {entry.name for entry in made.files}


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ("nonsense://store", UsageError, "cannot be opened here"),
        ("ftp://127.0.0.1:9/store", InterplantError, "cannot be used: ConnectionRefusedError"),
    ],
)
def test_a_place_that_cannot_be_opened_is_one_sentence(coordinator, release, wrong, kind, words):
    with pytest.raises(kind, match=words):
        Artifacts(coordinator, wrong).keep("wear-1")
