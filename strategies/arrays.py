"""Named arrays: what strategies compute on, in pieces that fit a cache, on a few threads.

A piece is a range of one array's elements. Pieces do not overlap, so the result is the same bits
whatever the number of threads.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

PIECE = 1 << 17
"""Elements of a piece: long enough that calls cost nothing, short enough for the few temporary arrays of
a step to stay in a cache."""

_ALONE = 1 << 22
"""Elements below which waking other threads costs more than they save, on a busy machine above all."""

_MOST_WORKERS = 8
"""Merging waits for memory, which more cores do not make faster."""

Result = TypeVar("Result")


class Piece(NamedTuple):
    """Elements ``start`` to ``stop`` of the flat array ``name``."""

    name: str
    start: int
    stop: int

    def of(self, arrays: Mapping[str, Array]) -> Array:
        """Return this part of a C-ordered array as a flat view."""
        return arrays[self.name].reshape(-1)[self.start : self.stop]


def pieces(arrays: Mapping[str, Array], size: int = PIECE) -> Iterator[Piece]:
    """Cut arrays into pieces of at most ``size`` elements."""
    for name, array in arrays.items():
        for start in range(0, array.size, size):
            yield Piece(name, start, min(start + size, array.size))


def over(parts: Iterable[Piece], work: Callable[[Piece], Result], rows: int = 1) -> list[Result]:
    """Do ``work`` on every piece; the results are in the order of the pieces.

    Args:
        parts: Of arrays that the work does not share.
        work: What is done on one.
        rows: How many values it takes for each element.
    """
    todo = list(parts)
    total = sum([stop - start for _, start, stop in todo])
    if total * rows < _ALONE or _workers() < 2:
        return [work(part) for part in todo]
    # One share a thread, the first on this one: a hand-over a piece would cost as much as the piece.
    own, *others = _shares(todo, total, _workers())
    handed = [_pool().submit(lambda share: [work(part) for part in share], share) for share in others]
    found = [work(part) for part in own]
    for future in handed:
        found += future.result()
    return found


def _shares(todo: list[Piece], total: int, count: int) -> list[list[Piece]]:
    """Cut a list of pieces with ``total`` elements into ``count`` lists with about as many each."""
    shares: list[list[Piece]] = [[] for _ in range(count)]
    done = 0
    for part in todo:
        size = part.stop - part.start
        shares[(2 * done + size) * count // (2 * total + 1)].append(part)
        done += size
    return shares


def ordered(arrays: Mapping[str, Array]) -> Arrays:
    """Return the arrays in C order, as `Piece.of` needs them; those that are so already are not copied."""
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def is_float(array: Array) -> bool:
    """Whether an array holds weights; whole numbers are counters."""
    return bool(np.issubdtype(array.dtype, np.floating))


def working(array: Array) -> np.dtype[Any]:
    """The dtype that sums over this array are kept in: float32 for float16 and float32, else float64."""
    return np.dtype(np.float32 if array.dtype in (np.float16, np.float32) else np.float64)


def zeros(arrays: Mapping[str, Array]) -> Arrays:
    """Return zeros in the shapes of ``arrays`` and in their `working` dtypes."""
    return {name: np.zeros(array.shape, working(array)) for name, array in arrays.items()}


def moved(weights: Mapping[str, Array], steps: Mapping[str, Array]) -> Arrays:
    """Return new arrays, weights plus steps, in the weights' dtypes; whole numbers move by whole numbers.

    Args:
        weights: The global model.
        steps: In the same shapes and in `working` dtypes.
    """
    return moved_by(weights, lambda part: part.of(steps), pieces(weights))


def moved_by(
    weights: Mapping[str, Array], step: Callable[[Piece], Array], parts: Iterable[Piece], rows: int = 1
) -> Arrays:
    """Return what `moved` returns, for steps that are made piece by piece.

    Args:
        weights: The global model.
        step: Makes the step of a piece, flat and in the `working` dtype.
        parts: Of the weights, all of them.
        rows: How many values a step takes for each element.
    """
    here = ordered(weights)
    found = {name: np.empty(array.shape, array.dtype) for name, array in here.items()}

    def move(part: Piece) -> None:
        own = step(part)
        if not is_float(here[part.name]):
            own = np.rint(own).astype(here[part.name].dtype)
        # A step of float32 on float16 is rounded once, after the sum.
        np.copyto(part.of(found), part.of(here) + own, casting="same_kind")

    over(parts, move, rows)
    return found


@cache
def _workers() -> int:
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_workers(), "merge")
