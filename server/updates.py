"""Check a reply before it touches the merge: a bad one is dropped, named and logged."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from interplant.core import receipt, tensors
from interplant.core.compression import COMPRESSION, HOLDS, NONE, PACKED, largest, unpack
from interplant.core.errors import REFUSALS, InterplantError
from interplant.core.flower import HeldArray, records_of, refusal
from interplant.core.schema import Compression
from interplant.core.tensors import Tensors
from interplant.strategies.arrays import PIECE

UPDATE, RECEIPT, METRICS, WEIGHTS, TASK = tensors.UPDATE, "receipt", "metrics", tensors.WEIGHTS, "task"
"""Names of the records that a round sends and receives."""

_NPY_HEAD = 1024
"""More bytes than the head of an npy file takes."""


class BadUpdateError(InterplantError):
    """A reply that must not be merged. ``code`` is a word for tables; the text says what is wrong."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True)
class Update:
    """A checked update: arrays named as the model's parameters, the plant's receipt, and its metrics.

    ``holds`` is the digest of the model that the plant says it holds, empty if it says nothing of it.
    """

    arrays: Tensors
    receipt: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    holds: str = ""


def checked(
    reply: Message,
    weights: Tensors,
    max_norm: float,
    metrics: Collection[str] = (),
    offer: Compression | None = None,
) -> Update:
    """Return the update in a reply; one that is packed is unpacked first, then all checks are the same.

    Args:
        reply: A plant's answer.
        weights: The global model: the names, shapes and dtypes that an update must have.
        max_norm: Largest allowed L2 norm over all arrays.
        metrics: Names that the task lets stand beside an update; a plant may leave any out.
        offer: How plants may pack their updates.

    Raises:
        BadUpdateError: A refusal, a wrong name, shape or dtype, a value that is not finite, a norm
            over the bound, a receipt that is not one, a metric that the task does not name, a packed update
            that was not asked for or cannot be unpacked.
    """
    offer = offer or Compression()
    if reply.has_error():
        code = refusal(reply)
        raise BadUpdateError(code, REFUSALS[code])
    records = records_of(reply.content, ArrayRecord)
    if set(records) != {UPDATE}:
        raise BadUpdateError(
            "bad_names", f"expected arrays named {UPDATE!r} only, found {sorted(records)[:3]}"
        )
    codec, holds = _told(reply, offer)
    if codec == NONE:
        sizes = {name: array.nbytes for name, array in weights.items()}
        arrays = _same_shape(_opened(records[UPDATE], sizes), weights)
    else:
        arrays = _unpacked(records[UPDATE], weights, offer)
    _bounded(arrays, max_norm)
    return Update(arrays, _receipt(reply, offer), _metrics(reply, metrics), holds)


def _told(reply: Message, offer: Compression) -> tuple[str, str]:
    """How a plant says that it has packed its update, and the digest of the model that it says it holds."""
    words = dict(records_of(reply.content, ConfigRecord).get(COMPRESSION, {})) if offer.offered else {}
    codec, holds = words.get("update", NONE), words.get("holds", "")
    if words and words.keys() != {"update", "holds"}:
        raise BadUpdateError("bad_packed", "expected the words 'update' and 'holds', found others")
    if codec not in (NONE, offer.update):
        raise BadUpdateError("bad_packed", f"expected an update as {NONE} or {offer.update}, found another")
    if not isinstance(holds, str) or not HOLDS.fullmatch(holds):
        raise BadUpdateError("bad_packed", "expected a digest of the model that the plant holds, or nothing")
    return str(codec), holds


def _unpacked(record: ArrayRecord, weights: Tensors, offer: Compression) -> Tensors:
    """Unpack an update; its names, shapes and types are the model's."""
    most = largest(offer.update, weights, offer.keep)
    if set(record) != {PACKED}:
        raise BadUpdateError("bad_packed", f"expected one array {PACKED!r}, found others")
    packed = _opened(record, {PACKED: most})[PACKED]
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.nbytes > most:
        raise BadUpdateError("bad_packed", f"expected at most {most} bytes, found more or something else")
    try:
        return unpack(offer.update, packed.tobytes(), weights, offer.keep)
    except InterplantError as error:
        raise BadUpdateError("bad_packed", str(error)) from None


