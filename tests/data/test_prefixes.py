"""What was read of a growing file is known by its blocks; a change before the end is found."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interplant.data import prefixes
from interplant.data.prefixes import digests, is_changed


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "BLOCK", 8)


@given(ends=st.lists(st.integers(0, 100), min_size=1, max_size=6).map(sorted))
def test_blocks_that_are_known_are_not_needed_again(ends: list[int]) -> None:
    file = io.BytesIO(bytes(range(100)))
    file.seek(3)
    known: list[str] = []
    before = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "BLOCK", 8)
        for end in ends:
            known = digests(file, end, known, before)
            before = end
        assert known == digests(file, ends[-1])
    assert file.tell() == 3


def test_what_only_grew_has_not_changed() -> None:
    known = digests(io.BytesIO(bytes(100)), 83)
    assert not any(is_changed(io.BytesIO(bytes(size)), 83, known, size) for size in range(84, 300))


@pytest.mark.parametrize("size", [84, 90, 200])
def test_what_was_put_in_or_taken_out_shows_at_once(size: int) -> None:
    content = bytes(range(100))
    known = digests(io.BytesIO(content), 83)
    for changed in (content[:20] + b"x" + content[20:], content[:20] + content[21:]):
        assert is_changed(io.BytesIO(changed), 83, known, size)


def test_a_change_in_place_shows_after_some_growths_however_little_comes() -> None:
    content = bytes(range(100))
    known = digests(io.BytesIO(content), 83)
    for place in range(83):
        changed = content[:place] + b"!" + content[place + 1 :]
        if changed != content:
            assert any(
                is_changed(io.BytesIO(changed), 83, known, size) for size in range(84, 84 + len(known))
            )


def test_much_that_is_new_has_all_looked_at() -> None:
    changed = b"!" + bytes(range(1, 100))
    known = digests(io.BytesIO(bytes(range(100))), 83)
    assert is_changed(io.BytesIO(changed), 83, known, 83 + 8 * len(known) // 4)
    assert not is_changed(io.BytesIO(changed), 83, [], 99)
