"""What every test has."""

import ctypes
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

_libc = ctypes.CDLL(None)


@pytest.fixture(autouse=True)
def _nothing_is_left_in_c_buffers() -> Iterator[None]:
    """What torch's C++ prints belongs to the test that made it print, not below pytest's summary."""
    yield
    _libc.fflush(None)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Have no file grow beyond some bytes, as on a disk that has no more."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
