"""Who waits for what: work for plants, replies from them, and the bell that wakes each side.

All of it lives in the event loop of the gRPC process. Losing it loses nothing: the round loop pushes
its open messages again, and plants offer the replies that they kept.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from interplant.core import federation_pb2 as pb
from interplant.core.errors import REFUSALS
from interplant.core.inline import blob_of, check_inline
from interplant.server.spool import Spool


@dataclass
class Watcher:
    """One plant's open connection: the notices that wait to go out; None ends it."""

    plant: str
    notices: asyncio.Queue[pb.Notice | None] = field(default_factory=asyncio.Queue)


class Exchange:
    """Messages in flight.

    Args:
        spool: Where blobs lie.
        nodes: Node id to plant name of every enrolled plant.
    """

    def __init__(self, spool: Spool, nodes: dict[int, str]) -> None:
        self.spool = spool
        self.nodes = nodes
        self.releases: dict[str, pb.Release] = {}
        """The release of each task that plants are told of."""
        self.rollbacks: dict[str, str] = {}
        """Each release that was rolled back, and the one to go back to or nothing."""
        self.keys = b""
        """What plants are told of the federation's signing keys."""
        self._watchers: dict[str, Watcher] = {}
        self._open: dict[str, pb.Parcel] = {}
        self._bodies: dict[str, bytes] = {}
        """Small blobs of open messages, by digest."""
        self._offered: dict[str, pb.Parcel] = {}
        self._ready: dict[str, pb.Parcel] = {}
        self._news = asyncio.Condition()

    # --- the plants' side --------------------------------------------------------------------------

    def watch(self, plant: str) -> Watcher:
        """Open a plant's connection and ring for all that waits for it; an older one is ended."""
        self.hang_up(plant)
        watcher = self._watchers[plant] = Watcher(plant)
        for message_id, parcel in self._open.items():
            if self.nodes.get(parcel.destination) == plant and message_id not in self._ready:
                watcher.notices.put_nowait(self._work(parcel))
        if self.keys:
            watcher.notices.put_nowait(pb.Notice(keys=pb.Keys(statements=self.keys)))
        for release, to in self.rollbacks.items():
            watcher.notices.put_nowait(pb.Notice(rollback=pb.Rollback(release=release, to=to)))
        for offer in self.releases.values():
            watcher.notices.put_nowait(pb.Notice(release=offer))
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """A connection has ended."""
        if self._watchers.get(watcher.plant) is watcher:
            del self._watchers[watcher.plant]

    def hang_up(self, plant: str) -> None:
        """End a plant's connection."""
        if watcher := self._watchers.pop(plant, None):
            watcher.notices.put_nowait(None)

    def online(self) -> set[str]:
        """Names of the plants that are connected."""
        return set(self._watchers)

    def request(self, message_id: str) -> pb.Parcel | None:
        """The open message with this id."""
        return self._open.get(message_id)

    def offered(self, message_id: str) -> pb.Parcel | None:
        """The reply that was offered to an open message and is not whole yet."""
        return self._offered.get(message_id)

    async def offer(self, reply: pb.Parcel) -> pb.Answer:
        """A plant has a reply to an open message: which bytes of it are wanted.

        Raises:
            InterplantError: The blob within it is another than it names.
        """
        message_id = reply.reply_to
        _address(reply, self._open[message_id])
        if reply.error:
            reply.error = reply.error if reply.error in REFUSALS else "internal"
            reply.inline = b""
            await self.deliver(message_id, reply)
            return pb.Answer(want=pb.Answer.DROP)
        if reply.inline:
            check_inline(reply)
            await self.deliver(message_id, reply)
            return pb.Answer(want=pb.Answer.KEEP)
        offset = self.spool.arrived(message_id, reply.body)
        if offset == reply.body.size:
            await self.deliver(message_id, reply)
            return pb.Answer(want=pb.Answer.KEEP)
        self._offered[message_id] = reply
        return pb.Answer(want=pb.Answer.SEND, offset=offset)

    async def deliver(self, message_id: str, reply: pb.Parcel) -> None:
        """A reply is whole: wake who waits for it."""
        self._offered.pop(message_id, None)
        async with self._news:
            self._ready[message_id] = reply
            self._news.notify_all()

    # --- the round loop's side ---------------------------------------------------------------------

    def push(self, parcels: Iterable[pb.Parcel], bodies: Iterable[bytes] = ()) -> None:
        """Open messages and ring for the plants that are connected; the others get them on return.

        Args:
            parcels: The messages.
            bodies: Small blobs that they name.
        """
        self._bodies.update({blob_of(body).sha256: body for body in bodies})
        for parcel in parcels:
            known = parcel.message_id in self._open
            self._open[parcel.message_id] = parcel
            watcher = self._watchers.get(self.nodes.get(parcel.destination, ""))
            if watcher and not known:
                watcher.notices.put_nowait(self._work(parcel))

    async def wait_for(self, message_ids: list[str], limit: int, seconds: float) -> list[pb.Parcel]:
        """Return up to ``limit`` whole replies; wait until there is one, or ``seconds`` are over.

        A refusal is handed over once, so that the plant can be asked again; a reply with tensors stays
        until its message is closed.
        """

        def ready() -> list[pb.Parcel]:
            found = (self._ready[key] for key in message_ids if key in self._ready)
            return [parcel for parcel, _ in zip(found, range(limit), strict=False)]

        async with self._news:
            if not ready() and seconds > 0:
                try:
                    await asyncio.wait_for(self._news.wait_for(lambda: bool(ready())), seconds)
                except TimeoutError:
                    return []
            found = ready()
        for parcel in found:
            if parcel.error:
                del self._ready[parcel.reply_to]
                self._open.pop(parcel.reply_to, None)
        return found

    def answered(self, message_ids: Iterable[str]) -> list[pb.Parcel]:
        """The whole replies to these messages; they stay."""
        return [self._ready[key] for key in message_ids if key in self._ready]

    def close(self, message_ids: Iterable[str], settled: pb.Settled | None) -> None:
        """These messages are done with; say so to the plants that keep replies to them."""
        for message_id in [*message_ids, *self._over(settled)]:
            self._open.pop(message_id, None)
            self._ready.pop(message_id, None)
            self._offered.pop(message_id, None)
            self.spool.forget(message_id)
        named = {parcel.body.sha256 for parcel in self._open.values()}
        self.spool.keep_only(named)
        self._bodies = {digest: body for digest, body in self._bodies.items() if digest in named}
        if settled is not None:
            self._tell_all(pb.Notice(settled=settled))

    def tell_keys(self, statements: bytes) -> None:
        """Tell every plant that a signing key has handed over, now or when it returns."""
        if statements != self.keys:
            self._tell_all(pb.Notice(keys=pb.Keys(statements=statements)))
        self.keys = statements

    def offer_releases(self, releases: Mapping[str, pb.Release], rollbacks: Mapping[str, str]) -> None:
        """Tell every plant of what has changed, now or when it returns: rollbacks first, then releases.

        Args:
            releases: The release of each task on offer.
            rollbacks: See `rollbacks`.
        """
        for release, to in rollbacks.items():
            if self.rollbacks.get(release) != to:
                self._tell_all(pb.Notice(rollback=pb.Rollback(release=release, to=to)))
        for task, offer in releases.items():
            if self.releases.get(task) != offer:
                self._tell_all(pb.Notice(release=offer))
        self.releases, self.rollbacks = dict(releases), dict(rollbacks)

    def _over(self, settled: pb.Settled | None) -> list[str]:
        """Open messages of a settled run's rounds; a killed round loop may not have closed them."""

        def is_over(message_id: str) -> bool:
            run, number, _ = message_id.split(".")
            return settled is not None and run == settled.run and int(number) <= settled.round

        return [message_id for message_id in self._open if settled and is_over(message_id)]

    def _work(self, parcel: pb.Parcel) -> pb.Notice:
        """The notice of an open message, with its blob if that is small."""
        notice = pb.Notice(work=parcel)
        notice.work.inline = self._bodies.get(parcel.body.sha256, b"")
        return notice

    def _tell_all(self, notice: pb.Notice) -> None:
        for watcher in self._watchers.values():
            watcher.notices.put_nowait(notice)


def _address(reply: pb.Parcel, question: pb.Parcel) -> None:
    """Take from the question who answers what: a plant's own words about itself count for nothing."""
    reply.source, reply.destination = question.destination, question.source
    reply.run_id, reply.group_id = question.run_id, question.group_id
    reply.message_type, reply.ttl = question.message_type, question.ttl
    reply.created_at = question.created_at
