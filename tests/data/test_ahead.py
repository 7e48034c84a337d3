"""What comes next is made while what came before is used."""

import threading
from collections.abc import Iterator

import pytest

from interplant.data.ahead import ahead


def test_the_next_is_made_while_the_one_before_is_used() -> None:
    made = threading.Event()

    def things() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    found = ahead(things())
    assert next(found) == 1
    assert made.wait(10)
    assert list(found) == [2]


def test_an_error_comes_in_its_turn() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = ahead(things())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_nothing_is_left_running_when_nobody_wants_more() -> None:
    before = threading.active_count()
    found = ahead(iter(range(10)))
    assert next(found) == 0
    found.close()
    assert threading.active_count() == before
    assert list(ahead(iter(()))) == []
