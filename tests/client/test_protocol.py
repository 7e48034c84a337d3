"""The Open Inference Protocol: what is read of a request, what is refused, and how it is answered."""

import json
from typing import Any

import numpy as np
import pytest

from interplant.client import protocol
from interplant.client.protocol import Data, ProtocolError, Request, parse


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(**words: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6.5]} | words


def nested(depth: int) -> Any:
    """A number in so many lists."""
    value: Any = 0.0
    for _ in range(depth):
        value = [value]
    return value


def numbers(request: Request, name: str = "x") -> Any:
    data = request.inputs[name].data
    assert not isinstance(data, list)
    return data


def test_a_flat_list_takes_its_shape() -> None:
    request = parse(body(tensor(), id="42"))
    assert request.id == "42"
    assert request.inputs["x"].shape == (2, 3)
    np.testing.assert_array_equal(numbers(request), np.array([[1, 2, 3], [4, 5, 6.5]], np.float32))
    assert numbers(request).dtype == np.float32


def test_nested_lists_are_the_same() -> None:
    nested = parse(body(tensor(data=[[1, 2, 3], [4, 5, 6.5]])))
    np.testing.assert_array_equal(numbers(nested), numbers(parse(body(tensor()))))


@pytest.mark.parametrize("datatype", list(protocol.NUMBERS))
def test_every_datatype_of_numbers_is_read(datatype: str) -> None:
    request = parse(body(tensor(datatype=datatype, shape=[3], data=[1, 2, 3])))
    assert numbers(request).dtype == protocol.NUMBERS[datatype]
    assert numbers(request).tolist() == [1, 2, 3]


