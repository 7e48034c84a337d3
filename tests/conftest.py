"""What every test has."""

import ctypes
from collections.abc import Iterator

import pytest

_libc = ctypes.CDLL(None)


@pytest.fixture(autouse=True)
def _nothing_is_left_in_c_buffers() -> Iterator[None]:
    """What torch's C++ prints belongs to the test that made it print, not below pytest's summary."""
    yield
    _libc.fflush(None)
