"""The one place that touches what Flower 1.41 does not make public.

Everything else uses ``flwr.app``, ``flwr.serverapp`` and ``flwr.clientapp``. Not public here: the
keyword ``Message(metadata=...)`` (a message's id has no setter, so a message with a given id is built
from its metadata), ``flwr.supercore.run.Run`` (an annotation and an empty value of `Grid.run`),
``RecordDict`` taking its parts by type, the dictionary inside a record, and the name by which Flower's wire
knows an `Array`. Records are filled in that dictionary: to have Flower check each array and word again takes
longer than to serialise a small update.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, TypeVar

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from interplant.core.errors import REFUSALS, Refusal

__all__ = [
    "Envelope",
    "Grid",
    "HeldArray",
    "OneRunGrid",
    "Run",
    "arrays",
    "config_record",
    "content_of",
    "context",
    "dtype_name",
    "empty_run",
    "let_go",
    "message",
    "records_of",
    "refusal",
    "refuse",
]

_REFUSAL_CODE = 1000
"""Flower's own error codes are small; ours say more in their reason."""

_PLAIN: Final = frozenset({bool, bytes, float, int, str})
"""What a record of words may hold beside lists."""

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


@dataclass(frozen=True)
class Envelope:
    """What a Flower message says about itself. Times are Unix seconds, ``ttl`` is in seconds."""

    message_id: str
    run_id: int
    source: int
    destination: int
    message_type: str
    group_id: str
    reply_to: str = ""
    created_at: float = 0.0
    ttl: float = 43200.0

    @classmethod
    def of(cls, message: Message) -> "Envelope":
        """Read a message's metadata."""
        data = message.metadata
        return cls(
            data.message_id,
            data.run_id,
            data.src_node_id,
            data.dst_node_id,
            data.message_type,
            data.group_id,
            data.reply_to_message_id,
            data.created_at,
            data.ttl,
        )


def message(envelope: Envelope, content: RecordDict | None, error: Error | None = None) -> Message:
    """Build a message with a given id, outside a SuperLink."""
    metadata = Metadata(
        run_id=envelope.run_id,
        message_id=envelope.message_id,
        src_node_id=envelope.source,
        dst_node_id=envelope.destination,
        reply_to_message_id=envelope.reply_to,
        group_id=envelope.group_id,
        created_at=envelope.created_at or time.time(),
        ttl=envelope.ttl,
        message_type=envelope.message_type,
    )
    if error is not None:
        return Message(error=error, metadata=metadata)  # type: ignore[call-overload,no-any-return]
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload,no-any-return]


class HeldArray(Array):
    """An array of a message as it is; npy bytes are made of it only for who asks for them.

    Flower's own `Array` is npy bytes from the start, a copy of the model in and one out wherever a message
    is built and read within one process.

    Args:
        array: It is not copied, and `numpy` returns it itself.
    """

    def __init__(self, array: "np.ndarray[Any, Any]") -> None:
        # Flower's own way to set them takes longer than all else of an array.
        vars(self).update(
            _held=array, dtype=dtype_name(array.dtype), shape=array.shape, stype="numpy.ndarray"
        )

    @cached_property
    def data(self) -> bytes:  # type: ignore[override] # the same bytes, later
        """The array as an npy file."""
        return Array.from_numpy_ndarray(self.numpy()).data

    def numpy(self) -> "np.ndarray[Any, Any]":
        """Return the array."""
        held: np.ndarray[Any, Any] = vars(self)["_held"]
        return held


@cache
def dtype_name(dtype: "np.dtype[Any]") -> str:
    """A dtype as Flower writes it; numpy takes longer to find the word than all else of an array takes."""
    return str(dtype)


HeldArray.__qualname__ = "Array"  # on Flower's own wire it is one


def arrays(tensors: "Mapping[str, np.ndarray[Any, Any]]") -> ArrayRecord:
    """Make the record of these arrays, without a copy."""
    record = ArrayRecord()  # its other constructors turn every array into bytes
    _inside(record).update({name: HeldArray(array) for name, array in tensors.items()})
    return record


def config_record(values: Mapping[str, Any]) -> ConfigRecord:
    """Make the record of these words and numbers.

    Raises:
        TypeError: A value is of a kind that Flower does not send.
    """
    if not (set(map(type, values.values())) <= _PLAIN and set(map(type, values)) <= {str}):
        return ConfigRecord(dict(values))  # lists, or what Flower refuses
    record = ConfigRecord()
    _inside(record).update(values)
    return record


def content_of(records: Mapping[str, ArrayRecord | ConfigRecord | MetricRecord]) -> RecordDict:
    """Make a message's content of its records."""
    made = RecordDict()
    _inside(made).update(records)
    return made


def records_of(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Return a content's records of one kind by name; they are its own, the dictionary is not."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _inside(record: RecordDict | ArrayRecord | ConfigRecord) -> dict[str, Any]:
    found: dict[str, Any] = vars(record)["_data"]
    return found


def let_go(message: Message) -> None:
    """Empty a message that is done with.

    What Flower's `RecordDict` hands out refers back to it: its arrays would stay until Python's collector
    comes by, several models after they were read.
    """
    if message.has_content():
        for record in records_of(message.content, ArrayRecord).values():
            _inside(record).clear()


def context(node_id: int, run_id: int, node: dict[str, Any], run: dict[str, Any]) -> Context:
    """Build the context that a ``ServerApp`` or ``ClientApp`` is called with."""
    return Context(run_id=run_id, node_id=node_id, node_config=node, state=RecordDict(), run_config=run)


class OneRunGrid(Grid):
    """What our own grids share: each is made for one run and names its messages ``run.round.node``.

    Args:
        run: The run's id.
        run_id: Flower's number for it.
    """

    def __init__(self, run: str, run_id: int) -> None:
        self._run, self._run_id = run, run_id

    def set_run(self, run: Run) -> None:
        """Do nothing: a grid is made for one run."""

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return empty_run(self._run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build an instruction; its id is ``run.round.node``."""
        envelope = Envelope(
            message_id=f"{self._run}.{group_id}.{dst_node_id}",
            run_id=self._run_id,
            source=0,
            destination=dst_node_id,
            message_type=message_type,
            group_id=group_id,
            created_at=time.time(),
            ttl=ttl or 43200.0,
        )
        return message(envelope, content)


def empty_run(run_id: int) -> Run:
    """Return the run information that `Grid.run` has to give."""
    return Run.create_empty(run_id)


def refuse(request: Message, refusal: Refusal) -> Message:
    """Answer a message with a refusal: its code leaves the plant, its detail does not."""
    return Message(Error(_REFUSAL_CODE, refusal.code), reply_to=request)


def refusal(reply: Message) -> str:
    """Return the refusal code of an error reply; a reason that is not ours reads ``internal``."""
    reason = reply.error.reason or ""
    return reason if reason in REFUSALS else "internal"
