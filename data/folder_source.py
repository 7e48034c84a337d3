"""Readings from a folder of CSV and Parquet files, or from one file.

Folders are looked at once a second: a network share, where plants keep such files, sends no events. A file is
read once it has rested; one that grows without rest is read line by line as it comes. What was handed over is
remembered by path, size, time, beginning and the digests of its blocks, so that a file is read once, and on
from its end when it grows.
"""

import hashlib
import logging
import threading
import time
from codecs import lookup
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from interplant.core.contract import Contract
from interplant.core.errors import UsageError
from interplant.core.possible import need, one_of
from interplant.core.schema import Source
from interplant.data.ahead import ahead
from interplant.data.columns import unparsed
from interplant.data.csv_dialect import HEAD, dialect
from interplant.data.csv_pieces import LONGEST, Piece, csv_pieces
from interplant.data.marks import Marks
from interplant.data.parquet_pieces import NotWhole, parquet_pieces
from interplant.data.prefixes import digests, is_changed
from interplant.data.sources import Batch, Place, numeric, textual, words

log = logging.getLogger(__name__)

GATHERED: Final = 96 << 20
"""Bytes of readings from which on they are handed over, though the file has more."""

_PARQUET: Final = (".parquet", ".pq")
_CSV: Final = (".csv", ".tsv", ".txt")
_GROWING: Final = 10.0
"""Times ``settle_seconds`` after which a file that does not rest is read as it grows."""

_Marked = tuple[Piece, dict[str, Any]]
"""Rows of a file, and what is to be remembered of it once they are kept."""


@dataclass
class Args:
    """What ``plant.yaml`` says of a folder.

    Args:
        path: A folder or a file; relative to the plant's folder.
        pattern: Which files, by path within the folder; ``**`` is any folder.
        separator: Between fields of a CSV; empty: found from its first line.
        decimal: ``.`` or ``,``; empty: found, see `dialect`.
        encoding: Python's name of one; a byte-order mark wins. Empty: UTF-8.
        settle_seconds: How long size and time of a file must stand still before it is read.
        last_line: What a last line without an end is: a ``cut`` one, for quarantine, or ``whole``.
    """

    path: str = ""
    pattern: str = "**/*"
    separator: str = ""
    decimal: str = ""
    encoding: str = ""
    settle_seconds: float = 2.0
    last_line: str = "cut"

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""
        need(bool(self.path), "path", "expected a folder or a file, found none")
        one_character = (
            len(self.separator) <= 1 and self.separator.isascii() and self.separator not in '"\r\n'
        )
        need(
            one_character or not self.separator,
            "separator",
            f"expected one character, found {self.separator!r}",
        )
        one_of(self.decimal, ("", ".", ","), "decimal")
        need(
            not self.separator or self.separator != self.decimal,
            "decimal",
            f"expected another character than the separator, found {self.decimal!r} for both",
        )
        one_of(self.last_line, ("cut", "whole"), "last_line")
        need(self.settle_seconds > 0, "settle_seconds", f"expected more than 0, found {self.settle_seconds}")
        try:
            lookup(self.encoding or "utf-8")
        except LookupError:
            need(False, "encoding", f"expected one such as utf-8 or cp1252, found {self.encoding!r}")


@dataclass
class _Sight:
    """How a file looked when it was last seen; seconds are of the monotonic clock."""

    size: int
    modified: int
    first: float
    since: float
    done: bool = False


def open_source(source: Source, place: Place) -> "Folder":
    """Return the folder that a source describes.

    Raises:
        UsageError: Its ``args`` are wrong, or there is no such folder.
    """
    args = words(source, Args)
    path = place.root / args.path
    if not path.exists():
        key = f"data.sources.{source.name}.args: path"
        raise UsageError(f"{key}: expected a folder or a file, found none at {path}")
    return Folder(args, path, Marks(place.state / "files.json"), source, place.contract)


