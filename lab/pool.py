"""The simulate engine over many virtual plants: a grid over a few processes, without a network."""

import multiprocessing
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from flwr.app import Message, RecordDict

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.flower import OneRunGrid
from interplant.core.inline import blob_of
from interplant.core.wire import Tensors, from_bytes, from_parcel, tensors_of, to_bytes, to_parcel
from interplant.lab import host
from interplant.lab.host import Recipe
from interplant.server.registry import node_id

AHEAD = 2
"""Messages that a process has beside the one it answers: more would only hold more updates in memory."""

Reply = tuple[bytes, bytes]

T = TypeVar("T")


class PooledGrid(OneRunGrid):
    """A grid over virtual plants; a message is answered when somebody waits for replies.

    Args:
        run: The run's id.
        run_id: Flower's number for it.
        recipe: How to make the plants.
        names: Their names; a plant's number in the simulator is its place among them.
        processes: How many processes share them.
    """

    def __init__(self, run: str, run_id: int, recipe: Recipe, names: list[str], processes: int) -> None:
        super().__init__(run, run_id)
        self._names = {node_id(name): name for name in names}
        numbers = {node_id(name): number for number, name in enumerate(names)}
        count = max(1, min(processes, len(names)))
        self._of = {node: number % count for node, number in numbers.items()}
        self._pools = []
        for one in range(count):
            own = {node: number for node, number in numbers.items() if self._of[node] == one}
            words = recipe, own, {node: self._names[node] for node in own}
            context = multiprocessing.get_context("spawn")
            self._pools.append(ProcessPoolExecutor(1, context, host.start, words))
        self._ready = [pool.submit(int) for pool in self._pools]  # all begin to load now
        self._bodies: dict[str, bytes] = {}
        self._sent: list[deque[str]] = [deque(maxlen=host.BODIES) for _ in self._pools]
        self._queues: list[deque[pb.Parcel]] = [deque() for _ in self._pools]
        self._running: dict[str, Future[Reply]] = {}
        self._open: dict[str, pb.Parcel] = {}

    @property
    def processes(self) -> int:
        """How many share the plants."""
        return len(self._pools)

    def until_ready(self) -> None:
        """Wait until every process has made its plants.

        Raises:
            InterplantError: One of them could not.
        """
        for ready in self._ready:
            _result(ready)

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def get_node_ids(self) -> list[int]:
        """Ids of all plants."""
        return sorted(self._names)

    def names(self) -> dict[int, str]:
        """Node id to plant name."""
        return self._names

    def online(self) -> set[int]:
        """Every plant is here."""
        return set(self._names)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hold instructions, in the order of the plants' names; tensors that are shared are written once."""
        held, written = list(messages), dict[tuple[int, ...], pb.Blob]()
        self._bodies = {one.body.sha256: self._bodies[one.body.sha256] for one in self._open.values()}
        for each in sorted(held, key=lambda each: self._names[each.metadata.dst_node_id]):
            parcel = to_parcel(each, self._body(each.content, written))
            self._open[parcel.message_id] = parcel
            self._queues[self._of[parcel.destination]].append(parcel)
        return [each.metadata.message_id for each in held]

    def _body(self, content: RecordDict, written: dict[tuple[int, ...], pb.Blob]) -> pb.Blob:
        key = tuple(id(record) for record in content.array_records.values())
        if key not in written:
            body = to_bytes(tensors_of(content))
            written[key] = blob_of(body)
            self._bodies[written[key].sha256] = body
        return written[key]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        return [reply for one in message_ids if (reply := self.wait([one], 0)) is not None]

    def wait(self, message_ids: Iterable[str], seconds: float) -> Message | None:
        """Return one reply as soon as there is one, or None after ``seconds``."""
        self._feed()
        wanted = {one: self._running[one] for one in message_ids if one in self._running}
        done, _ = wait_for(wanted.values(), seconds, FIRST_COMPLETED)
        found = next((one for one, future in wanted.items() if future in done), None)
        return None if found is None else self._reply(found)

    def answered(self, message_ids: Iterable[str]) -> dict[str, bool]:
        """Which messages have a reply that was not read yet."""
        return {one: True for one in message_ids if one in self._running and self._running[one].done()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Have every plant answer."""
        ids = self.push_messages(messages)
        replies = []
        while ids and (reply := self.wait(ids, timeout or 43200.0)) is not None:
            ids.remove(reply.metadata.reply_to_message_id)
            replies.append(reply)
        return replies

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget messages."""
        for one in message_ids:
            self._open.pop(one, None)
            self._running.pop(one, None)

    def _feed(self) -> None:
        """Give each process its next messages."""
        for one, queue in enumerate(self._queues):
            busy = sum(self._of[self._open[key].destination] == one for key in self._running)
            while queue and busy <= AHEAD:
                parcel = queue.popleft()
                digest, body = parcel.body.sha256, None
                if digest not in self._sent[one]:
                    self._sent[one].append(digest)
                    body = self._bodies[digest]
                call = self._pools[one].submit(host.answer, parcel.SerializeToString(), body)
                self._running[parcel.message_id] = call
                busy += 1

    def _reply(self, message_id: str) -> Message:
        parcel, body = _result(self._running.pop(message_id))
        del self._open[message_id]
        tensors: Tensors = from_bytes(body) if body else {}
        reply = from_parcel(pb.Parcel.FromString(parcel), tensors)
        self._feed()
        return reply


def _result(call: Future[T]) -> T:
    try:
        return call.result()
    except BrokenProcessPool:
        raise InterplantError(
            "a process of the simulation has died, perhaps for want of memory: try fewer --processes"
        ) from None