def _opened(record: ArrayRecord, sizes: Mapping[str, int]) -> Tensors:
    """The arrays of a record. On Flower's own wire they are npy files, whose heads may promise anything.

    Args:
        record: Of a reply.
        sizes: Bytes of each array, or the most that it may have.
    """
    for name, array in record.items():
        if isinstance(array, HeldArray):
            continue  # read already
        if name in sizes and len(array.data) > sizes[name] + _NPY_HEAD:
            raise BadUpdateError("bad_shape", f"{name}: expected {sizes[name]} bytes, found more")
    try:
        return {name: array.numpy() for name, array in record.items()}
    except Exception as error:  # noqa: BLE001 - bytes of a stranger: numpy's reader fails in many ways
        raise BadUpdateError("bad_shape", f"arrays that cannot be read: {type(error).__name__}") from None


def _same_shape(arrays: Tensors, weights: Tensors) -> Tensors:
    if arrays.keys() != weights.keys():
        odd = sorted(arrays.keys() ^ weights.keys())
        raise BadUpdateError("bad_names", f"missing or unknown arrays: {', '.join(odd[:3])}")
    for name, array in arrays.items():
        expected = weights[name]
        if not isinstance(array, np.ndarray):
            raise BadUpdateError("bad_shape", f"{name}: expected one array")
        if array.shape != expected.shape:
            raise BadUpdateError("bad_shape", f"{name}: expected {expected.shape}, found {array.shape}")
        if array.dtype != expected.dtype:
            raise BadUpdateError("bad_dtype", f"{name}: expected {expected.dtype}, found {array.dtype}")
    return arrays


def _bounded(arrays: Tensors, max_norm: float) -> None:
    square = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, array in arrays.items():
            flat = array.reshape(-1)
            for start in range(0, flat.size, PIECE):
                # A piece's squares stay in a cache; a product of BLAS would take every core for them.
                squares = np.square(flat[start : start + PIECE], dtype=np.float64)
                part = float(np.add.reduce(squares))
                if not math.isfinite(part):
                    raise BadUpdateError("not_finite", f"{name}: found values that are not finite")
                square += part
    if math.sqrt(square) > max_norm:
        raise BadUpdateError(
            "norm", f"expected a norm of at most {max_norm:g}, found {math.sqrt(square):.3g}"
        )


def _receipt(reply: Message, offer: Compression) -> dict[str, Any]:
    records = records_of(reply.content, ConfigRecord)
    if set(records) - ({COMPRESSION} if offer.offered else set()) != {RECEIPT}:
        raise BadUpdateError("bad_receipt", f"expected a receipt, found {sorted(records)[:3]}")
    try:
        found = receipt.parse(dict(records[RECEIPT]))
        receipt.verify(found)
    except InterplantError as error:
        raise BadUpdateError("bad_receipt", str(error)) from None
    return found.as_dict()


def _metrics(reply: Message, names: Collection[str]) -> dict[str, float]:
    records = records_of(reply.content, MetricRecord)
    if not set(records) <= {METRICS}:
        raise BadUpdateError("bad_receipt", f"expected a record {METRICS!r} at most, found others")
    found: dict[str, float] = {}
    for name, value in (records[METRICS] if records else {}).items():
        if name not in names:
            wanted = ", ".join(sorted(names)) or "none"
            raise BadUpdateError("bad_receipt", f"expected metrics of the task ({wanted}), found others")
        if not isinstance(value, float):
            raise BadUpdateError("bad_receipt", f"metric {name}: expected one decimal number")
        if not math.isfinite(value):
            raise BadUpdateError("not_finite", f"metric {name}: found a value that is not finite")
        found[name] = value
    return found
