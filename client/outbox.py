"""Replies that are kept until the coordinator has them in a merge that is on disk.

A plant that has trained has paid for its update: it is never trained again because a connection broke.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from interplant.core import blobs
from interplant.core import federation_pb2 as pb
from interplant.core.files import write_atomic
from interplant.core.tensors import Tensors
from interplant.core.wire import pack


class Outbox:
    """Kept replies in a folder: ``<message id>.body`` and, written last, ``<message id>.parcel``.

    A small body stands in the parcel itself: one file, and one wait for the disk.

    Args:
        folder: Made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix != ".parcel" and not path.with_suffix(".parcel").exists():
                path.unlink()  # left by a kill

    def keep(self, parcel: pb.Parcel, tensors: Tensors) -> None:
        """Store a reply durably, before it is offered; its body is named in ``parcel``."""
        body, parcel.inline = pack(tensors, partial(blobs.keep, self.body(parcel.reply_to)))
        parcel.body.CopyFrom(body)
        write_atomic(self._parcel(parcel.reply_to), parcel.SerializeToString())

    def find(self, message_id: str) -> pb.Parcel | None:
        """The kept reply to a message."""
        path = self._parcel(message_id)
        return pb.Parcel.FromString(path.read_bytes()) if path.exists() else None

    def body(self, message_id: str) -> Path:
        """Path of a kept reply's tensors, where they are not in its parcel."""
        return self._folder / f"{Path(message_id).name}.body"

    def all(self) -> Iterator[pb.Parcel]:
        """Every kept reply, the oldest first."""
        for path in sorted(self._folder.glob("*.parcel"), key=lambda path: path.stat().st_mtime):
            yield pb.Parcel.FromString(path.read_bytes())

    def drop(self, message_id: str) -> None:
        """Forget a reply that is no longer wanted."""
        self._parcel(message_id).unlink(missing_ok=True)
        self.body(message_id).unlink(missing_ok=True)

    def settle(self, run: str, number: int) -> None:
        """Forget the replies of a run up to a round whose merge is on disk."""
        for parcel in list(self.all()):
            kept_run, _, rest = parcel.reply_to.partition(".")
            kept_round = rest.partition(".")[0]
            if kept_run == run and kept_round.isdecimal() and int(kept_round) <= number:
                self.drop(parcel.reply_to)

    def _parcel(self, message_id: str) -> Path:
        return self._folder / f"{Path(message_id).name}.parcel"
