"""The Open Inference Protocol, version 2, over REST: a request's body to tensors, and outputs to a body.

The protocol: https://github.com/open-inference/open-inference-protocol. Tensors stand in JSON, or behind it
as bytes (its extension for binary tensors), little-endian, in the order in which they are named.
"""

import itertools
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

BYTES: Final = "BYTES"
NUMBERS: Final = {
    **{f"{sign}INT{bits}": np.dtype(f"<{kind}{bits // 8}") for sign, kind in (("", "i"), ("U", "u"))
       for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}  # fmt: skip
"""Datatypes of numbers."""

EXTENSIONS: Final = ("binary_tensor_data",)
HEADER_LENGTH: Final = "inference-header-content-length"
"""The HTTP header that says how much of a body is JSON."""

_NAME: Final = 100
"""Characters of a name; what is refused is repeated, and should fit a line."""

_DIMENSIONS: Final = 8
"""Of a tensor; a model takes three. The product of a longer shape could take the processor for long."""

_SENTENCE: Final = 400
"""Characters of a refusal; whoever sends much that is wrong is not sent it all back."""

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60

Data = NDArray[Any] | list[str]
Body = bytes | bytearray


class ProtocolError(Exception):
    """A request that is not answered, and why.

    Args:
        status: Of HTTP.
        sentence: What was expected, what was found, what to do.
        retry_after: Seconds after which it may be sent again, or None.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        self.status, self.retry_after = status, retry_after
        super().__init__(sentence if len(sentence) <= _SENTENCE else f"{sentence[:_SENTENCE]}...")


@dataclass(frozen=True)
class Tensor:
    """One named input: numbers in its shape, or texts, one after the other."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request to infer.

    Args:
        id: The caller's, or None.
        inputs: By name.
        wanted: Names of the outputs that are asked for, and whether as bytes; None for all.
        binary: Whether outputs are sent as bytes unless `wanted` says otherwise.
    """

    id: str | None
    inputs: Mapping[str, Tensor]
    wanted: Mapping[str, bool] | None
    binary: bool


def parse(body: Body, header_length: str | None = None, parts: int | None = None) -> Request:
    """Read the body of a request to infer.

    Args:
        body: JSON, and behind it tensors' bytes.
        header_length: What the header `HEADER_LENGTH` says, or None if it is not there.
        parts: See `json_object`.

    Raises:
        ProtocolError: 400, and what is wrong with it.
    """
    text, rest = _split(body, header_length)
    content = json_object(text, parts)
    parameters = _object(content.get("parameters", {}), "parameters")
    binary = parameters.get("binary_data_output", False) is True
    id = content.get("id")
    _need(id is None or isinstance(id, str), "id: expected text")
    listed: Any = content.get("inputs")
    _need(isinstance(listed, list) and bool(listed), "inputs: expected a list of at least one tensor")
    inputs: dict[str, Tensor] = {}
    for place, one in enumerate(listed):
        tensor, rest = _tensor(_object(one, f"inputs[{place}]"), rest, f"inputs[{place}]")
        _need(tensor.name not in inputs, f"inputs[{place}]: {tensor.name!r} is there twice")
        inputs[tensor.name] = tensor
    _need(not rest, f"{len(rest)} bytes stand behind the inputs' own; expected none")
    return Request(id, inputs, _wanted(content.get("outputs"), binary), binary)


def json_object(text: Body | memoryview, parts: int | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: What it is written in.
        parts: Lists that it may have, and objects, and quotation marks; None for any number. Each takes some
            twenty times the memory of what it is written in.

    Raises:
        ProtocolError: 400: it is none, or has more.
    """
    if parts is not None and len(text) > parts:
        whole = bytes(text) if isinstance(text, memoryview) else text
        _need(
            all(whole.count(mark) <= parts for mark in (b"[", b"{", b'"')),
            f"the body: expected at most {parts} lists, objects and texts, found more",
        )
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(400, f"the body is not JSON: {error}") from None
    return _object(content, "the body")


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Write a JSON object."""
    return msgspec.json.encode(content)


def answer(
    request: Request, head: Mapping[str, Any], outputs: Mapping[str, Data]
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Write the answer to a request.

    Args:
        request: Whose.
        head: Everything of the answer but its id and its outputs.
        outputs: By name, in the order in which they are answered; float32 numbers, or texts.

    Returns:
        The body, and the headers that go with it.

    Raises:
        ProtocolError: 400: an output is wanted that there is none of.
    """
    wanted = request.wanted
    for name in wanted or ():
        _need(name in outputs, f"outputs: expected some of {', '.join(outputs)}, found {name!r}")
    tensors, behind = [], []
    for name in wanted or outputs:
        entry, raw = _written(name, outputs[name], wanted[name] if wanted else request.binary)
        tensors.append(entry)
        behind += raw
    content = {**head, "outputs": tensors}
    if request.id is not None:
        content["id"] = request.id
    text = json_bytes(content)
    if not behind:
        return text, [(b"content-type", b"application/json")]
    headers = [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH.encode(), str(len(text)).encode()),
    ]
    return b"".join([text, *behind]), headers


