"""What plants call: the Coordinator service of core/federation.proto."""

from __future__ import annotations  # grpc's classes take type arguments only for the type checker

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc import aio

from interplant.core import federation_pb2 as pb
from interplant.core.automation_config import REASONS
from interplant.core.certificates import Identity, utc_now
from interplant.core.errors import REFUSALS, InterplantError
from interplant.core.federation_pb2_grpc import CoordinatorServicer
from interplant.core.files import PIECE
from interplant.core.release import RELEASE_REFUSALS
from interplant.core.wire import MAX_RECORDS, PROTOCOL, pieces
from interplant.server.authority import Authority
from interplant.server.exchange import Exchange
from interplant.server.followed import TooOftenError, hear
from interplant.server.guard import identity_of
from interplant.server.pace import Pace
from interplant.server.registry import Registry
from interplant.server.rules import Rules

log = logging.getLogger(__name__)

Context: TypeAlias = "aio.ServicerContext[Any, Any]"

DEPLOYMENT_STATES = (
    "received",
    "waiting",
    "refused",
    "shadow",
    "canary",
    "withdrawn",
    "active",
    "superseded",
    "rolled_back",
)
"""What a plant may say of a release, beside a short code."""

_CODES = frozenset({"", *REFUSALS, *RELEASE_REFUSALS})

_PATIENCE = 60.0
"""Seconds that a plant whose turn it is may take for one piece; a turn is not held for ever."""

_WORD_SECONDS = 0.5
"""Between two words of one plant that are new: what it may write into the history is bounded."""

_MOST_RUNS = 100_000

_UNDER_WAY = 4 * PIECE
"""Bytes of pieces that are on their way to plants at a time; with many plants each piece is smaller."""

_SMALLEST = 64 << 10
"""Bytes of a piece at least."""

MAX_CLOCK_SKEW = 300.0
"""Seconds that a plant's clock may differ; certificates and histories need the two to agree."""


