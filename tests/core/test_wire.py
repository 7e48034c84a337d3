"""What is written on one side is read on the other, and what strangers write cannot do harm."""

import hashlib
import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from interplant.core import federation_pb2 as pb
from interplant.core import wire
from interplant.core.errors import InterplantError, Refusal
from interplant.core.files import PIECE
from interplant.core.flower import Envelope, message, refuse
from interplant.core.tensors import in_record, of_record

DTYPES = [np.dtype(code) for code in "efdbhilBHIL?"]
ENVELOPE = Envelope("run.3.9", 7, 0, 9, "train", "3", "", 1_750_000_000.5, 60.0)

arrays = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def same(one, other):
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert one.tobytes() == other.tobytes()  # also NaN, and the sign of zero


def round_trip(content, envelope=ENVELOPE):
    sent = message(envelope, content)
    body = wire.to_bytes(wire.tensors_of(sent.content))
    parcel = pb.Parcel.FromString(wire.to_parcel(sent, wire.blob_of(body)).SerializeToString())
    assert parcel.body == wire.blob_of(body)
    return wire.from_parcel(parcel, wire.from_bytes(body))


# --- tensors -------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"), arrays, max_size=4
    )
)
@settings(max_examples=150, deadline=None)
def test_tensors_come_back_as_they_were(tensors):
    found = wire.from_bytes(wire.to_bytes(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        same(found[name], array)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array.T,
        lambda array: array[::2],
        lambda array: array[:, ::-1],
        np.asfortranarray,
        lambda array: array[1:3, 1:3],
        lambda array: np.broadcast_to(array[0], (5, 4)),
        lambda array: array[..., None].swapaxes(0, 2),
    ],
)
def test_arrays_that_do_not_lie_in_order_come_back_as_they_were(view):
    array = view(np.arange(24, dtype=np.float32).reshape(6, 4))
    same(wire.from_bytes(wire.to_bytes({"w": array}))["w"], array)


def test_special_numbers_come_back_bit_for_bit():
    for dtype in (np.float16, np.float32, np.float64):
        array = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
        same(wire.from_bytes(wire.to_bytes({"w": array}))["w"], array)


