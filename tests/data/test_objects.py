"""DVC's own commands find what was put for them, and what was put before is not looked into again."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interplant.data import objects
from interplant.data.hashes import hashes_of
from interplant.data.repository import Repository

FILES = {"1970-01-01/press-1.parquet": b"one", "1970-01-01/a b%2f.parquet": b"two", "manifest.json": b"{}"}


def put(root: Path, files: dict[str, bytes]) -> dict[str, str]:
    for name, content in files.items():
        path = root / "readings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def dvc(root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dvc", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Repository.create(tmp_path / "data", tmp_path / "remote").path


def track(root: Path, files: dict[str, bytes], known: dict[str, str] | None = None) -> str:
    return objects.track(root / "readings", put(root, files), known or {}, linked=True)


def sums(folder: Path) -> set[str]:
    return {path.parent.name + path.name for path in folder.rglob("files/md5/*/*")}


def test_the_pointer_and_the_objects_are_those_of_dvc_add_and_push(root: Path, tmp_path: Path) -> None:
    pointer = track(root, FILES)
    found = sums(root / ".dvc" / "cache"), sums(tmp_path / "remote")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    dvc(root, "add", "readings", "--quiet")
    dvc(root, "push", "--quiet")
    assert (root / "readings.dvc").read_text() == pointer
    assert (sums(root / ".dvc" / "cache"), sums(tmp_path / "remote")) == found


def test_dvc_finds_nothing_to_do_and_a_clone_pulls_the_same_bytes(root: Path, tmp_path: Path) -> None:
    (root / "readings.dvc").write_text(track(root, FILES))
    assert "up to date" in dvc(root, "status")
    assert "in sync" in dvc(root, "status", "--cloud")
    clone = tmp_path / "clone"
    shutil.copytree(root, clone, ignore=shutil.ignore_patterns("cache", "tmp", "readings"))
    dvc(clone, "pull", "--quiet")
    assert {name: (clone / "readings" / name).read_bytes() for name in FILES} == FILES


def test_only_what_is_new_is_hashed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = track(root, FILES)
    hashes = put(root, FILES)
    known = {hashes[name]: md5 for name, md5 in objects.listed(root, pointer).items()}
    assert len(known) == 3
    looked: list[str] = []
    original = objects._md5_of
    monkeypatch.setattr(objects, "_md5_of", lambda path: looked.append(path) or original(path))
    changed = FILES | {"manifest.json": b"{2}"}
    again = track(root, changed, known)
    assert [Path(path).name for path in looked] == ["manifest.json"]
    assert objects.listed(root, again)["manifest.json"] == hashlib.md5(b"{2}").hexdigest()
    assert track(root, changed, known) == again


@pytest.mark.parametrize("where", ["data/.dvc/cache", "remote"])
@pytest.mark.parametrize("listing", [True, False])
def test_an_object_that_was_cut_short_is_put_there_again(
    root: Path, tmp_path: Path, where: str, listing: bool
) -> None:
    pointer = track(root, FILES)
    for path in (tmp_path / where).rglob("files/md5/*/*"):
        if path.name.endswith(".dir") == listing:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content[:-1])
    hashes = hashes_of(root / "readings", tmp_path / "hashes.db")
    assert objects.track(root / "readings", hashes, {}, linked=True) == pointer
    for path in (tmp_path / where).rglob("files/md5/*/*"):
        own = hashlib.md5(path.read_bytes()).hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == own


@pytest.mark.parametrize("pointer", ["", "outs:\n- md5: 12", "outs: [", "outs:\n- md5: ../../x.dir\n"])
def test_a_pointer_that_says_nothing_is_no_knowledge(root: Path, pointer: str) -> None:
    assert objects.listed(root, pointer) == {}


def test_a_damaged_listing_is_no_knowledge(root: Path) -> None:
    pointer = track(root, FILES)
    (path,) = (root / ".dvc" / "cache").rglob("*.dir")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b"a b", b"a c"))
    assert objects.listed(root, pointer) == {}