class PlantApi(CoordinatorServicer):
    """Serve plants. The guard has already checked who calls.

    Args:
        exchange: Messages in flight.
        registry: Plants, runs, releases.
        authority: Issues certificates.
        federation: The federation's name.
        releases: The folder of releases.
        upload_turns: How many plants upload at a time; the others are held by flow control.
        rules: Which tasks' runs start without a command.
        ring: Wakes who decides on them.
    """

    def __init__(
        self,
        exchange: Exchange,
        registry: Registry,
        authority: Authority,
        federation: str,
        releases: Path,
        upload_turns: int,
        rules: Rules,
        ring: Callable[[], None],
    ) -> None:
        self._exchange, self._registry, self._authority = exchange, registry, authority
        self._federation, self._releases = federation, releases
        self._rules, self._ring = rules, ring
        self._heard: dict[str, float] = {}
        self._reports = Pace()
        self._turns = asyncio.Semaphore(upload_turns)
        self._fetching = 0
        self._one_each: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By plant: one that uploads many times at once waits for itself, not the others for it."""

    async def Enrol(self, request: pb.CertificateRequest, context: Context) -> pb.CertificateReply:  # noqa: N802
        """Exchange a join file's bootstrap certificate for the plant's own, once."""
        await _same_protocol(request.protocol, context)
        caller = identity_of(context)
        try:
            certificate = await asyncio.to_thread(self._authority.accept, caller, request.signing_request)
        except InterplantError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        self._exchange.nodes = {
            plant.node_id: plant.name for plant in self._registry.plants() if plant.is_enrolled
        }
        log.info("%s has joined", caller.name)
        return pb.CertificateReply(certificate=certificate)

    async def Renew(self, request: pb.CertificateRequest, context: Context) -> pb.CertificateReply:  # noqa: N802
        """Issue a fresh certificate for the plant that calls."""
        await _same_protocol(request.protocol, context)
        caller = identity_of(context)
        try:
            certificate = await asyncio.to_thread(self._authority.renew, caller, request.signing_request)
        except InterplantError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return pb.CertificateReply(certificate=certificate)

    async def Watch(self, request: pb.Hello, context: Context) -> AsyncIterator[pb.Notice]:  # noqa: N802
        """Hold a plant's standing stream."""
        await _same_protocol(request.protocol, context)
        await _same_time(request.clock, context)
        caller = identity_of(context)
        name = caller.name
        node_id = next(key for key, value in self._exchange.nodes.items() if value == name)
        # Known from here on, without a pause since the guard looked, so that a revocation ends it.
        watcher = self._exchange.watch(name)
        log.info("%s is connected", name)
        try:
            yield pb.Notice(welcome=pb.Welcome(federation=self._federation, node_id=node_id))
            await asyncio.to_thread(self._registry.seen, name, request.protocol)
            while (notice := await _within(watcher.notices.get(), caller)) is not None:
                yield notice
        except TimeoutError:
            log.info("%s's certificate has ended", name)
        finally:
            self._exchange.leave(watcher)
            log.info("%s is away", name)
        await context.abort(
            grpc.StatusCode.ABORTED,
            "another connection of this plant, its revocation, or its certificate's end",
        )

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.Piece]:  # noqa: N802
        """Stream a blob: a broadcast, or a file of a release."""
        path = self._exchange.spool.blob(request.sha256)
        if not path.is_file():
            path = self._release_file(request.sha256) or path
        if not path.is_file():
            await context.abort(grpc.StatusCode.NOT_FOUND, "this blob is no longer here")
        self._fetching += 1
        try:
            for piece in pieces(path, request.offset, size=self._piece):
                yield piece
        finally:
            self._fetching -= 1

    def _piece(self) -> int:
        """Bytes of the next piece to a plant: a few copies of it stay in memory until it has gone out."""
        return max(_SMALLEST, min(PIECE, _UNDER_WAY // max(1, self._fetching)))

    async def Offer(self, request: pb.Parcel, context: Context) -> pb.Answer:  # noqa: N802
        """Say whether a reply is wanted, and from which byte."""
        question = self._exchange.request(request.reply_to)
        if question is None:
            return pb.Answer(want=self._still_wanted(request))
        await self._check_addressee(question, context)
        # An update is about as large as the model it answers; twice that is room enough.
        if request.body.size > 2 * question.body.size + PIECE or len(request.records) > MAX_RECORDS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"a reply of {request.body.size} bytes to a message of {question.body.size} is too large",
            )
        try:
            return await self._exchange.offer(request)
        except InterplantError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))

    async def Upload(self, request_iterator: AsyncIterator[pb.Piece], context: Context) -> pb.Answer:  # noqa: N802
        """Receive an offered reply, whole, when it is this plant's turn."""
        async with self._one_each[identity_of(context).name], self._turns:
            try:
                await self._receive(_in_time(request_iterator), context)
            except InterplantError as error:
                await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        return pb.Answer(want=pb.Answer.KEEP)

    async def _receive(self, arriving: AsyncIterator[tuple[pb.Piece, bytes]], context: Context) -> None:
        """Write an offered reply to the spool and deliver it; what was not offered is left unread."""
        came = await anext(arriving, None)
        if came is None:
            return
        first, data = came
        question = self._exchange.request(first.message_id)
        reply = self._exchange.offered(first.message_id)
        if question is None or reply is None:
            return
        await self._check_addressee(question, context)
        receiving = self._exchange.spool.receive(first.message_id, reply.body)
        try:
            receiving.write(first.offset, data)
            async for _, data in arriving:
                receiving.write(receiving.size, data)
            receiving.finish()
        finally:
            receiving.close()
        await self._check_addressee(question, context)  # again: it may have been revoked meanwhile
        await self._exchange.deliver(first.message_id, reply)

    async def Deployed(self, request: pb.Deployment, context: Context) -> pb.Empty:  # noqa: N802
        """Record what became of a release at the plant that calls."""
        name = identity_of(context).name
        if not self._reports.take(name):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reports; say it again later")
        score = request.score if request.HasField("score") else None
        if request.state not in DEPLOYMENT_STATES or request.code not in _CODES or not isfinite(score or 0.0):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"expected one of {', '.join(DEPLOYMENT_STATES)}, a code, and a finite score or none",
            )
        try:
            await asyncio.to_thread(
                self._registry.record_deployment, request.release, name, request.state, request.code, score
            )
        except InterplantError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return pb.Empty()

    async def Propose(self, request: pb.Proposal, context: Context) -> pb.Heard:  # noqa: N802
        """Note that a plant proposes a retraining, or what its budget pays; both are its own to tell."""
        name, now = identity_of(context).name, time.monotonic()
        runs = request.runs if request.HasField("runs") else None
        if request.reason not in ("", *REASONS) or (runs is not None and runs > _MOST_RUNS):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"expected one of {', '.join(REASONS)}, or a number of runs"
            )
        self._rules.refresh()
        if request.task not in self._rules.followed:
            return pb.Heard(heeded=False)
        heeded = request.reason in self._rules.followed[request.task].policy.on
        before = self._heard.get(name, 0.0)
        if now < before + _WORD_SECONDS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "a word at a time; say it again later")
        self._heard[name] = now  # before anything is awaited: words come side by side
        try:
            new = await asyncio.to_thread(hear, self._registry, name, request.task, request.reason, runs)
        except TooOftenError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        if new:
            self._ring()
        else:
            self._heard[name] = before
        return pb.Heard(heeded=heeded)

    async def _check_addressee(self, question: pb.Parcel, context: Context) -> None:
        if self._exchange.nodes.get(question.destination) != identity_of(context).name:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this message was sent to another plant")

    def _release_file(self, sha256: str) -> Path | None:
        """Path of a file that a release on offer names by its digest."""
        for release in self._exchange.releases.values():
            for file in release.files:
                if file.blob.sha256 == sha256:
                    return self._releases / release.id / file.name
        return None

    def _still_wanted(self, reply: pb.Parcel) -> pb.Answer.Want.ValueType:
        """A reply to no open message: its round may come again, or it is over."""
        run_id, _, rest = reply.reply_to.partition(".")
        try:
            number = int(rest.partition(".")[0])
            run = self._registry.run(run_id)
        except (InterplantError, ValueError):
            return pb.Answer.DROP
        # A stopped or failed run can be resumed: what its plants have paid for is used then.
        over = run.state == "finished" or number <= run.round
        return pb.Answer.DROP if over else pb.Answer.KEEP


