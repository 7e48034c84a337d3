"""Hashes that are remembered: right after every change that size, time or inode tell."""

import hashlib
import os
from pathlib import Path

import pytest

from interplant.data import hashes
from interplant.data.hashes import hashes_of, remember


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"a": b"1", "in/b": b"2", "in/c": b"3"}.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def test_a_file_is_hashed_once_and_again_when_it_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    original = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: looked.append(path.name) or original(path))
    memory = tmp_path / "memory.db"
    assert hashes_of(folder, memory) == {"a": sha(b"1"), "in/b": sha(b"2"), "in/c": sha(b"3")}
    assert sorted(looked) == ["a", "b", "c"]
    looked.clear()
    (folder / "in" / "b").write_bytes(b"4")
    os.utime(folder / "in" / "b", ns=(1, 1))
    (folder / "in" / "c").unlink()
    (folder / "d").write_bytes(b"5")
    expected = {"a": sha(b"1"), "d": sha(b"5"), "in/b": sha(b"4")}
    assert hashes_of(folder, memory) == expected
    assert sorted(looked) == ["b", "d"]
    assert hashes_of(folder, memory) == expected
    assert sorted(looked) == ["b", "d"]


def test_what_is_remembered_leaves_the_rest_as_it_is(folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.db"
    hashes_of(folder, memory)
    (folder / "a").write_bytes(b"new")
    remember(memory, folder, {"a": sha(b"new")})
    assert hashes_of(folder, memory) == {"a": sha(b"new"), "in/b": sha(b"2"), "in/c": sha(b"3")}


def test_folders_have_memories_of_their_own(folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.db"
    hashes_of(folder, memory)
    assert hashes_of(tmp_path / "nothing", memory) == {}
    assert len(hashes_of(folder, memory)) == 3


@pytest.mark.parametrize("kept", [0, 90, 4096])
def test_a_damaged_memory_is_made_anew(folder: Path, tmp_path: Path, kept: int) -> None:
    memory = tmp_path / "memory.db"
    found = hashes_of(folder, memory)
    content = memory.read_bytes()
    memory.write_bytes(content[:kept] + bytes(255 for _ in content[kept:]))
    assert hashes_of(folder, memory) == found
    assert hashes_of(folder, memory) == found
