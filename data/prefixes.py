"""Whether what was read of a file that has grown since is still what it was, at a bounded cost.

A file is known by the digests of its blocks up to where it was read. As it grows, its last known block is
looked at, which shows everything that was put in or taken out before, and some of the others in turn: as
much as is new, four times, and a block at least. So a change in place shows at once in a file of two blocks,
and in a larger one within some growths.
"""

import hashlib
from collections.abc import Sequence
from typing import BinaryIO, Final

BLOCK: Final = 4 << 20
"""Bytes of a block."""

_TIMES: Final = 4


def digests(file: BinaryIO, end: int, known: Sequence[str] = (), before: int = 0) -> list[str]:
    """Return the digest of each block up to ``end``; the last may be a part of one.

    Args:
        file: Open for reading bytes; it is left where it was.
        end: Up to which byte.
        known: What was returned for ``before``, an earlier end of the same file: whole blocks stand.
        before: That end.
    """
    whole = min(before, end) // BLOCK
    found = list(known[:whole])
    place = file.tell()
    for number in range(len(found), -(-end // BLOCK)):
        found.append(_digest(file, number, end))
    file.seek(place)
    return found


def is_changed(file: BinaryIO, end: int, known: Sequence[str], size: int) -> bool:
    """Tell whether a block that is looked at is another than it was.

    Which ones are follows from the file's size, so that others are as it grows.

    Args:
        file: Open for reading bytes; it is left where it was.
        end: Up to which byte ``known`` goes.
        known: What `digests` returned.
        size: Of the file now.
    """
    if not known:
        return False
    budget = max(1, _TIMES * (size - end) // BLOCK)
    looked = {len(known) - 1, *((size + one) % len(known) for one in range(min(budget, len(known))))}
    place = file.tell()
    found = any(_digest(file, number, end) != known[number] for number in sorted(looked))
    file.seek(place)
    return found


def _digest(file: BinaryIO, number: int, end: int) -> str:
    first = number * BLOCK
    file.seek(first)
    return hashlib.sha256(file.read(min(BLOCK, end - first))).hexdigest()
