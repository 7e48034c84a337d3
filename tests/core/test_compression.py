"""Codecs: what comes back is near what went in, small, and safe to read whoever wrote it."""

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.core import compression
from interplant.core.compression import BLOCK, CODECS, difference, digest_of, largest, moved, pack, unpack
from interplant.core.errors import InterplantError
from interplant.core.schema import CODECS as NAMES

KEEP = 0.1
ALL = pytest.mark.parametrize("codec", CODECS)


def model(seed=0, scale=1.0):
    """Arrays of many kinds: larger than a block, of one value, of none, of other types."""
    chance = np.random.default_rng(seed)
    return {
        "wide.weight": (scale * chance.standard_t(3, (3, 2000))).astype(np.float32),
        "bias": (scale * chance.normal(size=7)).astype(np.float32),
        "turned": np.asfortranarray(chance.normal(size=(5, 4)).astype(np.float32)),
        "single": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "count": np.array([2**40, -3], np.int64),
        "mask": np.array([True, False, True]),
        "double": chance.normal(size=(2, 2)),
    }


def back(codec, arrays, keep=KEEP):
    return unpack(codec, pack(codec, arrays, keep), arrays, keep)


def raw(codec, arrays):
    """The stream as it is when inflated."""
    return bytearray(zlib.decompress(pack(codec, arrays, KEEP), -15))


def deflated(stream):
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return made.compress(bytes(stream)) + made.flush()


def refused(codec, packed, like, words):
    with pytest.raises(InterplantError, match=words) as failed:
        unpack(codec, packed, like, KEEP)
    assert "\n" not in str(failed.value)


def test_settings_and_code_name_the_same_codecs():
    assert tuple(sorted(CODECS)) == NAMES


# --- round trips -----------------------------------------------------------------------------------


@ALL
def test_names_shapes_and_types_come_back_and_what_is_not_coded_bit_for_bit(codec):
    arrays = model()
    found = back(codec, arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].flags.writeable
    for name in ("single", "empty", "count", "mask", "double"):
        np.testing.assert_array_equal(found[name], arrays[name])