async def _within(notice: Awaitable[pb.Notice | None], caller: Identity) -> pb.Notice | None:
    """Wait for a notice no longer than the caller's certificate lasts."""
    return await asyncio.wait_for(notice, (caller.not_after - utc_now()).total_seconds())


async def _in_time(arriving: AsyncIterator[pb.Piece]) -> AsyncIterator[tuple[pb.Piece, bytes]]:
    """Yield pieces and their data; who is slow ends the upload and frees the turn.

    Slow is who takes longer than `_PATIENCE` for `PIECE` bytes. Time is given for bytes, so that sending
    drops does not keep a turn either.

    Raises:
        InterplantError: The plant has stalled; what came is kept.
    """
    pieces_ = aiter(arriving)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces_), end - time.monotonic())
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise InterplantError(f"expected a piece within {_PATIENCE:g} s; send the rest later") from None
        data = piece.data  # each look is a copy
        yield piece, data
        end = min(end + _PATIENCE * len(data) / PIECE, time.monotonic() + _PATIENCE)


async def _same_protocol(found: str, context: Context) -> None:
    if found != PROTOCOL:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the coordinator speaks protocol {PROTOCOL}, the plant {found or 'none'}: "
            "install the same version of interplant on both sides",
        )


async def _same_time(clock: float, context: Context) -> None:
    skew = clock - time.time()
    if abs(skew) > MAX_CLOCK_SKEW:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the plant's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the "
            "coordinator's: set the clock of the machine that is wrong",
        )