def test_texts_are_read() -> None:
    request = parse(body(tensor(datatype="BYTES", shape=[2], data=["press 1", "Presse ü"])))
    assert request.inputs["x"].data == ["press 1", "Presse ü"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "the body: expected a JSON object"),
        (b"{}", "inputs: expected a list"),
        (b'{"inputs": []}', "inputs: expected a list of at least one"),
        (b'{"inputs": {"x": 1}}', "inputs: expected a list"),
        (body(7), r"inputs\[0\]: expected a JSON object"),
        (body(tensor(name="")), "name: expected text"),
        (body(tensor(name=None)), "name: expected text"),
        (body(tensor(name="x" * 101)), "name: expected text"),
        (body(tensor(), outputs=[{"name": "x" * 101}]), "name: expected text"),
        (body(tensor(), tensor()), "'x' is there twice"),
        (body(tensor(), id=7), "id: expected text"),
        (body(tensor(datatype="FLOAT")), "datatype: expected one of INT8.* or BYTES, found 'FLOAT'"),
        (body(tensor(datatype=["FP32"])), "datatype: expected one of"),
        (body(tensor(shape=[])), "shape: expected a list of whole numbers"),
        (body(tensor(shape=[2, -3])), "shape: expected a list of whole numbers"),
        (body(tensor(shape=[2, True])), "shape: expected a list of whole numbers"),
        (body(tensor(shape="2,3")), "shape: expected a list of whole numbers"),
        (body(tensor(shape=[1 << 60])), "shape: expected a list of whole numbers"),
        (body(tensor(shape=[2, 4])), "expected 8 values for shape .2, 4., found 6"),
        (body(tensor(shape=[1 << 39, 1 << 39])), "expected .* values for shape"),
        (body(tensor(shape=[(1 << 40) - 1] * 8)), "expected .* values for shape"),
        (body(tensor(shape=[(1 << 40) - 1] * 60_000)), "shape: expected a list of whole numbers, at most 8"),
        (body(tensor(shape=[1] * 65, data=[0.0])), "shape: expected a list of whole numbers, at most 8"),
        (body(tensor(shape=[0, 1 << 39, 1 << 39], data=[])), "shape: found .0, 549755813888, .* no tensor"),
        (body(tensor(shape=nested(300))), "shape: expected a list of whole numbers"),
        (body(tensor(shape=[1], data=nested(300))), "expected a flat list, or lists of shape .1."),
        (body(tensor(datatype=nested(300))), "datatype: expected one of"),
        (body(tensor(shape=[1] * 60_000)), "shape: expected a list"),
        (body(tensor(data=None)), "data: expected a list"),
        (body({"name": "x", "datatype": "FP32", "shape": [1]}), "data: expected a list"),
        (body(tensor(data=[[1, 2, 3], [4, 5]])), "expected lists of one length"),
        (body(tensor(data=[[1, 2], [3, 4], [5, 6]])), "expected a flat list, or lists of shape .2, 3."),
        (body(tensor(data=[[1, 2, 3], 4])), "lists and values stand beside each other"),
        (body(tensor(data=[1, 2, 3, 4, 5, "6"])), "expected numbers, found text"),
        (body(tensor(data=[1, 2, 3, 4, 5, None])), "expected numbers, found null"),
        (body(tensor(data=[1, 2, 3, 4, 5, True])), "expected numbers, found true or false"),
        (body(tensor(data=[1, 2, 3, 4, 5, {}])), "expected numbers, found lists or objects"),
        (body(tensor(datatype="INT64", data=[1, 2, 3, 4, 5, 6.5])), "whole numbers, found fractions"),
        (body(tensor(datatype="INT8", data=[1, 2, 3, 4, 5, 600])), "a number does not fit INT8"),
        (body(tensor(datatype="UINT8", data=[1, 2, 3, 4, 5, -6])), "a number does not fit UINT8"),
        (body(tensor(datatype="BYTES", shape=[1], data=[7])), "expected texts, found numbers"),
        (body(tensor(parameters=[1])), "parameters: expected a JSON object"),
        (body(tensor(), parameters=7), "parameters: expected a JSON object"),
        (body(tensor(), outputs=7), "outputs: expected a list"),
        (body(tensor(), outputs=[{}]), r"outputs\[0\]: name: expected text"),
        (body(tensor(data=[[[]]], shape=[0])), "expected a flat list, or lists of shape"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(content: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        parse(content)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_shape_is_not_multiplied_before_its_length_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of a long one takes seconds, in which nobody else is answered."""
    lengths = []

    def prod(shape: Any) -> int:
        lengths.append(len(shape))
        return 1

    monkeypatch.setattr(protocol.math, "prod", prod)
    for words in ({"shape": [(1 << 40) - 1] * 10_000}, {"shape": [1] * 9, "data": [0.0]}):
        with pytest.raises(ProtocolError):
            parse(body(tensor(**words)))
        with pytest.raises(ProtocolError):
            binary(bytes(4), shape=words["shape"])
    parse(body(tensor(shape=[1] * 8, data=[0.0])))
    assert lengths == [8]


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(body(tensor(datatype="x" * 1_000_000)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("part", [b"[],", b'{"a":{}},', b'"a",', b"[[[]]],"])
def test_more_parts_than_a_request_can_have_are_not_read(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read of them would take far more memory than they do."""
    few, many = b'{"inputs":[' + part * 10 + b"7]}", b'{"inputs":[' + part * 1000 + b"7]}"
    with pytest.raises(ProtocolError, match=r"inputs\[0\]: expected a JSON object|inputs\[0\]: name"):
        parse(few, parts=200)
    monkeypatch.setattr(protocol.msgspec.json, "decode", None)
    for body, length in ((many, None), (bytearray(many), None), (many + bytes(9), str(len(many)))):
        with pytest.raises(ProtocolError, match="expected at most 200 lists, objects and texts"):
            parse(body, length, parts=200)


# --- tensors as bytes ------------------------------------------------------------------------------


def binary(raw: bytes, size: Any = None, length: str | None = None, **words: Any) -> Request:
    entry = tensor(parameters={"binary_data_size": len(raw) if size is None else size}, **words)
    del entry["data"]
    head = body(entry)
    return parse(head + raw, str(len(head)) if length is None else length)


def test_bytes_behind_the_json_are_a_tensor() -> None:
    x = np.array([[1, 2, 3], [4, 5, 6.5]], "<f4")
    np.testing.assert_array_equal(numbers(binary(x.tobytes())), x)


def test_texts_come_as_bytes_too() -> None:
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in (b"press 1", "ü".encode()))
    assert binary(raw, datatype="BYTES", shape=[2]).inputs["x"].data == ["press 1", "ü"]


def test_tensors_of_both_kinds_stand_beside_each_other() -> None:
    first, second = np.arange(2, dtype="<i8"), np.arange(3, dtype="<f8")
    entries = [
        {"name": "a", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
        {"name": "b", "datatype": "FP32", "shape": [1], "data": [7]},
        {"name": "c", "datatype": "FP64", "shape": [3], "parameters": {"binary_data_size": 24}},
    ]
    head = body(*entries)
    request = parse(head + first.tobytes() + second.tobytes(), str(len(head)))
    assert [numbers(request, name).tolist() for name in "abc"] == [[0, 1], [7], [0, 1, 2]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"raw": bytes(23)}, "expected 24 bytes for FP32, found 23"),
        ({"raw": bytes(24), "size": 25}, "binary_data_size: expected up to 24 bytes, found 25"),
        ({"raw": bytes(24), "size": -1}, "binary_data_size: expected up to 24"),
        ({"raw": bytes(24), "size": "24"}, "binary_data_size: expected up to 24"),
        ({"raw": bytes(25), "size": 24}, "1 bytes stand behind"),
        ({"raw": bytes(24), "length": "9" * 11}, "expected a number up to the body's"),
        ({"raw": bytes(24), "length": "-1"}, "expected a number up to the body's"),
        ({"raw": bytes(24), "length": "²"}, "expected a number up to the body's"),
        ({"raw": bytes(4), "shape": [1] * 70}, "shape: expected a list of whole numbers, at most 8"),
        ({"raw": b"", "shape": [0, 1 << 39, 1 << 39]}, "which no tensor has"),
        ({"raw": b"\x05\0\0\0abc", "datatype": "BYTES", "shape": [1]}, "a text is longer than the bytes"),
        ({"raw": b"\x05\0", "datatype": "BYTES", "shape": [1]}, "a text is longer than the bytes"),
        ({"raw": b"\x01\0\0\0\xff", "datatype": "BYTES", "shape": [1]}, "expected UTF-8"),
        ({"raw": b"\x01\0\0\0a", "datatype": "BYTES", "shape": [2]}, "expected 2 values"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        binary(**words)


def test_data_twice_is_refused() -> None:
    head = body(tensor(parameters={"binary_data_size": 24}))
    with pytest.raises(ProtocolError, match="found both"):
        parse(head + bytes(24), str(len(head)))


# --- answers ---------------------------------------------------------------------------------------

OUTPUTS: dict[str, Data] = {"y": np.array([[0.25, 2.0]], np.float32), "id": ["é"]}


def answered(**more: Any) -> tuple[bytes, dict[bytes, bytes]]:
    content, headers = protocol.answer(parse(body(tensor(), **more)), {"model_name": "m"}, OUTPUTS)
    return content, dict(headers)


def test_an_answer_has_the_requests_id_and_every_output() -> None:
    content, headers = answered(id="42")
    assert headers == {b"content-type": b"application/json"}
    assert json.loads(content) == {
        "model_name": "m",
        "id": "42",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 2.0]},
            {"name": "id", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
    }


def test_a_caller_may_want_some_outputs_only() -> None:
    content, _ = answered(outputs=[{"name": "id"}])
    assert [one["name"] for one in json.loads(content)["outputs"]] == ["id"]
    with pytest.raises(ProtocolError, match="outputs: expected some of y, id, found 'z'"):
        answered(outputs=[{"name": "z"}])


def test_a_caller_may_want_bytes() -> None:
    content, headers = answered(outputs=[{"name": "y", "parameters": {"binary_data": True}}, {"name": "id"}])
    length = int(headers[protocol.HEADER_LENGTH.encode()])
    entries = json.loads(content[:length])["outputs"]
    assert entries[0]["parameters"] == {"binary_data_size": 8}
    assert "data" not in entries[0]
    assert entries[1]["data"] == ["é"]
    np.testing.assert_array_equal(np.frombuffer(content[length:], "<f4"), OUTPUTS["y"].reshape(-1))  # type: ignore[union-attr]


def test_all_outputs_as_bytes() -> None:
    content, headers = answered(parameters={"binary_data_output": True})
    length = int(headers[protocol.HEADER_LENGTH.encode()])
    sizes = [one["parameters"]["binary_data_size"] for one in json.loads(content[:length])["outputs"]]
    assert sizes == [8, 6]
    assert content[length + 8 :] == b"\x02\0\0\0" + "é".encode()
