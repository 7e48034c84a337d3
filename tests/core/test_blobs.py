"""Tensors in files: the library's format, views without copies, and no file is half there."""

import gc
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as library

from interplant.core import blobs
from interplant.core.errors import InterplantError
from interplant.core.wire import blob_of, from_bytes, to_bytes

DTYPES = [np.dtype(code) for code in "efdbhilBHIL?F"]
ARRAYS = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
TENSORS = {
    "update/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "update/none": np.zeros((0, 3), np.float32),
    "update/n": np.array(3, np.int8),
}

here = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tensors"


def stored(path, tensors=TENSORS, **words):
    blobs.save(path, tensors)
    return blobs.load(path, **words)


def same(found, tensors):
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes()  # also NaN, and the sign of zero


@given(st.dictionaries(NAMES, ARRAYS, max_size=5))
@here
def test_tensors_come_back_as_they_were_and_as_the_library_reads_them(path, tensors):
    same(stored(path, tensors), tensors)
    same(library.load_file(path), tensors)
    assert path.read_bytes() == to_bytes(tensors)


def test_arrays_that_do_not_lie_in_order_come_back_as_they_were(path):
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    tensors = {"t": array.T, "step": array[::2], "back": array[:, ::-1], "f": np.asfortranarray(array)}
    same(stored(path, tensors), tensors)


def test_views_stay_when_their_file_is_gone(path):
    found = stored(path)
    path.unlink()
    same(found, TENSORS)


def test_views_stay_when_another_file_takes_the_place(path):
    found = stored(path)
    blobs.save(path, {"update/w": np.zeros(1)})
    same(found, TENSORS)


def test_reading_takes_no_memory_for_the_arrays(path):
    found = stored(path, {"w": np.ones(1 << 20, np.float32)})
    assert not found["w"].flags.owndata
    assert not found["w"].flags.writeable


def test_what_is_written_to_writable_views_is_private(path):
    found = stored(path, writable=True)
    found["update/w"] += 1
    np.testing.assert_array_equal(found["update/w"], TENSORS["update/w"] + 1)
    same(blobs.load(path), TENSORS)


