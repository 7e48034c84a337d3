"""The agent process of a plant: holds the stream, runs the installed ClientApp, never foreign code."""

import logging
import math
import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flwr.clientapp import ClientApp

from interplant.client import (
    compression,
    connection,
    joining,
    proposals,
    receiving,
    release_keys,
)
from interplant.client.app import make_app
from interplant.client.directory import PlantDirectory
from interplant.client.gateway import let_out_words
from interplant.client.link import AwayError, Link, TurnedAwayError
from interplant.client.moments import Pause
from interplant.client.outbox import Outbox
from interplant.client.release_handling import ReleaseHandling
from interplant.client.trainer import KeptTrainer, WarmTrainer
from interplant.core import blobs, certificates, flower, processes
from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.files import file_state
from interplant.core.inline import check_inline
from interplant.core.tensors import Tensors
from interplant.core.wire import from_bytes, from_parcel, tensors_of, to_parcel

log = logging.getLogger(__name__)

_TICK = 1.0
_LOOK = 0.25
"""Seconds between looks whether there is a new proposal; a folder's time of change costs nothing.

What the policy does not let out never lies in that folder: data moves no other word's time."""

_RENEW_PAUSE = 5.0
_SETTLED_CONNECTION = 5.0
"""Seconds after which a connection counts as good and the back-off starts anew."""


