"""Updates in files and in memory: nothing is left of them, and memory stays bounded."""

import errno
import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from interplant.core import blobs
from interplant.core.errors import InterplantError
from interplant.strategies import arrays, spill
from interplant.strategies.krum import Krum
from interplant.strategies.median import Median
from interplant.strategies.trimmed_mean import TrimmedMean

from .conftest import WEIGHTS, close, one_round, updates

ALL = pytest.mark.parametrize(
    "strategy", [Median(), TrimmedMean(), Krum()], ids=lambda one: type(one).__name__
)


@pytest.fixture
def nothing_held(monkeypatch):
    """Every update that does not lie in a file is written to disk."""
    monkeypatch.setattr(spill, "MEMORY", 0)


def in_files(folder, several):
    """The same updates, as views of files."""
    for number, one in enumerate(several):
        blobs.save(folder / str(number), one)
        yield blobs.load(folder / str(number))


def files_open_in(folder):
    """Files without a name that this process keeps in a folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith(str(folder))]


@ALL
@pytest.mark.usefixtures("nothing_held")
def test_nothing_is_left_after_a_round(tmp_path, strategy):
    one_round(strategy, WEIGHTS, updates(5), scratch=tmp_path)
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert files_open_in(tmp_path) == []


@ALL
@pytest.mark.usefixtures("nothing_held")
def test_nothing_is_left_of_a_merge_that_was_given_up(tmp_path, strategy):
    merge = strategy.begin(WEIGHTS, tmp_path)
    strategy.fold(merge, updates(1)[0])
    assert len(files_open_in(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [], "who lists the run's folder sees no scratch file"
    del merge
    gc.collect()
    assert files_open_in(tmp_path) == []


def test_nothing_is_left_after_a_kill(tmp_path):
    code = (
        "import os, sys, numpy as np, pathlib, signal\n"
        "from interplant.strategies import spill\n"
        "from interplant.strategies.median import Median\n"
        "spill.MEMORY = 0\n"
        "weights = {'w': np.zeros(100_000, np.float32)}\n"
        "merge = Median().begin(weights, pathlib.Path(sys.argv[1]))\n"
        "Median().fold(merge, weights)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fit", [0, 2, 6], ids="{} in memory".format)
@pytest.mark.parametrize("files", [0, 3, 6], ids="{} in files".format)
def test_updates_come_back_as_they_were(tmp_path, monkeypatch, fit, files):
    """Wherever they lie, and also when a piece ends in the middle of an array."""
    monkeypatch.setattr(spill, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(spill, "_FEWEST", 3)
    weights = {
        "a": np.zeros((4, 5), np.float32), "b": np.zeros(7, np.float64), "c": np.zeros((), np.int16)
    }  # fmt: skip
    several = updates(6, weights=weights, size=100.0)
    size = sum(array.nbytes for array in weights.values())
    monkeypatch.setattr(spill, "MEMORY", fit * size + size - 1)
    merge = spill.Spill(weights, tmp_path)
    (tmp_path / "own").mkdir()
    for one in itertools.chain(in_files(tmp_path / "own", several[:files]), several[files:]):
        merge.add(one)
    del one  # a view holds its file open too
    shutil.rmtree(tmp_path / "own")  # what is held open stays
    left = max(0, 6 - files - fit)
    assert len(files_open_in(tmp_path)) == files + (left > 0)
    parts = list(merge.pieces(weights))
    assert max(part.stop - part.start for part in parts) == 3
    for part in parts:
        np.testing.assert_array_equal(merge.read(part), np.stack([part.of(one) for one in several]))
        np.testing.assert_array_equal(merge.read(part, [4, 1]), [part.of(several[4]), part.of(several[1])])
    blank = {name: np.zeros_like(array) for name, array in weights.items()}
    largest = merge.moved(blank, lambda rows: rows.max(axis=0))
    for name, array in weights.items():
        np.testing.assert_array_equal(largest[name], np.stack([one[name] for one in several]).max(axis=0))
        assert largest[name].shape == array.shape


@ALL
def test_the_size_of_the_pieces_changes_nothing(tmp_path, monkeypatch, strategy):
    weights = {"w": np.zeros((50, 60), np.float32)}
    several = updates(7, weights=weights)
    expected, _ = one_round(strategy, weights, several, scratch=tmp_path)
    monkeypatch.setattr(spill, "_FEWEST", 7)
    monkeypatch.setattr(spill, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(arrays, "_ALONE", 0)
    monkeypatch.setattr(arrays, "_workers", lambda: 3)
    arrays._pool.cache_clear()
    found, _ = one_round(strategy, weights, several, scratch=tmp_path)
    arrays._pool().shutdown()
    arrays._pool.cache_clear()
    close(found, expected, 1e-6)


@ALL
def test_memory_is_bounded_whatever_the_number_of_updates(tmp_path, monkeypatch, strategy):
    """64 updates of 2 MB are 128 MB; what is held beside the model and its result are a few pieces."""
    monkeypatch.setattr(spill, "_BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(spill, "MEMORY", 5 << 20)
    weights = {"w": np.zeros(1 << 19, np.float32)}
    rng = np.random.default_rng(0)
    merge = strategy.begin(weights, tmp_path)
    tracemalloc.start()
    try:
        for _ in range(64):
            strategy.fold(merge, {"w": rng.normal(size=1 << 19).astype(np.float32)})
        held, _ = tracemalloc.get_traced_memory()
        assert held < 6 << 20, "two updates stay in memory, and nothing of the others"
        tracemalloc.reset_peak()
        strategy.finish(merge, weights, {})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 13 << 20


def test_an_update_in_a_file_is_read_there(tmp_path, monkeypatch):
    """Nothing is written, though nothing fits in memory."""
    monkeypatch.setattr(spill, "MEMORY", 0)
    monkeypatch.setattr(os, "pwrite", None)
    several = updates(5)
    expected, _ = one_round(Krum(), WEIGHTS, in_files(tmp_path, several), scratch=tmp_path)
    monkeypatch.undo()
    found, _ = one_round(Krum(), WEIGHTS, several, scratch=tmp_path)
    close(found, expected, 0)


def test_no_more_files_are_held_open_than_a_process_may(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "_OPEN", 2)
    merge = spill.Spill(WEIGHTS, tmp_path)
    for one in in_files(tmp_path, updates(5)):
        merge.add(one)
    del one
    assert len(files_open_in(tmp_path)) == 2


def test_views_that_were_written_to_are_not_taken_for_their_file(tmp_path):
    blobs.save(tmp_path / "update", {"w": np.zeros(3, np.float32)})
    one = blobs.load(tmp_path / "update", writable=True)
    one["w"][:] = 7.0
    merge = spill.Spill({"w": np.zeros(3, np.float32)}, tmp_path)
    merge.add(one)
    np.testing.assert_array_equal(merge.read(arrays.Piece("w", 0, 3)), [[7.0, 7.0, 7.0]])


@pytest.mark.usefixtures("nothing_held")
def test_a_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    merge = Median().begin(WEIGHTS, tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InterplantError, match="the disk is full; free some space"):
        Median().fold(merge, updates(1)[0])


@pytest.mark.usefixtures("nothing_held")
def test_a_disk_that_gives_back_less_is_noticed(tmp_path):
    merge = Median().begin(WEIGHTS, tmp_path)
    Median().fold(merge, updates(1)[0])
    os.truncate(f"/proc/self/fd/{merge._file}", 30)
    with pytest.raises(InterplantError, match="bytes of a spilled update, found "):
        Median().finish(merge, WEIGHTS, {})
