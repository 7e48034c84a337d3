"""Chance that nobody can foresee or repeat: a keyed stream, uniform and Gaussian as it should be."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from interplant.privacy import stream
from interplant.privacy.stream import Stream


def test_two_streams_have_nothing_in_common_whatever_the_seeds() -> None:
    """Trap 7: an experiment's seed must not give the noise."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(Stream().bits(1000))
    assert not np.intersect1d(*drawn).size


def test_the_key_is_of_the_operating_system_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's CPU generator keeps 32 bits of its seed, few enough to try; here all of 256 count."""
    asked: list[int] = []

    def spy(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    monkeypatch.setattr(stream.secrets, "token_bytes", spy)
    Stream()
    assert asked == [48]
    used = set()
    for place in range(48):
        key = bytearray(48)
        key[place] = 1
        monkeypatch.setattr(stream.secrets, "token_bytes", lambda _, key=key: bytes(key))
        used.add(Stream().bits(1).tobytes())
    assert len(used) == 48, "every byte of the key counts"


def test_a_stream_never_repeats_itself() -> None:
    drawn = Stream()
    assert len(np.unique(np.concatenate([drawn.bits(5000) for _ in range(20)]))) == 100_000


def test_a_forked_process_draws_other_numbers() -> None:
    """Parent and child with one key would add the same noise twice: the difference tells the data."""
    drawn = Stream()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, drawn.bits(8).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 64), np.uint64)
    os.close(reading)
    os.close(writing)
    assert not np.intersect1d(theirs, drawn.bits(8)).size


@pytest.mark.parametrize("again", [Stream, lambda secret: Stream(secret).part("noise")])
def test_a_secret_repeats_the_stream_and_nothing_else_does(again: Callable[[bytes], Stream]) -> None:
    first, second, other = again(b"a"), again(b"a"), again(b"b")
    assert np.array_equal(first.bits(10), second.bits(10))
    assert not np.intersect1d(first.bits(10), other.bits(10)).size


def test_a_part_is_a_stream_of_its_own() -> None:
    whole = Stream(b"a")
    assert not np.intersect1d(whole.bits(100), whole.part("noise").bits(100)).size


def test_uniform_numbers_fill_their_interval_evenly() -> None:
    drawn = Stream().uniform(1_000_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, 100, (0, 1))[0]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 180, "chi-squared of 99 degrees, 1 in a million"


def test_gaussian_numbers_are_double_and_have_the_moments_and_tails_of_the_normal() -> None:
    """Trap 8: single precision ends at 5.8 and lies on a lattice."""
    from scipy.stats import norm

    drawn = Stream().gaussian(4_000_001).numpy()
    assert drawn.dtype == np.float64
    assert len(np.unique(drawn)) > 4_000_000
    deviation = len(drawn) ** -0.5
    assert abs(drawn.mean()) < 6 * deviation
    assert abs(drawn.std() - 1) < 6 * deviation / np.sqrt(2)
    assert abs((drawn**4).mean() - 3) < 6 * deviation * np.sqrt(96)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 6 * deviation
    # Box and Muller make them in pairs.
    half = stream._PIECE // 2
    assert abs(np.corrcoef(drawn[:half], drawn[half : 2 * half])[0, 1]) < 6 * half**-0.5
    for bound in (2.0, 3.0, 4.0):
        expected = 2 * norm.sf(bound) * len(drawn)
        assert abs((np.abs(drawn) > bound).sum() - expected) < 6 * expected**0.5


def test_the_smallest_chance_gives_a_finite_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0, 2**64 - 1):
        monkeypatch.setattr(Stream, "bits", lambda self, count, bits=bits: np.full(count, bits, np.uint64))
        drawn = Stream().gaussian(4)
        assert torch.isfinite(drawn).all()
        assert drawn.abs().max() < 8.6
    assert drawn.abs().max() > 8.5


@pytest.mark.parametrize("count", [0, 1, 2, 3, stream._PIECE - 1, stream._PIECE + 1])
def test_as_many_as_asked(count: int) -> None:
    assert Stream().gaussian(count).shape == (count,)
    assert Stream().uniform(count).shape == (count,)