def _split(body: Body, header_length: str | None) -> tuple[Body | memoryview, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    good = header_length.isascii() and header_length.isdigit() and len(header_length) < 12
    _need(
        good and int(header_length) <= len(body),
        f"{HEADER_LENGTH}: expected a number up to the body's {len(body)} bytes, "
        f"found {header_length[:20]!r}",
    )
    view = memoryview(body)
    return view[: int(header_length)], view[int(header_length) :]


def _tensor(entry: Mapping[str, Any], rest: memoryview, where: str) -> tuple[Tensor, memoryview]:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape", ())
    _need(isinstance(name, str) and 0 < len(name) <= _NAME, f"{where}: name: expected text, not too long")
    where = f"input {name!r}"
    _need(
        isinstance(datatype, str) and (datatype in NUMBERS or datatype == BYTES),
        f"{where}: datatype: expected one of {', '.join(NUMBERS)} or {BYTES}, found {short(datatype)}",
    )
    sizes = isinstance(shape, list) and 0 < len(shape) <= _DIMENSIONS
    _need(
        sizes and all(type(size) is int and 0 <= size < 1 << 40 for size in shape),
        f"{where}: shape: expected a list of whole numbers, at most {_DIMENSIONS}, found {short(shape)}",
    )
    parameters = _object(entry.get("parameters", {}), f"{where}: parameters")
    size = parameters.get("binary_data_size")
    if size is None:
        data = _of_json(entry.get("data"), str(datatype), tuple(shape), where)
        return Tensor(str(name), str(datatype), tuple(shape), data, parameters), rest
    _need("data" not in entry, f"{where}: expected data or binary_data_size, found both")
    _need(
        type(size) is int and 0 <= size <= len(rest),
        f"{where}: binary_data_size: expected up to {len(rest)} bytes, found {short(size)}",
    )
    data = _of_bytes(rest[:size], str(datatype), tuple(shape), where)
    return Tensor(str(name), str(datatype), tuple(shape), data, parameters), rest[size:]


def _of_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> Data:
    _need(isinstance(data, list), f"{where}: data: expected a list")
    flat = _flat(data, shape, where)
    _count(len(flat), shape, where)
    kinds = set(map(type, flat))
    if datatype == BYTES:
        _need(kinds <= {str}, f"{where}: data: expected texts, found {_kinds(kinds - {str})}")
        texts: list[str] = flat
        return texts
    allowed = {int, float} if datatype.startswith("FP") else {int}
    _need(
        kinds <= allowed,
        f"{where}: data: expected {'numbers' if float in allowed else 'whole numbers'}, "
        f"found {_kinds(kinds - allowed)}",
    )
    try:
        array = np.array(flat, dtype=NUMBERS[datatype])
    except OverflowError:
        raise ProtocolError(400, f"{where}: data: a number does not fit {datatype}") from None
    return _shaped(array, shape, where)


def _flat(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    """The values; lists in lists have to be of the shape, level by level."""
    flat, found = data, [len(data)]
    while flat and type(flat[0]) is list:
        _need(set(map(type, flat)) == {list}, f"{where}: data: lists and values stand beside each other")
        lengths = set(map(len, flat))
        _need(len(lengths) == 1, f"{where}: data: expected lists of one length in each level")
        found += lengths
        _need(len(found) <= len(shape), _nested(shape, where))
        flat = list(itertools.chain.from_iterable(flat))
    _need(len(found) == 1 or tuple(found) == shape, _nested(shape, where))
    return flat


def _nested(shape: tuple[int, ...], where: str) -> str:
    return f"{where}: data: expected a flat list, or lists of shape {list(shape)}"


def _of_bytes(raw: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Data:
    if datatype == BYTES:
        texts = _texts(raw, where)
        _count(len(texts), shape, where)
        return texts
    dtype = NUMBERS[datatype]
    size = math.prod(shape) * dtype.itemsize
    _need(len(raw) == size, f"{where}: expected {size} bytes for {datatype}, found {len(raw)}")
    return _shaped(np.frombuffer(raw, dtype=dtype), shape, where)


def _shaped(array: NDArray[Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """So many numbers in their shape; one with a 0 in it can still be of more than there is memory for."""
    try:
        return array.reshape(shape)
    except ValueError:
        raise ProtocolError(400, f"{where}: shape: found {list(shape)}, which no tensor has") from None


def _texts(raw: memoryview, where: str) -> list[str]:
    """Texts, each behind its length in four bytes."""
    found, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        end = at + 4 + size
        _need(at + 4 <= len(raw) and end <= len(raw), f"{where}: a text is longer than the bytes there are")
        try:
            found.append(bytes(raw[at + 4 : end]).decode())
        except UnicodeDecodeError:
            raise ProtocolError(400, f"{where}: expected UTF-8") from None
        at = end
    return found


def _count(found: int, shape: tuple[int, ...], where: str) -> None:
    expected = math.prod(shape)
    _need(
        found == expected, f"{where}: data: expected {expected} values for shape {list(shape)}, found {found}"
    )


def _wanted(outputs: Any, binary: bool) -> dict[str, bool] | None:
    if outputs is None or outputs == []:
        return None
    _need(isinstance(outputs, list), "outputs: expected a list")
    wanted = {}
    for place, one in enumerate(outputs):
        entry = _object(one, f"outputs[{place}]")
        name = entry.get("name")
        _need(isinstance(name, str) and len(name) <= _NAME, f"outputs[{place}]: name: expected text")
        parameters = _object(entry.get("parameters", {}), f"outputs[{place}]: parameters")
        wanted[str(name)] = parameters.get("binary_data", binary) is True
    return wanted


def _written(name: str, data: Data, binary: bool) -> tuple[dict[str, Any], list[bytes]]:
    if isinstance(data, list):
        entry: dict[str, Any] = {"name": name, "datatype": BYTES, "shape": [len(data)]}
        raw = b"".join(len(one).to_bytes(4, "little") + one for one in (text.encode() for text in data))
    else:
        entry = {"name": name, "datatype": f"FP{8 * data.dtype.itemsize}", "shape": list(data.shape)}
        raw = data.tobytes()
    if binary:
        entry["parameters"] = {"binary_data_size": len(raw)}
        return entry, [raw]
    entry["data"] = data if isinstance(data, list) else data.reshape(-1).tolist()
    return entry, []


def _object(value: Any, where: str) -> dict[str, Any]:
    _need(isinstance(value, dict), f"{where}: expected a JSON object")
    return value  # type: ignore[no-any-return]


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise ProtocolError(400, sentence)


def _kinds(found: Sequence[type] | set[type]) -> str:
    names = {str: "text", bool: "true or false", type(None): "null", float: "fractions", int: "numbers"}
    return ", ".join(sorted(names.get(one, "lists or objects") for one in found))


def short(value: Any) -> str:
    """Return what was sent in so few words that they can be repeated, however long or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
