"""Flower messages on the wire: small records as JSON, tensors as one safetensors blob.

Nothing is pickled and nothing is executed on arrival. A blob is named by its SHA-256, so that a
broadcast is written once whatever the number of plants, and a piece that is not what was promised is
noticed before it is read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from safetensors import SafetensorError, TensorSpec, serialize
from safetensors import numpy as tensors_file

from interplant.core import federation_pb2 as pb
from interplant.core.errors import REFUSALS, InterplantError
from interplant.core.files import PIECE
from interplant.core.flower import (
    Envelope,
    arrays,
    config_record,
    content_of,
    dtype_name,
    message,
    records_of,
    refusal,
)
from interplant.core.inline import INLINE, blob_of
from interplant.core.tensors import Tensors

PROTOCOL = "2"
"""Version of core/federation.proto and of this format; both sides must have the same."""

MAX_RECORDS = 1 << 20
"""Bytes of JSON that a message may carry beside its tensors."""


def tensors_of(content: RecordDict) -> Tensors:
    """Return every array of a message, named ``record/name``."""
    return {
        f"{record}/{name}": array.numpy()
        for record, named in records_of(content, ArrayRecord).items()
        for name, array in named.items()
    }


def to_bytes(tensors: Tensors) -> bytes:
    """Serialise arrays as safetensors, which stores only C-ordered ones rightly."""
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    if not all(array.dtype.isnative for array in ordered.values()):
        return tensors_file.save(ordered)
    # What that function does; it asks each array for the name of its dtype, which is slow.
    return bytes(
        serialize(
            {
                name: TensorSpec(
                    dtype=dtype_name(array.dtype),
                    shape=array.shape,
                    data_ptr=array.__array_interface__["data"][0],
                    data_len=array.nbytes,
                )
                for name, array in ordered.items()
            }
        )
    )


def pack(tensors: Tensors, store: Callable[[Tensors], pb.Blob]) -> tuple[pb.Blob, bytes]:
    """Name tensors as a blob; a small one is returned too, any other is put where ``store`` puts it."""
    if sum(array.nbytes for array in tensors.values()) <= INLINE:
        body = to_bytes(tensors)
        if len(body) <= INLINE:
            return blob_of(body), body
    return store(tensors), b""


def from_bytes(body: bytes) -> Tensors:
    """Read a safetensors blob.

    Raises:
        InterplantError: The blob is not safetensors.
    """
    try:
        return dict(tensors_file.load(body))
    except (SafetensorError, ValueError, KeyError) as error:
        raise InterplantError(f"expected tensors as safetensors, found something else: {error}") from None


def to_parcel(message_: Message, body: pb.Blob | None) -> pb.Parcel:
    """Describe a message; its tensors lie in the blob ``body``."""
    envelope = Envelope.of(message_)
    error = refusal(message_) if message_.has_error() else ""
    records = b"" if error else _records_json(message_.content)
    return pb.Parcel(
        message_id=envelope.message_id,
        reply_to=envelope.reply_to,
        run_id=envelope.run_id,
        source=envelope.source,
        destination=envelope.destination,
        group_id=envelope.group_id,
        message_type=envelope.message_type,
        created_at=envelope.created_at,
        ttl=envelope.ttl,
        records=records,
        error=error,
        body=body,
    )


def by_record(tensors: Tensors) -> dict[str, ArrayRecord]:
    """Make the records of arrays that `tensors_of` has named, without a copy."""
    grouped: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        record, _, key = name.partition("/")
        grouped.setdefault(record, {})[key] = tensor
    return {record: arrays(named) for record, named in grouped.items()}


def from_parcel(
    parcel: pb.Parcel, tensors: Tensors, records: Mapping[str, ArrayRecord] | None = None
) -> Message:
    """Rebuild a message from its parcel and tensors.

    Args:
        parcel: Of `to_parcel`.
        tensors: Its tensors.
        records: What `by_record` has made of them for another message.

    Raises:
        InterplantError: The parcel is not what `to_parcel` writes.
    """
    envelope = Envelope(
        parcel.message_id,
        parcel.run_id,
        parcel.source,
        parcel.destination,
        parcel.message_type,
        parcel.group_id,
        parcel.reply_to,
        parcel.created_at,
        parcel.ttl,
    )
    try:
        if parcel.error:
            code = parcel.error if parcel.error in REFUSALS else "internal"
            return message(envelope, None, Error(0, code))
        held = by_record(tensors) if records is None else records
        return message(envelope, content_of({**held, **_records(json.loads(parcel.records or b"{}"))}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InterplantError(
            f"message {parcel.message_id or parcel.reply_to} cannot be read: {error}"
        ) from None


def pieces(
    path: Path, offset: int, message_id: str = "", size: Callable[[], int] = lambda: PIECE
) -> Iterator[pb.Piece]:
    """Read a blob from ``offset`` in pieces of ``size`` bytes; the first piece comes even if empty."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size())
        yield pb.Piece(message_id=message_id, offset=offset, data=data)
        while data := file.read(size()):
            yield pb.Piece(data=data)


def _records_json(content: RecordDict) -> bytes:
    records = {
        "config": {name: dict(record) for name, record in records_of(content, ConfigRecord).items()},
        "metrics": {name: dict(record) for name, record in records_of(content, MetricRecord).items()},
    }
    return json.dumps(records, separators=(",", ":"), allow_nan=True).encode()


def _records(read: dict[str, Any]) -> dict[str, ConfigRecord | MetricRecord]:
    """Make the records that `_records_json` has written."""
    words = {name: config_record(values) for name, values in read.get("config", {}).items()}
    return {**words, **{name: MetricRecord(values) for name, values in read.get("metrics", {}).items()}}
