"""One outbound connection: resumable, checked, and each failure one sentence."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from interplant.client.directory import PlantDirectory
from interplant.client.link import AwayError, Link, TurnedAwayError
from interplant.core import certificates
from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.wire import PROTOCOL, blob_of

from .coordinator import Refusing, Scripted

DATA = bytes(range(256)) * 40


@pytest.fixture
def link(joined: PlantDirectory) -> Iterator[Link]:
    made = Link(joined)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "blobs" / "blob"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# --- fetching --------------------------------------------------------------------------------------


def test_a_blob_is_fetched_once(link: Link, coordinator: Scripted, place: Path) -> None:
    blob = coordinator.blob(DATA)
    assert link.fetch(blob, place).read_bytes() == DATA
    assert link.fetch(blob, place).read_bytes() == DATA
    assert coordinator.fetches == [(blob.sha256, 0)]
    assert names(place.parent) == ["blob"]


def breaking(data: bytes) -> Iterator[bytes]:
    """Half of it, and then the stream ends with an error."""
    yield data[: len(data) // 2]
    raise RuntimeError


@pytest.mark.filterwarnings("ignore")
def test_a_broken_fetch_goes_on_where_it_stopped(link: Link, coordinator: Scripted, place: Path) -> None:
    blob = coordinator.blob(DATA)
    coordinator.sends = breaking
    with pytest.raises(AwayError):
        link.fetch(blob, place)
    assert not place.exists()
    coordinator.sends = lambda data: iter([data])
    assert link.fetch(blob, place).read_bytes() == DATA
    assert coordinator.fetches == [(blob.sha256, 0), (blob.sha256, len(DATA) // 2)]


def test_wrong_bytes_are_thrown_away_and_fetched_anew(link: Link, coordinator: Scripted, place: Path) -> None:
    blob = coordinator.blob(DATA)
    place.parent.mkdir()
    place.with_name("blob.part").write_bytes(b"\0" * 100)
    with pytest.raises(InterplantError, match="another digest"):
        link.fetch(blob, place)
    assert names(place.parent) == []
    assert link.fetch(blob, place).read_bytes() == DATA


def test_what_lies_there_with_other_bytes_is_replaced(link: Link, coordinator: Scripted, place: Path) -> None:
    place.parent.mkdir()
    place.write_bytes(b"older")
    assert link.fetch(coordinator.blob(DATA), place).read_bytes() == DATA


def test_a_fetch_that_was_whole_before_a_kill_is_not_sent_again(
    link: Link, coordinator: Scripted, place: Path
) -> None:
    place.parent.mkdir()
    place.with_name("blob.part").write_bytes(DATA)
    assert link.fetch(coordinator.blob(DATA), place).read_bytes() == DATA
    assert coordinator.fetches[0][1] == len(DATA)


def test_more_than_was_named_does_not_fill_the_disk(link: Link, coordinator: Scripted, place: Path) -> None:
    """A coordinator that never ends a stream is cut off at the size that it named."""
    blob = coordinator.blob(DATA)
    sent = []

    def endless(data: bytes) -> Iterator[bytes]:
        while len(sent) < 5000:
            sent.append(1)
            yield data

    coordinator.sends = endless
    with pytest.raises(InterplantError, match="another digest"):
        link.fetch(blob, place)
    assert len(sent) < 5000
    assert names(place.parent) == []


@pytest.mark.parametrize("digest", ["../escaped", "/tmp/escaped", "", "ab" * 31, "AB" * 32, "ab" * 31 + "/a"])
def test_a_blob_that_is_not_named_by_a_digest_touches_nothing(
    link: Link, coordinator: Scripted, tmp_path: Path, digest: str
) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    mine = tmp_path / "escaped.part"
    mine.write_bytes(b"the plant's own")
    coordinator.blobs[digest] = DATA
    with pytest.raises(InterplantError, match="expected a SHA-256"):
        link.fetch(pb.Blob(sha256=digest, size=len(DATA)), folder / digest)
    assert mine.read_bytes() == b"the plant's own"
    assert names(folder) == []
    assert coordinator.fetches == []


# --- delivering ------------------------------------------------------------------------------------


def test_only_the_bytes_that_are_missing_are_sent(link: Link, coordinator: Scripted, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(DATA)
    coordinator.bodies["run.1.7"] = DATA[:3000]
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.SEND, offset=3000)
    assert link.deliver(pb.Parcel(reply_to="run.1.7", body=blob_of(DATA)), body)
    assert coordinator.bodies["run.1.7"] == DATA


@pytest.mark.parametrize(("want", "keep"), [("SEND", True), ("KEEP", True), ("DROP", False)])
def test_the_coordinator_says_whether_a_reply_is_kept(
    link: Link, coordinator: Scripted, tmp_path: Path, want: str, keep: bool
) -> None:
    body = tmp_path / "body"
    body.write_bytes(DATA)
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.Want.Value(want))
    assert link.deliver(pb.Parcel(reply_to="run.1.7"), body) == keep
    assert ("run.1.7" in coordinator.bodies) == (want == "SEND")


def test_a_refusal_has_no_body(link: Link, coordinator: Scripted) -> None:
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.DROP)
    assert not link.deliver(pb.Parcel(reply_to="run.1.7", error="paused"), None)
    assert coordinator.bodies == {}


# --- connecting ------------------------------------------------------------------------------------


def test_the_hello_names_version_and_clock(link: Link, coordinator: Scripted) -> None:
    with link.watch() as notices:
        assert next(notices).welcome.federation == "test"
    (hello,) = coordinator.hellos
    assert hello.protocol == PROTOCOL
    assert hello.clock > 1e9


def watched(link: Link) -> None:
    with link.watch() as notices:
        next(notices)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "FAILED_PRECONDITION", "UNAUTHENTICATED"])
def test_what_trying_again_cannot_change_is_final(link: Link, coordinator: Scripted, code: str) -> None:
    coordinator.refusing = Refusing(grpc.StatusCode[code], "north is revoked")
    with pytest.raises(TurnedAwayError, match=rf"^{coordinator.address}: north is revoked$"):
        watched(link)


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"]
)
def test_everything_else_may_pass(link: Link, coordinator: Scripted, code: str) -> None:
    coordinator.refusing = Refusing(grpc.StatusCode[code], "words")
    with pytest.raises(AwayError, match=coordinator.address):
        watched(link)


def test_nobody_there(link: Link, coordinator: Scripted) -> None:
    coordinator.stop()
    with pytest.raises(AwayError, match="does not answer there; is it running"):
        watched(link)


def test_a_server_of_another_authority_is_not_the_coordinator(link: Link, coordinator: Scripted) -> None:
    coordinator.stop()
    coordinator.start(coordinator.port, certificates.make_authority("test"))
    with pytest.raises(AwayError, match="not the coordinator that the plant joined"):
        watched(link)
    assert coordinator.hellos == []


def test_a_link_that_was_closed_meanwhile_says_that_it_is_away(link: Link) -> None:
    link.close()
    with pytest.raises(AwayError):
        watched(link)
    with pytest.raises(AwayError):
        link.report("r-1", "active", "")


def test_a_clock_that_is_off_is_named_before_anything_is_dialled(
    joined: PlantDirectory, certify: Callable[..., None], coordinator: Scripted
) -> None:
    certify(joined, timedelta(seconds=-1))
    with pytest.raises(InterplantError, match="set the clock or ask the coordinator's operator"):
        Link(joined)
    assert coordinator.hellos == []


def test_reports_and_renewals_reach_the_coordinator(
    link: Link, joined: PlantDirectory, coordinator: Scripted
) -> None:
    link.report("r-1", "refused", "worse")
    assert coordinator.deployed == [("r-1", "refused", "worse")]
    key = certificates.read_key(joined.plant_key)
    certificates.check_pair(link.renew(certificates.make_csr(key)), key)


def test_digests_are_what_they_say() -> None:
    assert blob_of(DATA) == pb.Blob(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
