"""The one adapter to what Flower does not make public."""

import gc
import time
import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st

from interplant.core import flower
from interplant.core.errors import REFUSALS, Refusal

ENVELOPE = flower.Envelope("run.1.5", 3, 0, 5, "train", "1", "", 1_750_000_000.0, 30.0)


def test_a_message_has_the_envelope_it_was_given():
    assert flower.Envelope.of(flower.message(ENVELOPE, RecordDict())) == ENVELOPE


@given(
    st.builds(
        flower.Envelope,
        st.text(max_size=9), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1),
        st.sampled_from(["train", "evaluate", "query"]), st.text(max_size=5), st.text(max_size=9),
        st.floats(1e9, 2e9), st.floats(1, 1e6),
    )
)  # fmt: skip
def test_any_envelope_comes_back(envelope):
    assert flower.Envelope.of(flower.message(envelope, RecordDict())) == envelope


def test_a_message_without_a_time_is_of_now():
    envelope = flower.Envelope("m", 1, 0, 2, "train", "1")
    assert abs(flower.Envelope.of(flower.message(envelope, RecordDict())).created_at - time.time()) < 5


def test_content_and_error_exclude_each_other():
    content = RecordDict({"w": ArrayRecord({"a": Array("float32", (1,), "numpy.ndarray", b"")})})
    good, bad = flower.message(ENVELOPE, content), flower.message(ENVELOPE, None, Error(0, "paused"))
    assert (good.has_content(), good.has_error()) == (True, False)
    assert (bad.has_content(), bad.has_error()) == (False, True)


def test_a_client_app_answers_a_message_of_ours():
    """The ids survive Flower's own code, outside a SuperLink."""
    app = ClientApp()

    @app.train()
    def train(request: Message, context) -> Message:
        assert (context.node_id, context.run_id, context.node_config) == (5, 3, {"plant": "x"})
        return Message(RecordDict(), reply_to=request)

    reply = app(flower.message(ENVELOPE, RecordDict()), flower.context(5, 3, {"plant": "x"}, {}))
    found = flower.Envelope.of(reply)
    assert (found.reply_to, found.source, found.destination) == ("run.1.5", 5, 0)
    assert (found.run_id, found.group_id, found.message_type) == (3, "1", "train")


def test_arrays_cross_a_message_without_a_copy():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    record = flower.arrays({"w": array})
    sent = flower.message(ENVELOPE, RecordDict({"update": record}))
    assert sent.content.array_records["update"]["w"].numpy() is array
    assert record.to_numpy_ndarrays()[0] is array
    assert "data" not in record["w"].__dict__, "bytes are made only for who asks"


@pytest.mark.parametrize("array", [np.ones((2, 3), np.float32), np.array(2.5), np.zeros((0, 4), np.int8)])
def test_a_held_array_is_flowers_own_to_whoever_looks(array):
    held, own = flower.arrays({"w": array})["w"], Array(array)
    assert isinstance(held, Array)
    assert (held.dtype, held.shape, held.stype, held.data) == (own.dtype, own.shape, own.stype, own.data)
    assert held.deflate() == own.deflate()
    assert held.object_id == own.object_id


def test_a_record_of_held_arrays_survives_flowers_own_wire():
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1.5)}
    record = flower.arrays(tensors)
    children = {
        array.object_id: Array.inflate(array.deflate(), {key: chunk for key, chunk in array.children.items()})
        for array in record.values()
    }
    found = ArrayRecord.inflate(record.deflate(), children)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
        assert type(found[name]) is Array


def test_a_message_that_is_let_go_holds_no_array_until_the_collector_comes():
    array = np.zeros(3)
    content = RecordDict({"update": flower.arrays({"w": array}), "receipt": ConfigRecord({"a": 1})})
    made, left = flower.message(ENVELOPE, content), weakref.ref(array)
    assert made.content.array_records["update"]["w"].numpy() is array
    gc.disable()
    try:
        flower.let_go(made)
        del made, content, array
        assert left() is None
    finally:
        gc.enable()


def test_a_refusal_can_be_let_go_too():
    flower.let_go(flower.message(ENVELOPE, None, Error(0, "internal")))


def test_the_run_of_a_grid_has_its_number():
    assert flower.empty_run(77).run_id == 77


def test_the_grid_is_flowers_own():
    assert flower.Grid is Grid


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_every_refusal_comes_back_by_its_code(code):
    request = flower.message(ENVELOPE, RecordDict())
    reply = flower.refuse(request, Refusal(code, "17.3 bar on line 2"))
    assert flower.refusal(reply) == code
    assert "17.3" not in repr(reply.error.__dict__)
    assert reply.metadata.reply_to_message_id == "run.1.5"


@pytest.mark.parametrize("reason", ["", None, "division by zero", "BUDGET_SPENT"])
def test_a_reason_that_is_not_ours_reads_internal(reason):
    assert flower.refusal(flower.message(ENVELOPE, None, Error(0, reason))) == "internal"


def test_records_are_those_that_flower_would_make():
    array = np.arange(3, dtype=np.float32)
    made = flower.content_of(
        {
            "update": flower.arrays({"w": array}),
            "words": flower.config_record({"a": 1, "b": "two", "c": [1, 2]}),
        }
    )
    theirs = RecordDict(
        {"update": ArrayRecord({"w": Array(array)}), "words": ConfigRecord({"a": 1, "b": "two"})}
    )
    theirs.config_records["words"]["c"] = [1, 2]
    assert made.array_records["update"]["w"].numpy() is array
    assert made.config_records["words"] == theirs.config_records["words"]
    assert made.object_id == theirs.object_id, "the same on Flower's own wire"
    assert flower.records_of(made, ConfigRecord) == {"words": made["words"]}


@pytest.mark.parametrize("value", [None, {}, object(), [1, "two"]], ids=["none", "dict", "object", "mixed"])
def test_what_flower_does_not_send_is_no_word(value):
    with pytest.raises(TypeError):
        flower.config_record({"a": value})