class Agent:
    """One plant's agent. The stream is read in one thread; work is done in another, one at a time.

    Args:
        plant: The plant's directory.
        trainer: By default a process of its own.
        stopping: Ends it.
    """

    def __init__(
        self,
        plant: PlantDirectory,
        trainer: KeptTrainer | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._plant = plant
        self._settings = plant.load()
        self._outbox = Outbox(plant.outbox)
        self._trainer = trainer or WarmTrainer(plant)
        self._app: ClientApp = make_app(plant, self._trainer)
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._under_way: set[str] = set()
        self._link: Link | None = None
        self._stopping = stopping or threading.Event()
        self._renew_again_at = 0.0
        self._welcomed = math.inf
        self._proposing = False
        self._unread = ""
        self._telling = Pause(first=_TICK)
        self._away_because = ""
        self._releases = ReleaseHandling(plant, self._trainer, self._connected, self._jobs.put)

    def run(self) -> int:
        """Stay connected until a polite end; return the exit code."""
        receiving.discard_leftovers(self._plant)
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        code: list[int] = []
        stream = threading.Thread(target=lambda: code.append(self._stay_connected()), daemon=True)
        stream.start()
        while stream.is_alive() and not self._until_tick():
            self._trainer.release_if_idle(self._settings.trainer.idle_seconds)
            self._renew_in_time()
            self._releases.look()
            self._tell_proposals()
        self._stopping.set()
        if self._link:
            self._link.close()
        self._trainer.close()
        stream.join(5)
        return code[0] if code else 0

    def _until_tick(self) -> bool:
        """Wait for a tick, less if something new is proposed; return whether the plant stops."""
        end, before = time.monotonic() + _TICK, file_state(self._plant.proposals)
        while time.monotonic() < end and file_state(self._plant.proposals) == before:
            if self._stopping.wait(_LOOK):
                return True
        return self._stopping.is_set()

    # --- the stream --------------------------------------------------------------------------------

    def _stay_connected(self) -> int:
        """Connect, and connect again with a growing pause, for minutes or days."""
        settings = self._settings.connection
        pause = settings.backoff_seconds
        while not self._stopping.is_set():
            self._welcomed = math.inf
            try:
                self._link = Link(self._plant)
                self._listen(self._link)
            except TurnedAwayError as error:
                connection.note(self._plant, connection.TURNED_AWAY, str(error))
                processes.last_words(str(error))
                return processes.HOPELESS
            except InterplantError as error:
                if not self._stopping.is_set():
                    self._away(str(error))
            finally:
                if self._link:
                    self._link.close()
            if time.monotonic() - self._welcomed > _SETTLED_CONNECTION:
                pause = settings.backoff_seconds
            self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads plants in time
            pause = min(pause * 2, settings.backoff_max_seconds)
        return 0

    def _away(self, reason: str) -> None:
        """Say why there is no connection, once for each reason: tries go on for days."""
        if reason != self._away_because:
            log.warning("%s; trying again", reason)
        self._away_because = reason
        connection.note(self._plant, connection.AWAY, reason)

    def _listen(self, link: Link) -> None:
        """Read notices until the connection ends."""
        with link.watch() as notices:
            for notice in notices:
                self._heed(notice)
        raise AwayError("the coordinator has ended the connection")

    def _heed(self, notice: pb.Notice) -> None:
        kind = notice.WhichOneof("what")
        if kind == "welcome":
            log.info("connected to federation %s", notice.welcome.federation)
            self._welcomed, self._away_because = time.monotonic(), ""
            connection.note(self._plant, connection.CONNECTED)
            for parcel in list(self._outbox.all()):
                self._jobs.put(lambda parcel=parcel: self._offer(parcel))  # type: ignore[misc]
            self._jobs.put(self._releases.finish)
            self._jobs.put(self._releases.report_changes)
            self._jobs.put(self._trainer.warm_up)
        elif kind == "work" and notice.work.message_id not in self._under_way:
            self._under_way.add(notice.work.message_id)
            self._jobs.put(lambda: self._do(notice.work))
        elif kind == "settled":
            self._outbox.settle(notice.settled.run, notice.settled.round)
            compression.settle(self._plant, notice.settled.run, notice.settled.round)
        elif kind == "release":
            self._jobs.put(lambda: self._releases.receive(notice.release))
        elif kind == "keys":
            self._learn_keys(notice.keys.statements)
        elif kind == "rollback":
            self._releases.heed_rollback(notice.rollback)

    def _learn_keys(self, statements: bytes) -> None:
        try:
            if release_keys.learn(self._plant, statements):
                log.info("the federation signs releases with a new key from now on")
        except InterplantError as error:
            log.error("%s: the keys that are known stay", error)

    # --- the work ----------------------------------------------------------------------------------

    def _work(self) -> None:
        """Do jobs in order. One that fails is logged; what it left is taken up after a reconnect."""
        while not self._stopping.is_set():
            job = self._jobs.get()
            try:
                job()
            except InterplantError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a job failed")

    def _do(self, work: pb.Parcel) -> None:
        """Answer one request: a kept reply if there is one, else train."""
        try:
            parcel = self._outbox.find(work.message_id)
            if parcel is None:
                parcel = self._answer(work)
            self._offer(parcel)
        finally:
            self._under_way.discard(work.message_id)

    def _answer(self, work: pb.Parcel) -> pb.Parcel:
        """Take part, or say that it was not possible: the round does not wait for a plant that cannot."""
        try:
            return self._take_part(work)
        except (AwayError, TurnedAwayError):
            raise
        except Exception:  # nothing of it leaves but a code
            log.exception("message %s cannot be answered", work.message_id)
        let_out_words(self._plant, "refusal", {"message": work.message_id, "code": "internal"})
        return pb.Parcel(reply_to=work.message_id, error="internal")

    def _take_part(self, work: pb.Parcel) -> pb.Parcel:
        fetched = self._plant.fetched / work.body.sha256
        self._forget_other_blobs(fetched)
        try:
            return self._reply(work, self._tensors(work, fetched))
        finally:
            self._forget_other_blobs(fetched)  # an update that was not let out

    def _reply(self, work: pb.Parcel, tensors: Tensors) -> pb.Parcel:
        request = from_parcel(work, tensors)
        context = flower.context(work.destination, work.run_id, {"plant": str(self._plant.path)}, {})
        reply = self._app(request, context)
        made = to_parcel(reply, None)
        # The coordinator knows to whom and when it wrote; the plant's clock is none of its business.
        parcel = pb.Parcel(reply_to=made.reply_to, records=made.records, error=made.error)
        if parcel.error:
            let_out_words(self._plant, "refusal", {"message": work.message_id, "code": parcel.error})
        else:
            self._outbox.keep(parcel, tensors_of(reply.content))
        return parcel

    def _tensors(self, work: pb.Parcel, path: Path) -> Tensors:
        """The tensors of a request: within it, or brought in pieces to ``path``."""
        if work.inline:
            check_inline(work)
            return from_bytes(work.inline)
        return blobs.load(self._connected().fetch(work.body, path))

    def _offer(self, parcel: pb.Parcel) -> None:
        """Deliver a reply; it stays in the outbox until its round is settled."""
        body = None if parcel.error or parcel.inline else self._outbox.body(parcel.reply_to)
        if not self._connected().deliver(parcel, body):
            self._outbox.drop(parcel.reply_to)

    def _tell_proposals(self) -> None:
        """Tell what the monitor proposes, while there is a connection."""
        connected = self._welcomed < math.inf
        try:
            due = connected and not self._proposing and bool(proposals.due(self._plant, datetime.now(UTC)))
            self._unread = ""
        except InterplantError as error:  # such as a typo in plant.yaml, which must not end the plant
            if str(error) != self._unread:
                log.error("%s: nothing is proposed until that is mended", error)
            self._unread = str(error)
            return
        if due and self._telling.over(time.monotonic()):
            self._proposing = True
            self._jobs.put(self._propose)

    def _propose(self) -> None:
        """Tell one word after the other; what is not told now waits."""
        good = False
        try:
            for one in proposals.due(self._plant, datetime.now(UTC)):
                proposals.tell(self._plant, one, self._connected().propose)
            good = True
        finally:
            self._telling.note(good, time.monotonic())
            self._proposing = False

    def _renew_in_time(self) -> None:
        """Ask for a fresh certificate when it is due, and not more often than it can help."""
        due = certificates.renewal_due(self._plant.plant_certificate.read_bytes())
        if due and time.monotonic() >= self._renew_again_at:
            self._renew_again_at = time.monotonic() + _RENEW_PAUSE
            self._jobs.put(self._renew)

    def _renew(self) -> None:
        """Get a fresh certificate and connect again under it."""
        link = self._connected()
        if joining.renew_if_due(self._plant, link.renew):
            log.info("the plant's certificate is renewed")
            link.close()

    def _connected(self) -> Link:
        if self._link is None:
            raise AwayError("the coordinator is away")
        return self._link

    def _forget_other_blobs(self, keep: Path) -> None:
        for path in self._plant.fetched.glob("*"):
            if path.is_file() and path.name.removesuffix(".part") != keep.name:
                path.unlink()


def main(words: list[str]) -> int:
    """Run the agent of the plant in the directory ``words[0]``."""
    plant = PlantDirectory(Path(words[0]))
    return processes.work_until_told(lambda stopping: Agent(plant, stopping=stopping).run(), log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