@ALL
@pytest.mark.parametrize("arrays", [{}, {"count": np.arange(3)}, {"single": np.ones(1, np.float32)}])
def test_a_model_without_anything_to_code_comes_back(codec, arrays):
    found = back(codec, arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_bf16_is_torchs_rounding_to_the_last_bit():
    import torch

    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = np.arange(0x3F800000, 0x3F900000, 0x8000, dtype=np.uint32)
    values = np.concatenate([bits, ties, ties | 0x80000000, np.array([0, 1, 0x80000000], np.uint32)])
    values = values.view(np.float32)
    theirs = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    good = np.isfinite(values) & np.isfinite(theirs)
    found = back("bf16", {"w": values[good]})["w"]
    np.testing.assert_array_equal(found.view(np.uint32), theirs[good].view(np.uint32))


def test_bf16_of_a_finite_value_is_finite():
    largest_float = np.finfo(np.float32).max
    found = back("bf16", {"w": np.array([largest_float, -largest_float], np.float32)})["w"]
    np.testing.assert_allclose(found, [largest_float, -largest_float], rtol=1 / 128)


FLOATS = hnp.arrays(
    np.float32,
    st.integers(2, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True),
)


@given(FLOATS)
@settings(max_examples=200, deadline=None)
def test_int8_is_within_half_a_step_of_its_block(array):
    found = back("int8", {"w": array})["w"]
    step = np.abs(array.astype(np.float64)).max() / 127
    assert np.abs(found.astype(np.float64) - array).max() <= step * 0.5001 + 1e-43  # of 127 smallest numbers


@given(FLOATS)
@settings(max_examples=200, deadline=None)
def test_bf16_is_within_a_256th_of_each_value(array):
    found = back("bf16", {"w": array})["w"].astype(np.float64)
    assert (np.abs(found - array) <= np.abs(array.astype(np.float64)) / 128 + 1e-40).all()


def test_a_large_value_costs_precision_in_its_own_block_only():
    array = np.full(3 * BLOCK, 0.01, np.float32)
    array[BLOCK + 5] = 1000.0
    found = back("int8", {"w": array, "x": array[:BLOCK]})
    np.testing.assert_allclose(found["w"][:BLOCK], 0.01, rtol=1e-6)
    np.testing.assert_allclose(found["w"][2 * BLOCK :], 0.01, rtol=1e-6)
    np.testing.assert_allclose(found["x"], 0.01, rtol=1e-6)
    assert found["w"][BLOCK] == 0.0


@given(hnp.arrays(np.float32, st.integers(2, 60), elements=st.integers(-3, 3)), st.floats(0.01, 0.5))
@settings(max_examples=200, deadline=None)
def test_top_k_sends_the_largest_and_zeros(array, keep):
    """Of equal ones the first, so that the choice is the same everywhere."""
    found = back("top_k", {"w": array}, keep)["w"]
    count = int(np.ceil(keep * array.size))
    expected = np.zeros_like(array)
    chosen = sorted(range(array.size), key=lambda at: (-abs(array[at]), at))[:count]
    expected[chosen] = array[chosen]
    np.testing.assert_array_equal(found, expected)


def test_top_k_chooses_among_all_arrays_together():
    arrays = {"a": np.arange(1, 11, dtype=np.float32), "b": np.full(10, 100, np.float32)}
    found = back("top_k", arrays, 0.5)
    assert not found["a"].any()
    np.testing.assert_array_equal(found["b"], arrays["b"])


@pytest.mark.parametrize(("codec", "times"), [("bf16", 2.0), ("int8", 3.9), ("top_k", 30.0)])
def test_it_is_smaller_even_where_values_do_not_repeat(codec, times):
    """Gaussian noise, as under privacy, is the worst that an update can be."""
    array = np.random.default_rng(0).normal(size=24_545).astype(np.float32)
    assert array.nbytes / len(pack(codec, {"w": array}, 0.01)) > times


@ALL
def test_the_same_arrays_give_the_same_bytes_whatever_their_order(codec):
    arrays = model()
    assert pack(codec, arrays, KEEP) == pack(codec, dict(reversed(arrays.items())), KEEP)


# --- error feedback --------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "keep"), [("bf16", KEEP), ("int8", KEEP), ("top_k", 0.05)])
def test_with_what_was_left_added_what_was_sent_tracks_what_was_meant(codec, keep):
    """The sums differ by what is left now, which does not grow; without feedback top_k never sends most."""
    sent = meant = alone = np.zeros((3, 2000), np.float64)
    left, sizes = np.zeros((3, 2000), np.float32), []
    for number in range(120):
        update = np.random.default_rng(number).normal(0.05, 0.1, left.shape).astype(np.float32)
        read = back(codec, {"w": update + left}, keep)["w"]
        left = update + left - read
        sent, meant = sent + read, meant + update
        alone = alone + back(codec, {"w": update}, keep)["w"]
        sizes.append(float(np.linalg.norm(left)))
    np.testing.assert_allclose(meant - sent, left, atol=1e-4)
    assert sizes[-1] <= 1.5 * max(sizes[20:60])
    if codec == "top_k":
        assert np.linalg.norm(meant - sent) < 0.5 * np.linalg.norm(meant - alone)


# --- differences -----------------------------------------------------------------------------------


def test_a_difference_added_is_the_other_model():
    old, new = model(0), model(1)
    found = moved(old, difference(new, old))
    for name, array in new.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6)
    np.testing.assert_array_equal(found["mask"], new["mask"])
    np.testing.assert_array_equal(found["count"], new["count"])


