"""What every test has."""

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Tests run side by side, one for each core; torch's own threads would only wait for one another."""

# Random examples are the same in each run, here as in CI, until the code changes; `make fuzz` tries others.
settings.load_profile("ci")

FIRST = ("mutants", "system", "lab", "server", "client", "cli")
"""Folders whose tests take long: they begin, so that no process has a long one left when others are done."""

_libc = ctypes.CDLL(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the folders with long tests begin; within a folder the order stays."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)


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
