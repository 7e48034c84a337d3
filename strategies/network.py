"""Sorting networks: order statistics over updates by whole-row minima and maxima.

Batcher, "Sorting networks and their applications" (AFIPS 1968): odd-even merge sort is a fixed list of
compare-exchanges. On rows of values each is one minimum and one maximum, which processors do many
elements at a time, where a sort goes through every column by itself. What does not lead to a wanted
row is left out.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from interplant.strategies.arrays import Array


def middle_rows(rows: Array, first: int, last: int) -> list[Array]:
    """Sort each column and return the rows ``first`` to ``last`` (without it) of the result.

    Args:
        rows: Finite values (count, n); they are changed.
        first: From 0.
        last: Up to count.
    """
    lines = list(rows)
    spare = np.empty_like(rows[0])
    for low, high, keep_low, keep_high in steps(len(lines), first, last):
        if keep_low:
            np.minimum(lines[low], lines[high], out=spare)
        if keep_high:
            np.maximum(lines[low], lines[high], out=lines[high])
        if keep_low:
            lines[low], spare = spare, lines[low]
    return lines[first:last]


@lru_cache(maxsize=64)
def steps(count: int, first: int, last: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """List the compare-exchanges that rows ``first`` to ``last`` of ``count`` sorted ones depend on.

    Returns:
        For each: the row that gets the minimum, the one that gets the maximum, and whether either is
        needed later.
    """
    needed = set(range(first, last))
    found = []
    for low, high in reversed(list(_odd_even_merge_sort(count))):
        keep = low in needed, high in needed
        if any(keep):
            found.append((low, high, *keep))
            needed |= {low, high}
    return tuple(reversed(found))


def _odd_even_merge_sort(count: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs for any count: those of the next power of two, without rows that are not there.

    Rows that are missing would hold infinity at the end, where no exchange moves them.
    """
    size = 1
    while size < count:  # merges sorted runs of `size`
        step = size
        while step:
            for start in range(step % size, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    if low // (2 * size) == (low + step) // (2 * size):
                        yield low, low + step
            step //= 2
        size *= 2
