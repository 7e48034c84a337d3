"""Updates on disk: nothing is left of them, and memory stays bounded."""

import errno
import gc
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from interplant.core.errors import InterplantError
from interplant.strategies import arrays, spill
from interplant.strategies.krum import Krum
from interplant.strategies.median import Median
from interplant.strategies.trimmed_mean import TrimmedMean

from .conftest import WEIGHTS, close, one_round, updates

ALL = pytest.mark.parametrize(
    "strategy", [Median(), TrimmedMean(), Krum()], ids=lambda one: type(one).__name__
)


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
def test_nothing_is_left_after_a_round(tmp_path, strategy):
    one_round(strategy, WEIGHTS, updates(5), scratch=tmp_path)
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert files_open_in(tmp_path) == []


@ALL
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
        "from interplant.strategies.median import Median\n"
        "weights = {'w': np.zeros(100_000, np.float32)}\n"
        "merge = Median().begin(weights, pathlib.Path(sys.argv[1]))\n"
        "Median().fold(merge, weights)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_updates_come_back_as_they_were(tmp_path, monkeypatch):
    """Also when a piece ends in the middle of an array."""
    monkeypatch.setattr(spill, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(spill, "_FEWEST", 3)
    weights = {
        "a": np.zeros((4, 5), np.float32), "b": np.zeros(7, np.float64), "c": np.zeros((), np.int16)
    }  # fmt: skip
    several = updates(6, weights=weights, size=100.0)
    merge = spill.Spill(weights, tmp_path)
    for one in several:
        merge.add(one)
    parts = list(merge.pieces(weights))
    assert max(part.stop - part.start for part in parts) == 3
    for part in parts:
        np.testing.assert_array_equal(merge.read(part), np.stack([part.of(one) for one in several]))
        np.testing.assert_array_equal(merge.read(part, [4, 1]), [part.of(several[4]), part.of(several[1])])
    largest = merge.reduce(lambda rows: rows.max(axis=0))
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
    weights = {"w": np.zeros(1 << 19, np.float32)}
    rng = np.random.default_rng(0)
    merge = strategy.begin(weights, tmp_path)
    tracemalloc.start()
    try:
        for _ in range(64):
            strategy.fold(merge, {"w": rng.normal(size=1 << 19).astype(np.float32)})
        held, _ = tracemalloc.get_traced_memory()
        assert held < 1 << 20, "nothing of an update stays in memory"
        tracemalloc.reset_peak()
        strategy.finish(merge, weights, {})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


def test_a_full_disk_is_one_clear_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    merge = Median().begin(WEIGHTS, tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InterplantError, match="the disk is full; free some space"):
        Median().fold(merge, updates(1)[0])


def test_a_disk_that_gives_back_less_is_noticed(tmp_path):
    merge = Median().begin(WEIGHTS, tmp_path)
    Median().fold(merge, updates(1)[0])
    os.truncate(f"/proc/self/fd/{merge._file}", 30)
    with pytest.raises(InterplantError, match="bytes of a spilled update, found "):
        Median().finish(merge, WEIGHTS, {})
