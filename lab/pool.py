"""The simulate engine over many virtual plants: a grid over a few processes, without a network."""

import multiprocessing
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from flwr.app import ArrayRecord, Message, RecordDict

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.flower import OneRunGrid, records_of
from interplant.core.inline import blob_of
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes, from_parcel, tensors_of, to_bytes, to_parcel
from interplant.lab import host
from interplant.lab.host import Recipe, Reply
from interplant.server.records import node_id

AHEAD = 2
"""Messages that a process has beside the one it answers: more would only hold more updates in memory."""

AHEAD_BYTES = 32 << 10
"""Bytes of such messages, less than a pipe takes: who writes more must be sure that the other side reads."""

_FORK, _SPAWN = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")

_JOIN = 10.0
"""Seconds that the processes have to end by themselves."""


@dataclass
class _Worker:
    """A process with some of the plants.

    Args:
        pipe: Requests to it, replies from it, in the order of the requests.
        queue: Messages that wait, and where their tensors are.
        sent: Ids of those that it has, and their bytes.
        held: Replies of its that were not read.
        bodies: Digests of the tensors that it has, the oldest first.
    """

    pipe: "Connection[object, Reply | Exception]"
    queue: deque[tuple[Message, pb.Blob]] = field(default_factory=deque)
    sent: deque[tuple[str, int]] = field(default_factory=deque)
    held: set[str] = field(default_factory=set)
    bodies: deque[str] = field(default_factory=lambda: deque(maxlen=host.BODIES))

    def feed(self, bodies: Mapping[str, bytes]) -> None:
        """Send what waits, as far as there is room; tensors, by digest, once for all that have them."""
        while self.queue and len(self.sent) + len(self.held) <= AHEAD:
            message, body = self.queue[0]
            request, news = to_parcel(message, body).SerializeToString(), body.sha256 not in self.bodies
            if self.sent and (news or sum(size for _, size in self.sent) + len(request) > AHEAD_BYTES):
                return  # it may be writing: two that write wait for each other for ever
            self.pipe.send((request, bodies[body.sha256] if news else None))
            self.queue.popleft()
            self.sent.append((message.metadata.message_id, len(request)))
            if news:
                self.bodies.append(body.sha256)

    def receive(self) -> Reply | None:
        """Return what it has to say: a reply, or that it is ready.

        Raises:
            InterplantError: It has died, or failed.
        """
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            raise InterplantError(
                "a process of the simulation has died, perhaps for want of memory: try fewer --processes"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found


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
        shares = []
        for one in range(count):
            own = {node: number for node, number in numbers.items() if self._of[node] == one}
            shares.append((own, {node: self._names[node] for node in own}))
        # A copy has loaded what this process has; where there are threads, or torch, it could hang.
        safe = threading.active_count() == 1 and "torch" not in sys.modules
        context = _FORK if safe else _SPAWN
        pipes = [context.Pipe() for _ in shares]
        ours, theirs = [own for own, _ in pipes], [other for _, other in pipes]
        self._process = context.Process(target=host.serve, args=(theirs, ours, recipe, shares))
        self._process.start()
        for pipe in theirs:
            pipe.close()
        self._workers = [_Worker(pipe) for pipe in ours]
        self._hearing = selectors.DefaultSelector()
        for worker in self._workers:
            self._hearing.register(worker.pipe, selectors.EVENT_READ, worker)
        self._bodies: dict[str, bytes] = {}
        self._ready: dict[str, Reply] = {}

    @property
    def processes(self) -> int:
        """How many share the plants."""
        return len(self._workers)

    def until_ready(self) -> None:
        """Wait until every process has made its plants.

        Raises:
            InterplantError: One of them could not.
        """
        for worker in self._workers:
            worker.receive()

    def close(self) -> None:
        """End the processes."""
        self._hearing.close()
        for worker in self._workers:
            worker.pipe.close()
        self._process.join(_JOIN)
        self._process.kill()  # its copies end with it
        self._process.join()

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
        waiting = {body.sha256 for worker in self._workers for _, body in worker.queue}
        self._bodies = {digest: body for digest, body in self._bodies.items() if digest in waiting}
        for each in sorted(held, key=lambda each: self._names[each.metadata.dst_node_id]):
            worker = self._workers[self._of[each.metadata.dst_node_id]]
            worker.queue.append((each, self._body(each.content, written)))
        return [each.metadata.message_id for each in held]

    def _body(self, content: RecordDict, written: dict[tuple[int, ...], pb.Blob]) -> pb.Blob:
        key = tuple(id(record) for record in records_of(content, ArrayRecord).values())
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
        wanted, until = list(message_ids), time.monotonic() + seconds
        while True:
            found = next((one for one in wanted if one in self._ready), None)
            if found is not None:
                return self._read(found)
            if not self._collect(max(0.0, until - time.monotonic())):
                return None

    def answered(self, message_ids: Iterable[str]) -> dict[str, bool]:
        """Which messages have a reply that was not read yet."""
        self._collect(0.0)
        return {one: True for one in message_ids if one in self._ready}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Have every plant answer."""
        ids = self.push_messages(messages)
        replies = []
        while ids and (reply := self.wait(ids, timeout or 43200.0)) is not None:
            ids.remove(reply.metadata.reply_to_message_id)
            replies.append(reply)
        return replies

    def finish(self, message_ids: Iterable[str], settled_round: int | None) -> None:
        """Forget messages: what was not sent is not, and a reply that comes yet is not read."""
        done = set(message_ids)
        for worker in self._workers:
            worker.queue = deque(each for each in worker.queue if each[0].metadata.message_id not in done)
            worker.held -= done
        for one in done:
            self._ready.pop(one, None)

    def _collect(self, seconds: float) -> bool:
        """Take in what the processes have to say; False if it is nothing for ``seconds``."""
        for worker in self._workers:
            worker.feed(self._bodies)
        heard = self._hearing.select(seconds)
        for key, _ in heard:
            speaker: _Worker = key.data
            reply = speaker.receive()
            assert reply is not None
            message_id, _ = speaker.sent.popleft()
            speaker.held.add(message_id)
            self._ready[message_id] = reply
        return bool(heard)

    def _read(self, message_id: str) -> Message:
        parcel, body = self._ready.pop(message_id)
        asked = pb.Parcel.FromString(parcel)
        for worker in self._workers:
            worker.held.discard(message_id)
        tensors: Tensors = from_bytes(body) if body else {}
        return from_parcel(asked, tensors)
