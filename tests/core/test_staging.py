import os
import signal
import stat
import subprocess
import sys

import pytest

from interplant.core.errors import InterplantError, UsageError
from interplant.core.staging import new_folder, staging_path


def interrupted(target, fault, **more):
    with new_folder(target, "making", **more) as folder:
        (folder / "file").write_text("x")
        raise fault


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_whole_and_closed_to_others(tmp_path):
    with new_folder(tmp_path / "a", "making") as folder:
        (folder / "file").write_text("x")
        assert names(tmp_path) == [".a.part"]
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["file"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, fault):
    with pytest.raises(fault):
        interrupted(tmp_path / "a", fault)
    assert names(tmp_path) == []


def test_kept_work_is_there_in_the_next_try(tmp_path):
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "a", RuntimeError, keep=True)
    assert not (tmp_path / "a").exists()
    with new_folder(tmp_path / "a", "making", keep=True) as folder:
        assert (folder / "file").read_text() == "x"
    assert names(tmp_path) == ["a"]


def test_killed_process_leaves_no_folder_and_the_next_try_starts_afresh(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "from interplant.core.staging import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1]), 'making') as folder:\n"
        "    (folder / 'half').mkdir(); (folder / 'half' / 'file').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    with new_folder(tmp_path / "a", "making") as folder:
        (folder / "file").write_text("y")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["file"]


def test_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a", "making") as folder:
        (folder / "file").write_text("x")
    assert names(tmp_path / "a") == ["file"]


def test_taken_places_are_refused_and_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    for name in ("full", "file", "link"):
        with pytest.raises(UsageError, match=name), new_folder(tmp_path / name, "making"):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file", "full", "link"]
    assert names(tmp_path / "full") == ["mine"]


def test_place_taken_meanwhile_is_left_alone(tmp_path):
    def overtaken():
        with new_folder(tmp_path / "a", "making"):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "mine").write_text("x")

    with pytest.raises(UsageError, match="not empty"):
        overtaken()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["mine"]


def test_only_one_makes_it_at_a_time(tmp_path):
    with new_folder(tmp_path / "a", "making a") as folder:
        (folder / "file").write_text("x")
        with (
            pytest.raises(InterplantError, match="making a is already running"),
            new_folder(tmp_path / "a", "making a"),
        ):
            pytest.fail("the block must not run")
    assert names(tmp_path / "a") == ["file"]


def test_sibling_is_hidden_and_beside(tmp_path):
    assert staging_path(tmp_path / "a") == tmp_path / ".a.part"
