"""All updates of a round, for rules that need them at once, piece by piece.

A rule reads the same elements of all updates, then the next. An update that lies in a file already, as
large ones do that have come over the network, is read there: the file is held open, and nothing is copied.
Of others, the first are kept in memory, as far as `MEMORY` goes; the rest is appended to one file and
forgotten. That file has no name: the system frees it with the merge, or with the process, however that
ends. So memory is bounded, whatever the number and size of the updates.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from interplant.core import blobs
from interplant.core.errors import InterplantError
from interplant.core.files import disk_errors
from interplant.strategies.arrays import Array, Arrays, Piece, moved_by, ordered, over, pieces, working

_BLOCK_BYTES = 1 << 21
"""Bytes of a piece over all updates in float64: a few such blocks a thread are all that is in memory."""

MEMORY = 256 << 20
"""Bytes of updates that are kept in memory: a thousand of those that travel within their messages, and no
more than the coordinator's processes take anyway. To write and read so many takes as long as Krum's own
arithmetic."""

_OPEN = 256
"""Files that are held open at most: systems commonly allow a process 1024."""

_FEWEST = 1 << 10
"""Elements of a piece at least; below, calls cost more than the work."""

_GAP = 48
"""Elements between two rows that are read together."""

_AHEAD = 64
"""Pieces whose results wait at most for who asked for them."""


class Spill:
    """Updates in the order they came.

    Args:
        weights: The global model, whose names, shapes and dtypes the updates have.
        scratch: The folder whose disk is used.
    """

    def __init__(self, weights: Arrays, scratch: Path) -> None:
        # By name: a checkpoint is read in any order, and sums over the whole model shall be the same bits.
        own = dict(sorted(weights.items()))
        self._weights = {name: np.empty(0, array.dtype) for name, array in own.items()}
        self._shapes = {name: array.shape for name, array in own.items()}
        sizes = [array.nbytes for array in own.values()]
        self._starts = dict(zip(own, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._bytes = sum(sizes)
        self._scratch = scratch
        self._places: list[_Place] = []
        self._room, self._borrowed, self._written = MEMORY, 0, 0
        self._file: int | None = None

    @property
    def count(self) -> int:
        """How many updates there are."""
        return len(self._places)

    def add(self, update: Arrays) -> None:
        """Keep an update."""
        found = blobs.open_under(update) if self._borrowed < _OPEN else None
        if found is not None:
            self._borrowed += 1
            weakref.finalize(self, os.close, found[0])
            self._places.append(_InFile(*found))
        elif self._bytes <= self._room:
            self._room -= self._bytes
            self._places.append(self._held(ordered(update)))
        else:
            self._places.append(self._spilled(ordered(update)))

    def _held(self, update: Arrays) -> "_InMemory":
        block = np.empty(self._bytes, np.uint8)
        for name, array in update.items():
            start = self._starts[name]
            block[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        return _InMemory(block, self._starts)

    def _spilled(self, update: Arrays) -> "_InFile":
        place = self._written * self._bytes
        with disk_errors(self._scratch):
            if self._file is None:
                with tempfile.TemporaryFile(dir=self._scratch) as file:
                    self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file)
            # At once, not as it is written: that is faster, and a full disk is known before.
            os.posix_fallocate(self._file, place, max(1, self._bytes))
            for name, array in update.items():
                _write(self._file, array, place + self._starts[name])
        self._written += 1
        return _InFile(self._file, {name: place + start for name, start in self._starts.items()})

    def moved(
        self, weights: Arrays, rule: Callable[[Array], Array], chosen: Sequence[int] | None = None
    ) -> Arrays:
        """Return the weights, each moved by what a rule makes of the updates; see `arrays.moved`.

        Args:
            weights: The global model.
            rule: Maps the updates' values (count, n), in the `working` dtype and free to be changed, to
                one row (n,) in that dtype.
            chosen: Only these updates; all if left out.
        """
        parts = self.pieces(weights)
        return moved_by(weights, lambda part: rule(self.read(part, chosen)), parts, self.count)

    def each(self, rule: Callable[[Array], Array]) -> Iterator[Array]:
        """Yield what ``rule`` gives for each piece's values (count, n), in the order of the pieces."""
        blank = {name: np.broadcast_to(0, shape) for name, shape in self._shapes.items()}
        parts = list(self.pieces(blank))
        for start in range(0, len(parts), _AHEAD):
            yield from over(parts[start : start + _AHEAD], lambda part: rule(self.read(part)), self.count)

    def pieces(self, arrays: Arrays) -> Iterator[Piece]:
        """Cut the model so that all updates' values of a piece fit a cache."""
        return pieces(arrays, max(_FEWEST, _BLOCK_BYTES // (8 * max(1, self.count))))

    def read(self, part: Piece, chosen: Sequence[int] | None = None) -> Array:
        """Return the updates' values of a piece (count, n) in the `working` dtype."""
        kind = self._weights[part.name]
        numbers = range(self.count) if chosen is None else chosen
        width = part.stop - part.start
        # Rows that start a power of two apart would push each other out of the cache.
        rows = np.empty((len(numbers), width + _GAP), kind.dtype)[:, :width]
        for number, row in zip(numbers, rows, strict=True):
            self._places[number].read(part.name, part.start * rows.itemsize, row.view(np.uint8))
        return rows.astype(working(kind), copy=False)


class _Place(Protocol):
    """Where one update lies."""

    def read(self, name: str, skip: int, row: Array) -> None:
        """Fill ``row`` with the bytes of an array from the byte ``skip`` on."""


@dataclass(frozen=True)
class _InMemory:
    block: Array
    starts: Mapping[str, int]

    def read(self, name: str, skip: int, row: Array) -> None:
        start = self.starts[name] + skip
        row[:] = self.block[start : start + row.size]


@dataclass(frozen=True)
class _InFile:
    file: int
    starts: Mapping[str, int]

    def read(self, name: str, skip: int, row: Array) -> None:
        found = os.preadv(self.file, [row.data], self.starts[name] + skip)
        if found != row.nbytes:
            raise InterplantError(
                f"expected {row.nbytes} bytes of a spilled update, found {found}: a disk failed"
            )


class Spilling:
    """The part of a strategy that keeps every update until the round ends, and no state.

    Public weights do not enter: a rule that bounds what one plant can do gives each the same say.
    """

    def init(self, weights: Arrays) -> Arrays:
        """Return the empty state."""
        return {}

    def begin(self, weights: Arrays, scratch: Path) -> Spill:
        """Make room for the updates."""
        return Spill(weights, scratch)

    def fold(self, merge: Spill, update: Arrays, weight: float = 1.0) -> None:
        """Keep one update."""
        merge.add(update)


def _write(file: int, array: Array, place: int) -> None:
    left = array.reshape(-1).view(np.uint8).data
    while left:
        done = os.pwrite(file, left, place)
        left, place = left[done:], place + done
