import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors, indented, only_one, sha256_file, write_atomic


def test_content_and_folder_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(path, "grün")
    assert path.read_bytes() == "grün".encode()
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"secret", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_stays_closed_when_it_replaces_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomic(path, b"secret", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(InterplantError, match="the disk is full; free some space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b))[1])
    write_atomic(tmp_path / "file", "x")
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "cannot be written; give this user the right"),
        (errno.EROFS, "cannot be written"),
    ],
)
def test_disk_errors_are_sentences(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(InterplantError, match=words) as failure, disk_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert str(failure.value).startswith(str(tmp_path / "x"))


def test_other_faults_are_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), disk_errors(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "pipe")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 3])
def test_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_the_second_one_is_told_where_the_first_runs(tmp_path: Path) -> None:
    lock = tmp_path / "home" / "lock"
    said = f"the agent is already running from {lock.parent}"
    with only_one(lock, "the agent"), pytest.raises(InterplantError, match=said):
        only_one(lock, "the agent").__enter__()
    with only_one(lock, "the agent"):
        assert lock.exists()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import os, sys; from pathlib import Path; from interplant.core.files import only_one\n"
        "with only_one(Path(sys.argv[1]), 'it'): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(lock)], check=False).returncode == 9
    with only_one(lock, "it"):
        pass


def test_indented_is_what_json_gives_byte_for_byte():
    for content in (
        {},
        [],
        {"a": {}, "b": [], "c": [1, -0.0, 1e16, 1e-7, None, True]},
        {"ü": 'ä"\\\n\u2028'},
    ):
        assert indented(content) == json.dumps(content, indent=1) + "\n"