@dataclass
class Folder:
    """Files of readings; see `Feed`.

    Args:
        args: The source's own words.
        path: Folder or file.
        marks: What was handed over, by path.
        source: Whose files they are.
        contract: What readings are held to.
    """

    args: Args
    path: Path
    marks: Marks
    source: Source
    contract: Contract
    _sights: dict[str, _Sight] = field(default_factory=dict, init=False)
    _handed: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)
    _saved: float = field(default=0.0, init=False)
    _unsaved: bool = field(default=False, init=False)

    def batches(self, watch: bool, stop: threading.Event) -> Iterator[Batch]:
        """Yield rows of files that are new or have grown."""
        self._forget()
        try:
            while not stop.is_set():
                resting = True
                for path in self._files():
                    sight = self._look(path)
                    if sight is None or sight.done:
                        continue
                    settled, growing = self._is_settled(sight), self._is_growing(path, sight)
                    if settled or growing:
                        for batch in self._read(path, sight, settled):
                            yield batch
                            if stop.is_set():
                                return
                    resting &= settled or growing
                    if stop.is_set():
                        return
                if resting and not watch:
                    return
                self._save()
                stop.wait(min(1.0, self.args.settle_seconds / 2))
        finally:
            self._save()

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        kinds = _PARQUET + _CSV if self.args.pattern == Args.pattern else ("",)
        try:
            found = sorted(self.path.glob(self.args.pattern))
        except OSError as error:
            self._say("", f"{self.path} cannot be read: {error}")
            return []
        hidden = [
            path for path in found if any(part.startswith(".") for part in path.relative_to(self.path).parts)
        ]
        return [path for path in found if path not in set(hidden) and path.name.lower().endswith(kinds or "")]

    def _look(self, path: Path) -> _Sight | None:
        """Look at a file; None if there is nothing to read."""
        name, now = str(path), time.monotonic()
        try:
            if not path.is_file():
                return None
            status = path.stat()
        except OSError as error:
            self._say(name, f"{path} cannot be read: {error}")
            return None
        sight = self._sights.get(name)
        if sight is None or (sight.size, sight.modified) != (status.st_size, status.st_mtime_ns):
            # A file that has not changed for long was not just made.
            rested = 0.0 if sight else max(0.0, time.time() - status.st_mtime)
            first = sight.first if sight and not sight.done else now
            sight = _Sight(status.st_size, status.st_mtime_ns, first, now - rested)
            mark = self.marks.values.get(name, {})
            sight.done = mark.get("seen") == sight.size and mark.get("modified") == sight.modified
            self._sights[name] = sight
        return sight

    def _is_settled(self, sight: _Sight) -> bool:
        return time.monotonic() - sight.since >= self.args.settle_seconds

    def _is_growing(self, path: Path, sight: _Sight) -> bool:
        never_rests = time.monotonic() - sight.first >= _GROWING * self.args.settle_seconds
        return never_rests and not _is_parquet(path)

    def _read(self, path: Path, sight: _Sight, settled: bool) -> Iterator[Batch]:
        """Yield what of a file was not handed over yet."""
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
                start = self._start(file, str(path), sight, head)
                if _is_parquet(path):
                    found = parquet_pieces(path, start, sight.size)
                else:
                    found = self._csv(file, head, start, sight.size, settled)
                for some in _gathered(ahead(self._marked(file, path, sight, head, found))):
                    yield self._batch(path, some)
            sight.done = settled
        except NotWhole:
            sight.done = True
            self._say(str(path), f"{path} has no end yet; it is read when it is whole")
        except OSError as error:
            self._say(str(path), f"{path} cannot be read: {error}")

    def _csv(self, file: Any, head: bytes, start: int, size: int, settled: bool) -> Iterator[Piece]:
        how = dialect(head, self.args.separator, self.args.decimal, self.args.encoding)
        if not how.start:
            if size >= HEAD:
                text = head[: 4 * LONGEST].decode(how.codec, "replace")
                yield Piece(unparsed([text], LONGEST), 0, size, size)
            return
        end = {"cut": "text", "whole": "row"}[self.args.last_line] if settled else "leave"
        numbers = numeric(self.source, self.contract)
        how = replace(how, texts=textual(self.source, self.contract))
        yield from csv_pieces(file, how, numbers, max(start, how.start), size, end)

    def _start(self, file: BinaryIO, name: str, sight: _Sight, head: bytes) -> int:
        """Where to read on: at the start if the file is another than the one that was read."""
        mark = self._handed.get(name, self.marks.values.get(name))
        if mark is None or _digest(head[: mark["head"]]) != mark["digest"]:
            return 0
        end = int(mark["end"])
        if (mark["size"], mark["modified"]) == (sight.size, sight.modified):
            return end
        if sight.size <= mark["size"] or _is_parquet(Path(name)):
            return 0
        if is_changed(file, end, mark.get("blocks", []), sight.size):
            self._say(name, f"{name} has grown, and has changed before where it was read to: it is read anew")
            self._handed.pop(name, None)
            return 0
        return end

    def _marked(
        self, file: BinaryIO, path: Path, sight: _Sight, head: bytes, found: Iterator[Piece]
    ) -> "Iterator[_Marked]":
        """Yield pieces that have rows, each with what is to be remembered of the file once it is kept."""
        mark = self._handed.get(str(path), self.marks.values.get(str(path), {}))
        about = {"size": sight.size, "modified": sight.modified, "head": len(head), "digest": _digest(head)}
        for piece in (one for one in found if len(one.table)):
            known = mark.get("blocks", []) if mark.get("end") == piece.first else []
            blocks = [] if _is_parquet(path) else digests(file, piece.end, known, piece.first)
            mark = {**about, "end": piece.end, "seen": piece.seen, "blocks": blocks}
            yield piece, mark

    def _batch(self, path: Path, some: "list[_Marked]") -> Batch:
        import pyarrow as pa

        mark = some[-1][1]
        self._handed[str(path)] = mark

        def kept() -> None:
            self.marks.values[str(path)] = mark
            self._unsaved = True
            # Not for each of many small files: what is read twice is kept once.
            if time.monotonic() - self._saved >= 1.0:
                self._save()

        unit = "row" if _is_parquet(path) else "byte"
        table = pa.concat_tables([piece.table for piece, _ in some])
        return Batch(table, f"{path} from {unit} {some[0][0].first}", kept)

    def _save(self) -> None:
        if self._unsaved:
            self.marks.save()
            self._saved, self._unsaved = time.monotonic(), False

    def _forget(self) -> None:
        """Forget files that are gone; a share that is not mounted shows none at all, and they are not."""
        gone = [name for name in self.marks.values if not Path(name).exists()]
        if len(gone) < len(self.marks.values):
            for name in gone:
                del self.marks.values[name]

    def _say(self, name: str, what: str) -> None:
        if self._said.get(name) != what:
            log.warning("source %s: %s", self.source.name, what)
        self._said[name] = what


def _gathered(pieces: "Iterator[_Marked]") -> "Iterator[list[_Marked]]":
    """Put pieces together: the more come at a time, the fewer partitions are written anew."""
    some: list[_Marked] = []
    held = 0
    try:
        for piece, mark in pieces:
            if some and (held >= GATHERED or piece.table.schema != some[0][0].table.schema):
                yield some
                some, held = [], 0
            some.append((piece, mark))
            held += piece.table.nbytes
    except OSError:
        if some:
            yield some
        raise
    if some:
        yield some


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(_PARQUET)


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()