def test_a_digest_is_of_names_types_shapes_and_values():
    arrays = model()
    digest = digest_of(arrays)
    assert digest == digest_of({name: array.copy() for name, array in reversed(arrays.items())})
    changes = [
        {"bias": arrays["bias"].reshape(1, 7)},
        {"bias": arrays["bias"].view(np.int32)},
        {"bias": np.nextafter(arrays["bias"], np.float32(9))},
        {"other": arrays["bias"]},
    ]
    assert digest not in {digest_of(arrays | change) for change in changes}


# --- strangers -------------------------------------------------------------------------------------


@ALL
def test_a_bomb_is_not_unpacked(codec, monkeypatch):
    """Nothing beyond the model's own size is ever inflated."""
    arrays, size, seen = model(), len(raw(codec, model())), []
    bomb = deflated(bytes(1 << 26))
    real = zlib.decompressobj

    class Watched:
        def __init__(self, *words):
            self.one = real(*words)

        def decompress(self, data, most):
            found = self.one.decompress(data, most)
            seen.append(len(found))
            return found

        def __getattr__(self, name):
            return getattr(self.one, name)

    monkeypatch.setattr(compression.zlib, "decompressobj", Watched)
    refused(codec, bomb, arrays, f"expected {size} bytes")
    assert seen == [size + 1]


@ALL
def test_a_stream_of_another_length_is_refused(codec):
    arrays = model()
    stream = raw(codec, arrays)
    for wrong in (stream[:-1], stream + b"\0", b"", stream * 2):
        refused(codec, deflated(wrong), arrays, "expected .* bytes when inflated")
    good = pack(codec, arrays, KEEP)
    refused(codec, good[:-1], arrays, "expected")
    refused(codec, good + b"more", arrays, "found fewer or more")
    refused(codec, b"", arrays, "expected")
    refused(codec, b"\xff" * 50, arrays, "expected a deflate stream")


@ALL
@given(data=st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_sentence_or_finite_arrays(codec, data):
    like = {"w": np.zeros((4, 5), np.float32), "n": np.zeros(2, np.int64)}
    size = len(raw(codec, like))
    for packed in (data, deflated((data * size)[:size])):
        with contextlib.suppress(InterplantError):
            assert np.isfinite(unpack(codec, packed, like, KEEP)["w"]).all()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 3e38])
def test_scales_that_give_no_finite_values_are_refused(scale):
    arrays = {"w": np.linspace(-1, 1, 10, dtype=np.float32)}
    stream = raw("int8", arrays)
    stream[:4] = np.float32(scale).tobytes()
    refused("int8", deflated(stream), arrays, "w: expected finite")


@pytest.mark.parametrize("codec", ["bf16", "top_k"])
def test_values_that_are_not_finite_are_refused(codec):
    arrays = {"w": np.linspace(1, 2, 8, dtype=np.float32)}
    stream = raw(codec, arrays)
    stream[0 if codec == "bf16" else 1] = 0x7F
    stream[-1] = 0x80
    stream[8 if codec == "bf16" else 2] = 0x80
    refused(codec, deflated(stream), arrays, "w: expected finite")


def test_others_that_are_not_finite_are_refused():
    arrays = {"w": np.array([np.nan])}
    refused("int8", pack("int8", arrays, KEEP), arrays, "w: expected finite")


@pytest.mark.parametrize("places", [b"\0\0", b"\xff\xff", b"\x80\0"])
def test_more_or_fewer_places_than_agreed_are_refused(places):
    arrays = {"w": np.arange(1, 12, dtype=np.float32)}
    stream = raw("top_k", arrays)
    assert bytes(stream[:2]) != places
    stream[:2] = places
    refused("top_k", deflated(stream), arrays, "expected 2 places of 11")


@ALL
def test_no_model_is_larger_packed_than_is_allowed(codec):
    for seed in range(5):
        bits = np.random.default_rng(seed).integers(0, 0x7F000000, 5000, dtype=np.uint32)
        arrays = {"w": bits.view(np.float32), "n": bits.astype(np.int64) << 30}
        assert len(pack(codec, arrays, 0.5)) <= largest(codec, arrays, 0.5)
