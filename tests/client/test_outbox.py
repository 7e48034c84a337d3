"""Replies that were paid for are kept until a merge that is on disk holds them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from interplant.client import outbox as module
from interplant.client.outbox import Outbox
from interplant.core import blobs, wire
from interplant.core import federation_pb2 as pb
from interplant.core.tensors import Tensors
from interplant.core.wire import blob_of, to_bytes

UPDATE: Tensors = {"update/w": np.arange(3, dtype=np.float32)}


def keep(outbox: Outbox, message_id: str, tensors: Tensors = UPDATE) -> pb.Parcel:
    parcel = pb.Parcel(reply_to=message_id, message_type="train", records=b"{}")
    outbox.keep(parcel, tensors)
    return parcel


@pytest.fixture(autouse=True)
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every body be too large to stand in its parcel."""
    if "small" not in request.node.name:
        monkeypatch.setattr(wire, "INLINE", 0)


def ids(outbox: Outbox) -> list[str]:
    return sorted(parcel.reply_to for parcel in outbox.all())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plant" / "outbox"


def test_a_kept_reply_is_found_again_by_another_process(folder: Path) -> None:
    parcel = keep(Outbox(folder), "run.1.7")
    again = Outbox(folder)
    assert again.find("run.1.7") == parcel
    assert again.body("run.1.7").read_bytes() == to_bytes(UPDATE)
    assert parcel.body == blob_of(to_bytes(UPDATE))
    assert again.find("run.2.7") is None


def test_a_kill_between_body_and_parcel_leaves_no_reply(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parcel without its body would be offered for ever; a body alone is nothing."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", dies)
        with pytest.raises(KeyboardInterrupt):
            keep(Outbox(folder), "run.1.7")
    assert names(folder) == ["run.1.7.body"]
    after = Outbox(folder)
    assert after.find("run.1.7") is None
    assert list(after.all()) == []
    again = {"update/w": np.ones(2, np.float32)}
    keep(after, "run.1.7", again)
    assert after.body("run.1.7").read_bytes() == to_bytes(again)


def test_what_a_kill_has_left_is_cleared_at_the_next_start(folder: Path) -> None:
    parcel = keep(Outbox(folder), "run.1.7")
    (folder / "run.2.7.body").write_bytes(b"no parcel")
    (folder / ".run.3.7.body.99.part").write_bytes(b"half")
    (folder / ".tmpHalf").write_bytes(b"half")
    again = Outbox(folder)
    assert again.find("run.1.7") == parcel
    assert names(folder) == ["run.1.7.body", "run.1.7.parcel"]


def test_settling_forgets_that_run_up_to_that_round(folder: Path) -> None:
    outbox = Outbox(folder)
    for message_id in ("run.1.7", "run.2.7", "run.3.7", "run.10.7", "other.1.7", "run-2.1.7"):
        keep(outbox, message_id)
    outbox.settle("run", 2)
    assert ids(outbox) == ["other.1.7", "run-2.1.7", "run.10.7", "run.3.7"]
    outbox.settle("run", 10)
    assert ids(outbox) == ["other.1.7", "run-2.1.7"]
    assert len(names(folder)) == 4


@pytest.mark.parametrize("odd", ["run", "run.x.7", "run.", "run..7", ""])
def test_an_id_of_another_form_does_not_stop_the_settling(folder: Path, odd: str) -> None:
    outbox = Outbox(folder)
    keep(outbox, odd)
    keep(outbox, "run.1.7")
    outbox.settle("run", 5)
    outbox.settle("", 5)
    assert "run.1.7" not in ids(outbox)


@pytest.mark.parametrize("odd", ["../escaped", "/tmp/escaped", "..", "a/../../escaped", "."])
def test_an_odd_id_cannot_escape_the_folder(folder: Path, odd: str) -> None:
    outbox = Outbox(folder)
    beside = folder.parent / "escaped.body"
    beside.write_bytes(b"the plant's own")
    before = names(folder.parent)
    keep(outbox, odd)
    assert outbox.body(odd).parent.resolve() == folder.resolve()
    assert len(names(folder)) == 2
    assert names(folder.parent) == before
    assert not Path("/tmp/escaped.body").exists()
    outbox.drop(odd)
    assert names(folder) == []
    assert beside.read_bytes() == b"the plant's own"


def test_replies_are_offered_in_the_order_they_were_made(folder: Path) -> None:
    outbox = Outbox(folder)
    for age, message_id in enumerate(["run.9.7", "run.10.7", "a.1.7"]):
        keep(outbox, message_id)
        os.utime(folder / f"{message_id}.parcel", (1000.0 + age, 1000.0 + age))
    assert [parcel.reply_to for parcel in outbox.all()] == ["run.9.7", "run.10.7", "a.1.7"]


def test_dropping_twice_is_as_good_as_once(folder: Path) -> None:
    outbox = Outbox(folder)
    keep(outbox, "run.1.7")
    outbox.drop("run.1.7")
    outbox.drop("run.1.7")
    assert names(folder) == []
    shutil.rmtree(folder)
    assert list(Outbox(folder).all()) == []


def test_a_small_body_is_kept_with_its_parcel(folder: Path) -> None:
    """One file: there is no moment between body and parcel, and one wait for the disk."""
    parcel = keep(Outbox(folder), "run.1.7")
    assert names(folder) == ["run.1.7.parcel"]
    assert Outbox(folder).find("run.1.7") == parcel
    assert parcel.inline == to_bytes(UPDATE)
    assert parcel.body == blob_of(parcel.inline)


def test_an_update_that_lies_in_a_file_is_moved(folder: Path, tmp_path: Path) -> None:
    blobs.save(tmp_path / "update.job", UPDATE)
    keep(Outbox(folder), "run.1.7", blobs.load(tmp_path / "update.job"))
    assert not (tmp_path / "update.job").exists()
    assert Outbox(folder).body("run.1.7").read_bytes() == to_bytes(UPDATE)


def test_the_body_is_on_disk_before_the_parcel_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a parcel whose body is not whole, wherever the body came from."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    blobs.save(tmp_path / "update.job", UPDATE)
    for tensors in (UPDATE, blobs.load(tmp_path / "update.job")):
        synced.clear()
        keep(Outbox(folder), "run.1.7", tensors)
        assert synced[:2] == ["run.1.7.body", folder.name]
        assert ".run.1.7.parcel" in synced[2]