def test_a_view_holds_its_file_no_longer_than_itself(path):
    found = stored(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del found
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


# --- hostile files -------------------------------------------------------------------------------------


def raw(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x04\x95 a pickle",
        struct.pack("<Q", 1 << 62) + b"{}",
        raw(b"[" * 100_000),
        raw(b"\xff\xfe"),
        raw({"w": entry([4], 0, 16)}, bytes(15)),
        raw({"w": entry([4], 0, 16)}, bytes(17)),
        raw({"w": entry([10**12], 0, 4)}, bytes(4)),
        raw({"w": entry([2**63, 4], 0, 4)}, bytes(4)),
        raw({"w": entry([-1], 0, 4)}, bytes(4)),
        raw({"w": entry([1], 4, 0)}, bytes(4)),
        raw({"w": entry([1], 4, 8)}, bytes(8)),
        raw({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
        raw({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        raw({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
        raw({"w": entry([1], 0, 8, "O")}, bytes(8)),
        raw({"w": entry([1], 0, 2, "BF16")}, bytes(2)),
        raw({"w": entry([1], 0, 1, "F8_E4M3")}, bytes(1)),
        raw({"w": {"dtype": "F32"}}, bytes(4)),
    ],
)
def test_hostile_files_are_refused_in_one_sentence(path, body):
    path.write_bytes(body)
    with pytest.raises(InterplantError, match="expected tensors as safetensors") as failed:
        blobs.load(path)
    assert "\n" not in str(failed.value)


@given(st.data())
@here
def test_a_damaged_file_reads_as_the_library_reads_its_bytes(path, data):
    body = bytearray(to_bytes(TENSORS))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(body[: data.draw(st.integers(0, len(body)))])
    path.write_bytes(body)
    with suppress(InterplantError):
        expected = from_bytes(body)
        same(blobs.load(path), expected)
        return
    with pytest.raises(InterplantError):
        blobs.load(path)


def test_tensors_in_any_order_are_laid_out_by_their_offsets(path):
    path.write_bytes(raw({"a": entry([1], 4, 8), "b": entry([1], 0, 4)}, struct.pack("<ff", 1.0, 2.0)))
    assert {name: array.tolist() for name, array in blobs.load(path).items()} == {"a": [2.0], "b": [1.0]}


# --- the file behind the arrays ------------------------------------------------------------------------


def test_arrays_know_their_file(path):
    found = stored(path)
    assert blobs.file_of(found) == path
    short = {name.removeprefix("update/"): array for name, array in found.items()}
    assert blobs.file_of(short, "update/") == path
    assert blobs.file_of(short) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found | {"update/w": found["update/w"].copy()},
        lambda found: found | {"update/w": found["update/w"][:1]},
        lambda found: found | {"update/w": found["update/w"].T},
        lambda found: found | {"update/w": found["update/w"].view(np.int32)},
        lambda found: found | {"more": np.ones(1)},
        lambda found: {name: found[name] for name in ("update/w", "update/none")},
        lambda found: {"w" if name == "update/w" else name: array for name, array in found.items()},
        lambda found: {},
    ],
)
def test_arrays_that_are_not_all_of_the_file_have_none(path, change):
    assert blobs.file_of(change(stored(path))) is None


@pytest.mark.parametrize(
    "head",
    [
        {"__metadata__": {"rows": "4711"}, "w": entry([1], 0, 4)},
        {"w": entry([1], 0, 4), "__metadata__": {}},
        json.dumps({"w": entry([1], 0, 4)}, indent=1).encode(),
        json.dumps({"w": entry([1], 0, 4)}, separators=(",", ":")).encode() + b" " * 80,
        {"b": entry([1], 0, 4), "a": entry([1], 4, 8)},
    ],
)
def test_a_head_that_could_carry_more_is_not_passed_on(path, head):
    """What is not an array has not been seen by the plant's gateway."""
    path.write_bytes(raw(head, bytes(8 if isinstance(head, dict) and "a" in head else 4)))
    found = blobs.load(path)
    assert blobs.file_of(found) is None
    blobs.keep(path.with_name("kept"), found)
    assert path.with_name("kept").read_bytes() == to_bytes(found)


WORDS = st.text("abcdefghijklmnop._0123456789/", min_size=1)


@given(st.dictionaries(WORDS, hnp.arrays(np.float32, hnp.array_shapes(min_dims=0)), min_size=1, max_size=5))
@here
def test_a_model_that_was_saved_here_knows_its_file(path, tensors):
    assert blobs.file_of(stored(path, tensors)) == path


def test_arrays_of_two_files_have_none(path):
    other = path.with_name("other")
    assert blobs.file_of(stored(path) | {"update/w": stored(other)["update/w"]}) is None


def test_arrays_that_could_have_been_changed_have_none(path):
    assert blobs.file_of(stored(path, writable=True)) is None


def test_a_file_that_was_replaced_or_removed_is_not_the_arrays(path):
    found = stored(path)
    blobs.save(path, {name: array + 1 for name, array in TENSORS.items()})
    assert blobs.file_of(found) is None
    path.unlink()
    assert blobs.file_of(found) is None


def lying(found):
    """What the file behind arrays holds where they are said to begin."""
    file, starts = blobs.open_under(found)
    try:
        return {name: os.pread(file, found[name].nbytes, start) for name, start in starts.items()}
    finally:
        os.close(file)


def test_arrays_are_found_in_their_file_and_stay_there_when_it_is_removed(path):
    found = stored(path)
    assert lying(found) == {name: array.tobytes() for name, array in found.items()}
    some = {"w": found["update/w"][1:]}
    assert lying(some) == {"w": some["w"].tobytes()}
    file, starts = blobs.open_under(some)
    path.unlink()
    assert os.pread(file, some["w"].nbytes, starts["w"]) == some["w"].tobytes()
    os.close(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found | {"update/w": found["update/w"].copy()},
        lambda found: found | {"update/w": found["update/w"].T},
        lambda found: found | {"more": np.ones(1)},
        lambda found: {},
    ],
)
def test_arrays_that_lie_elsewhere_too_are_not_read_in_a_file(path, change):
    assert blobs.open_under(change(stored(path))) is None


def test_arrays_that_may_differ_from_their_file_are_not_read_there(path):
    assert blobs.open_under(stored(path, writable=True)) is None
    found = stored(path)
    blobs.save(path, {name: array + 1 for name, array in TENSORS.items()})
    assert blobs.open_under(found) is None
    path.unlink()
    assert blobs.open_under(found) is None


# --- keeping -------------------------------------------------------------------------------------------


def test_what_is_kept_is_named_by_its_bytes(path):
    assert blobs.keep(path, TENSORS) == blob_of(path.read_bytes()) == blob_of(to_bytes(TENSORS))


def test_a_file_is_moved_and_its_views_stay(path):
    found, to = stored(path), path.with_name("kept")
    assert blobs.keep(to, found) == blob_of(to_bytes(TENSORS))
    assert os.listdir(path.parent) == ["kept"]
    same(found, TENSORS)


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(path, full_disk):
    stored(path)
    large = {"w": np.ones(1000)}
    for write in (blobs.save, blobs.keep):
        with full_disk(1000), pytest.raises(InterplantError, match="the disk is full; free some space"):
            write(path, large)
        same(blobs.load(path), TENSORS)
        assert os.listdir(path.parent) == ["tensors"]


def test_a_file_is_replaced_whole_and_on_disk_before_it_has_its_name(path, monkeypatch):
    done, fsync, rename = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda one, to: (done.append("replace"), rename(one, to))[1])
    blobs.replace(path, TENSORS, {"round": "3"})
    assert done == ["fsync", "replace", "fsync"]
    same(blobs.load(path), TENSORS)
    with library.safe_open(path, "numpy") as file:
        assert file.metadata() == {"round": "3"}
    assert os.listdir(path.parent) == ["tensors"]


def test_a_full_disk_leaves_what_was_to_be_replaced(path, full_disk):
    blobs.replace(path, TENSORS, {})
    with full_disk(1000), pytest.raises(InterplantError, match="the disk is full"):
        blobs.replace(path, {"w": np.ones(1000)}, {})
    same(blobs.load(path), TENSORS)
    assert os.listdir(path.parent) == ["tensors"]


def test_a_folder_that_cannot_be_written_is_not_disguised(tmp_path):
    with pytest.raises(FileNotFoundError):
        blobs.save(tmp_path / "missing" / "tensors", TENSORS)
