"""Downloads over real HTTPS: cut connections, resumption, wrong servers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from interplant.core.errors import InterplantError, UsageError
from interplant.data import download as downloading
from interplant.data.download import download

from .publisher import CONTENT, Publisher

Get = Callable[[], Path]


@pytest.fixture
def get(publisher: Publisher, tmp_path: Path) -> Get:
    def run() -> Path:
        download(publisher.address, tmp_path / "to" / "set.zip")
        return tmp_path / "to" / "set.zip"

    return run


def test_a_file_comes_whole(publisher: Publisher, get: Get) -> None:
    assert get().read_bytes() == CONTENT
    assert publisher.asked == [""]


def test_a_cut_connection_goes_on_from_where_it_was(publisher: Publisher, get: Get) -> None:
    publisher.cut_after = [100_000, 250_000, 7]
    assert get().read_bytes() == CONTENT
    assert publisher.asked == ["", "bytes=100000-", "bytes=350000-", "bytes=350007-"]
    assert [path.name for path in get().parent.iterdir()] == ["set.zip"]


def test_what_has_come_waits_for_the_next_call(publisher: Publisher, get: Get, tmp_path: Path) -> None:
    publisher.cut_after = [100_000] + [0] * downloading.TRIES
    with pytest.raises(InterplantError, match=r"cannot be reached .* call again to go on"):
        get()
    assert (tmp_path / "to" / "set.zip.part").stat().st_size == 100_000
    publisher.asked.clear()
    publisher.cut_after = []
    assert get().read_bytes() == CONTENT
    assert publisher.asked == ["bytes=100000-"]


def test_a_server_without_ranges_starts_anew(publisher: Publisher, get: Get) -> None:
    publisher.ranges = False
    publisher.cut_after = [100_000]
    assert get().read_bytes() == CONTENT


def test_a_part_that_is_whole_already(publisher: Publisher, get: Get, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "set.zip.part").write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_of_another_one(
    publisher: Publisher, get: Get, tmp_path: Path
) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "set.zip.part").write_bytes(CONTENT + b"more")
    assert get().read_bytes() == CONTENT


def test_a_server_that_does_not_have_it(publisher: Publisher, get: Get, tmp_path: Path) -> None:
    publisher.status = 404
    with pytest.raises(InterplantError, match=r"the server answered 404; bring the file .* with --from"):
        get()
    assert list((tmp_path / "to").iterdir()) == []


def test_an_address_must_be_safe_and_stay_so(publisher: Publisher, get: Get) -> None:
    publisher.moved = publisher.address.replace("https", "http")
    with pytest.raises(UsageError, match=r"expected an https address, found http://127"):
        get()
    publisher.address = "http://127.0.0.1:9/set.zip"
    with pytest.raises(UsageError, match="expected an https address, found http://127"):
        get()


def test_a_stranger_is_not_believed(publisher: Publisher, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InterplantError, match=r"cannot be reached .*CERTIFICATE_VERIFY_FAILED"):
        get()


def test_too_much_is_not_taken(publisher: Publisher, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "LARGEST", 1000)
    with pytest.raises(InterplantError, match="expected at most 1000 bytes"):
        get()
