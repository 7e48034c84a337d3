"""Flower's Grid over the coordinator's own gRPC process: work is pushed, nothing polls."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import grpc
from flwr.app import ArrayRecord, Message, RecordDict

from interplant.core import blobs
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.errors import InterplantError
from interplant.core.flower import OneRunGrid, records_of
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes, from_parcel, pack, tensors_of, to_parcel
from interplant.server.control import connect
from interplant.server.directory import CoordinatorDirectory
from interplant.server.replies import StoppedError
from interplant.server.spool import Spool

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_LONG_WAIT = 30.0
"""Seconds that one call may wait; a longer wait is several calls."""


class GrpcGrid(OneRunGrid):
    """The grid of the default engine.

    It outlives a restart of the gRPC process: open messages are pushed again, and plants offer the
    replies that they kept.

    Args:
        directory: The coordinator's directory.
        run: Id of the run; with round and node it names each message, so that a message that is
            pushed again is the same message.
        run_id: Flower's number for the run.
        stopped: Tells that the gRPC process is not to be waited for any longer.
    """

    def __init__(
        self,
        directory: CoordinatorDirectory,
        run: str,
        run_id: int,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._spool = Spool(directory.spool)
        self._channel = connect(directory)
        self._local = rpc.LocalStub(self._channel)
        super().__init__(run, run_id)
        self._stopped = stopped
        self._open: dict[str, pb.Parcel] = {}
        self._bodies: dict[str, bytes] = {}

    def close(self) -> None:
        """Forget what is still open and close the connection."""
        with contextlib.suppress(grpc.RpcError):  # the gRPC process may be gone, and its memory with it
            self._local.Close(pb.MessageIds(ids=list(self._open)), timeout=5)
        self._channel.close()

    def get_node_ids(self) -> list[int]:
        """Ids of the enrolled plants; a message to one that is away waits for its return."""
        return [node.id for node in self._nodes()]

    def online(self) -> set[int]:
        """Ids of the plants that are connected."""
        return {node.id for node in self._nodes() if node.online}

    def names(self) -> dict[int, str]:
        """Node id to plant name, as the certificates say."""
        return {node.id: node.name for node in self._nodes()}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send instructions; arrays that several messages share are written once."""
        written: dict[tuple[int, ...], pb.Blob] = {}
        self._bodies = {}
        held = list(messages)  # keeps the arrays alive, whose identity names them here
        parcels = [to_parcel(each, self._body(each.content, written)) for each in held]
        self._open.update({parcel.message_id: parcel for parcel in parcels})
        self._patiently(lambda: self._local.Push(self._list(parcels)))
        return [parcel.message_id for parcel in parcels]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived."""
        return list(self._await(list(message_ids), limit=1 << 30, seconds=0))

    def wait(self, message_ids: Iterable[str], seconds: float) -> Message | None:
        """Return one reply as soon as there is one, or None after ``seconds``."""
        wanted = list(message_ids)
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            for reply in self._await(wanted, limit=1, seconds=max(0.0, min(left, _LONG_WAIT))):
                return reply
            if left <= 0:
                return None

    def answered(self, message_ids: Iterable[str]) -> dict[str, bool]:
        """Which messages have a reply that was not read yet, and whether it carries an update."""
        ids = pb.MessageIds(ids=list(message_ids))
        parcels = self._patiently(lambda: self._local.Answered(ids)).parcels
        return {parcel.reply_to: not parcel.error for parcel in parcels}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send instructions and wait for every reply, at most ``timeout`` seconds."""
        end = time.monotonic() + (timeout if timeout is not None else 43200.0)
        open_ids = set(self.push_messages(messages))
        replies: list[Message] = []
        while open_ids and (reply := self.wait(open_ids, end - time.monotonic())):
            open_ids.discard(reply.metadata.reply_to_message_id)
            replies.append(reply)
        return replies

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget these messages; with a round, tell plants that it is in a merge that is on disk."""
        ids = list(message_ids)
        for message_id in ids:
            self._open.pop(message_id, None)
        settled = None if settled_round is None else pb.Settled(run=self._run, round=settled_round)
        self._patiently(lambda: self._local.Close(pb.MessageIds(ids=ids, settled=settled)))

    def _nodes(self) -> list[pb.Node]:
        return list(self._patiently(lambda: self._local.Nodes(pb.Empty())).nodes)

    def _body(self, content: RecordDict, written: dict[tuple[int, ...], pb.Blob]) -> pb.Blob:
        key = tuple(id(record) for record in records_of(content, ArrayRecord).values())
        if key not in written:
            written[key], body = pack(tensors_of(content), self._spool.put)
            if body:
                self._bodies[written[key].sha256] = body
        return written[key]

    def _list(self, parcels: Iterable[pb.Parcel]) -> pb.ParcelList:
        return pb.ParcelList(parcels=parcels, bodies=self._bodies.values())

    def _await(self, message_ids: list[str], limit: int, seconds: float) -> Iterator[Message]:
        known = [message_id for message_id in message_ids if message_id in self._open]
        request = pb.AwaitRequest(message_ids=known, limit=limit, seconds=seconds)
        for parcel in self._patiently(lambda: self._local.Await(request)).parcels:
            self._open.pop(parcel.reply_to, None) if parcel.error else None
            yield self._message(parcel)

    def _message(self, parcel: pb.Parcel) -> Message:
        """Read a reply; one that cannot be read is answered for by an error of that name."""
        try:
            return from_parcel(parcel, self._tensors(parcel))
        except InterplantError as error:
            log.warning("%s", error)
            parcel.error = "unreadable"
            return from_parcel(parcel, {})

    def _tensors(self, parcel: pb.Parcel) -> Tensors:
        if parcel.error or not parcel.body.size:
            return {}
        if parcel.inline:
            return from_bytes(parcel.inline)
        return blobs.load(self._spool.reply(parcel.reply_to))

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call; if the gRPC process is being restarted, wait for it and push what was open again."""
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            if self._stopped():
                raise StoppedError("the coordinator stops")
            time.sleep(0.2)
            self._push_again()

    def _push_again(self) -> None:
        try:
            self._local.Push(self._list(self._open.values()), wait_for_ready=True, timeout=2)
        except grpc.RpcError:
            return  # the next call tries again