def test_a_small_blob_is_packed_and_a_larger_one_is_stored():
    small, stored = {"w": np.zeros(wire.INLINE // 8)}, []

    def store(tensors):
        stored.append(tensors)
        return pb.Blob(sha256="ab", size=1)

    large = {"w": np.zeros(wire.INLINE // 8 + 1)}
    assert wire.pack(small | {"w": small["w"][:9]}, store)[1] == wire.to_bytes({"w": small["w"][:9]})
    assert stored == []
    for tensors in (small, large):  # the numbers of the first would fit, with their head they do not
        assert wire.pack(tensors, store) == (pb.Blob(sha256="ab", size=1), b"")
    assert stored == [small, large]


def test_what_is_packed_is_named_by_its_bytes():
    blob, body = wire.pack({"w": np.ones(3)}, lambda _: pb.Blob())
    assert blob == wire.blob_of(body)


def test_a_record_gets_its_own_names_back():
    tensors = {"w": np.ones(1), "update/w": np.zeros(1)}
    sent = in_record("update", tensors)
    assert list(sent) == ["update/w", "update/update/w"]
    assert of_record("update", sent | {"other/w": np.ones(2)}) == tensors


def test_the_same_tensors_give_the_same_bytes():
    """A broadcast is named by its digest."""
    one = wire.to_bytes({"a": np.ones(3), "b": np.zeros(2)})
    two = wire.to_bytes({"b": np.zeros(2), "a": np.ones(3)})
    assert one == two


def _safetensors(head, data=b""):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        bytes(8),
        b"\xff" * 8,
        b"PK\x03\x04 a zip file",
        b"\x80\x04\x95 a pickle",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
        struct.pack("<Q", 1 << 62) + b"{}",
        _safetensors(b"[" * 100_000),
        _safetensors(b'{"a": ' * 100_000),
        _safetensors(b"\xff\xfe"),
        _safetensors([]),
        _safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(15)),
        _safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(17)),
        _safetensors({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, bytes(4)),
        _safetensors({"w": {"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 4]}}, bytes(4)),
        _safetensors({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        _safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
        _safetensors({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        _safetensors({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
        _safetensors({"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
        _safetensors({"w": {"dtype": "F32"}}, bytes(4)),
        _safetensors(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            bytes(4),
        ),
    ],
)  # fmt: skip
def test_hostile_blobs_are_refused_in_one_sentence(body):
    with pytest.raises(InterplantError, match="expected tensors as safetensors") as failed:
        wire.from_bytes(body)
    assert "\n" not in str(failed.value)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(_safetensors))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_tensors_or_a_clear_error(body):
    with suppress(InterplantError):
        assert all(isinstance(array, np.ndarray) for array in wire.from_bytes(body).values())


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_blob_is_tensors_or_a_clear_error(data):
    body = bytearray(
        wire.to_bytes({"update/w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int8(3)})
    )
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(body)))
    with suppress(InterplantError):
        wire.from_bytes(bytes(body[:end]))


# --- messages ------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(["conv.weight", "a/b", "ä"]), arrays, min_size=1, max_size=3),
    st.dictionaries(
        st.text(max_size=8),
        st.text(max_size=20) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
        | st.lists(st.integers(0, 99), min_size=1, max_size=3),
        max_size=4,
    ),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_message_comes_back_as_it_was(tensors, words):
    content = RecordDict(
        {
            "weights": ArrayRecord({name: Array(array) for name, array in tensors.items()}),
            "task": ConfigRecord(words),
            "figures": MetricRecord({"rmse": 12.5, "steps": 3}),
        }
    )
    found = round_trip(content)
    assert Envelope.of(found) == ENVELOPE
    assert set(found.content) == {"weights", "task", "figures"}
    for name, array in tensors.items():
        same(found.content.array_records["weights"][name].numpy(), array)
    assert dict(found.content.config_records["task"]) == words
    types = {name: type(value) for name, value in found.content.config_records["task"].items()}
    assert types == {name: type(value) for name, value in words.items()}
    assert dict(found.content.metric_records["figures"]) == {"rmse": 12.5, "steps": 3}


def test_an_empty_message_comes_back_empty():
    found = round_trip(RecordDict())
    assert len(found.content) == 0
    assert not found.has_error()


def test_a_refusal_carries_its_code_and_nothing_else():
    request = message(ENVELOPE, RecordDict())
    parcel = wire.to_parcel(refuse(request, Refusal("budget_spent", "spent 0.98 of 1 on line 3")), None)
    assert parcel.error == "budget_spent"
    assert parcel.records == b""
    assert b"0.98" not in parcel.SerializeToString()
    found = wire.from_parcel(parcel, {})
    assert found.error.reason == "budget_spent"
    assert found.metadata.reply_to_message_id == "run.3.9"


def test_a_reason_in_somebodys_own_words_does_not_leave():
    request = message(ENVELOPE, RecordDict())
    reply = message(Envelope.of(request), None, Error(1, "Traceback: temperature 431.2 at row 9"))
    assert wire.to_parcel(reply, None).error == "internal"
    assert (
        wire.from_parcel(pb.Parcel(error="temperature 431.2", message_type="train"), {}).error.reason
        == "internal"
    )


@pytest.mark.parametrize(
    "records",
    [
        b"\xff", b"{", b"[]", b"1", b'"x"', b"null", b'{"config": 1}', b'{"config": []}',
        b'{"config": {"a": 1}}', b'{"config": {"a": {"b": null}}}', b'{"config": {"a": {"b": {}}}}',
        b'{"config": {"a": {"b": [1, "x"]}}}', b'{"metrics": {"a": {"b": "text"}}}',
        b"[" * 200_000, b'{"config":' * 200_000, b"9" * 5000,
        b'{"config": {"a": {"b": 1' + b"0" * 5000 + b"}}}",
    ],
)  # fmt: skip
def test_hostile_records_are_refused_in_one_sentence(records):
    with pytest.raises(InterplantError, match=r"message run\.1\.2 cannot be read"):
        wire.from_parcel(pb.Parcel(message_id="run.1.2", message_type="train", records=records), {})


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["config", "metrics", "a", "update", ""]), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.text(max_size=6), arrays, max_size=2),
    st.sampled_from(["train", "train", "evaluate", "", "train.", "os.system"]),
)
@settings(max_examples=300, deadline=None)
def test_any_parcel_is_a_message_or_a_clear_error(records, tensors, kind):
    parcel = pb.Parcel(message_id="m", reply_to="q", records=records, message_type=kind)
    parcel.ttl, parcel.created_at, parcel.group_id = float("nan"), -1.0, "../.."
    with suppress(InterplantError):
        assert wire.from_parcel(parcel, tensors).metadata.reply_to_message_id == "q"


# --- blobs and pieces -----------------------------------------------------------------------------------


def test_a_blob_is_named_by_its_digest():
    assert wire.blob_of(b"abc") == pb.Blob(sha256=hashlib.sha256(b"abc").hexdigest(), size=3)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("offset", [0, 1, PIECE, PIECE + 1])
def test_pieces_are_the_rest_of_a_file(tmp_path, size, offset):
    body = np.random.default_rng(size).bytes(size)
    (tmp_path / "blob").write_bytes(body)
    found = list(wire.pieces(tmp_path / "blob", offset, "m"))
    assert b"".join(piece.data for piece in found) == body[offset:]
    assert all(len(piece.data) <= PIECE for piece in found)
    assert (found[0].message_id, found[0].offset) == ("m", offset)
    assert not any(piece.message_id or piece.offset for piece in found[1:])
    assert all(piece.data for piece in found[1:])
