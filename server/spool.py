"""Where the server keeps blobs on their way: broadcasts by digest, replies by the message they answer."""

from __future__ import annotations  # a command that looks at the spool does not load Flower

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from interplant.core import blobs
from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.files import PIECE, disk_errors, sha256_file

if TYPE_CHECKING:
    from interplant.core.tensors import Tensors


class Spool:
    """Blobs in a folder. A reply grows in a ``.part`` file and is renamed when it is whole.

    A part outlives a killed server, so that an upload goes on where it stopped. Nothing here needs to
    survive a power cut: plants keep their replies until the merge that holds them is on disk.

    Args:
        folder: Made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._replies = folder / "replies"
        for made in (self._blobs, self._replies):
            made.mkdir(parents=True, exist_ok=True)

    def put(self, tensors: Tensors) -> pb.Blob:
        """Store a broadcast under its digest; the same one is stored once."""
        written = self._blobs / f"{os.getpid()}.part"
        blobs.save(written, tensors)
        blob = blobs.describe(written)
        written.rename(self._blobs / blob.sha256)
        return blob

    def blob(self, sha256: str) -> Path:
        """Path of a broadcast; it may not be there."""
        return self._blobs / Path(sha256).name

    def keep_only(self, digests: set[str]) -> None:
        """Remove every broadcast that no open message names."""
        for path in self._blobs.iterdir():
            if path.name not in digests:
                path.unlink(missing_ok=True)

    def reply(self, message_id: str) -> Path:
        """Path of the whole reply to a message; it may not be there."""
        return self._replies / f"{Path(message_id).name}.body"

    def arrived(self, message_id: str, blob: pb.Blob) -> int:
        """Bytes of an offered reply that are here already; all of them only if it is whole and right."""
        whole, part = self.reply(message_id), self._part(message_id, blob)
        if _is(whole, blob):
            return blob.size
        if part.exists() and part.stat().st_size >= blob.size:
            # The connection broke after the last byte and before its digest was looked at.
            if _is(part, blob):
                part.rename(whole)
                return blob.size
            part.unlink()
        return part.stat().st_size if part.exists() else 0

    def receive(self, message_id: str, blob: pb.Blob) -> Receiving:
        """Open the rest of an offered reply for writing; what came of another one offered before goes."""
        part = self._part(message_id, blob)
        for other in self._replies.glob(f"{Path(message_id).name}.*.part"):
            if other != part:
                other.unlink(missing_ok=True)
        return Receiving(part, self.reply(message_id), blob)

    def forget(self, message_id: str) -> None:
        """Remove a reply and what came of it."""
        name = Path(message_id).name
        for path in [self.reply(message_id), *self._replies.glob(f"{name}.*.part")]:
            path.unlink(missing_ok=True)

    def _part(self, message_id: str, blob: pb.Blob) -> Path:
        return self._replies / f"{Path(message_id).name}.{Path(blob.sha256).name[:16]}.part"


def _is(path: Path, blob: pb.Blob) -> bool:
    return path.exists() and path.stat().st_size == blob.size and sha256_file(path) == blob.sha256


class Receiving:
    """A reply being written. ``finish`` checks the digest before the reply counts as whole."""

    def __init__(self, part: Path, whole: Path, blob: pb.Blob) -> None:
        self._part, self._whole, self._blob = part, whole, blob
        self._digest = hashlib.sha256()
        if part.exists():
            with part.open("rb") as old:
                while piece := old.read(PIECE):
                    self._digest.update(piece)
        self._file = part.open("ab")
        self.size = self._file.tell()

    def write(self, offset: int, data: bytes) -> None:
        """Append a piece.

        Raises:
            InterplantError: The piece does not start where the file ends, or it would make the reply
                longer than was offered.
        """
        if offset != self.size:
            raise InterplantError(f"expected a piece from byte {self.size}, found one from byte {offset}")
        if self.size + len(data) > self._blob.size:
            raise InterplantError(f"expected {self._blob.size} bytes, found more")
        with disk_errors(self._part):
            self._file.write(data)
            self._file.flush()
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> None:
        """Make the reply whole.

        Raises:
            InterplantError: Bytes are missing (they can still come), the digest is not the one that was
                offered (what came is thrown away), or the message was forgotten meanwhile.
        """
        self.close()
        if self.size != self._blob.size:
            raise InterplantError(f"expected {self._blob.size} bytes, found {self.size}; send the rest")
        if self._digest.hexdigest() != self._blob.sha256:
            self._part.unlink(missing_ok=True)
            raise InterplantError("the bytes do not have the digest that was offered; send them again")
        try:
            self._part.rename(self._whole)
        except FileNotFoundError:
            raise InterplantError("nobody waits for this reply any more; what came of it is gone") from None

    def close(self) -> None:
        """Flush what came, so that a later upload can go on from there."""
        self._file.close()
