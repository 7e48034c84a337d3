"""What comes next is made while what came before is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()


def ahead(things: Iterator[T]) -> Generator[T]:
    """Yield things in their order, the next one being made in a thread meanwhile; an error comes in its turn.

    Args:
        things: Nobody else uses them, or what they change.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, things, _END)
        while (thing := coming.result()) is not _END:
            coming = pool.submit(next, things, _END)
            yield thing  # type: ignore[misc] # it is not the end
