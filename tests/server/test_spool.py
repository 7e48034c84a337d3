"""Blobs are whole, right, or not there."""

import errno

import numpy as np
import pytest

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.core.files import PIECE
from interplant.core.wire import blob_of, to_bytes
from interplant.server.spool import Spool

BODY = bytes(range(256)) * 9
TENSORS = {"weights/w": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def test_a_broadcast_is_named_by_its_digest_and_stored_once(spool):
    blob = spool.put(TENSORS)
    path = spool.blob(blob.sha256)
    assert blob == blob_of(path.read_bytes())
    assert path.read_bytes() == to_bytes(TENSORS)
    assert spool.put(TENSORS) == blob
    assert list(path.parent.iterdir()) == [path]


def test_what_a_power_cut_left_of_a_broadcast_is_written_anew(spool):
    path = spool.blob(spool.put(TENSORS).sha256)
    path.write_bytes(b"")
    spool.put(TENSORS)
    assert path.read_bytes() == to_bytes(TENSORS)


def test_a_broadcast_that_a_full_disk_stops_leaves_nothing(spool, tmp_path, full_disk):
    with full_disk(1000), pytest.raises(InterplantError, match="the disk is full"):
        spool.put({"w": np.ones(1000)})
    assert list((tmp_path / "spool" / "blobs").iterdir()) == []


def test_broadcasts_that_nobody_needs_are_removed(spool):
    one, two = spool.put({"w": np.ones(1)}), spool.put({"w": np.ones(2)})
    spool.keep_only({two.sha256})
    assert not spool.blob(one.sha256).exists()
    assert spool.blob(two.sha256).exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_names_from_outside_stay_inside(spool, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    assert spool.blob(name).parent == tmp_path / "spool" / "blobs"
    assert spool.reply(name).parent == tmp_path / "spool" / "replies"


def test_a_reply_grows_and_becomes_whole(spool):
    blob = blob_of(BODY)
    assert spool.arrived("m", blob) == 0
    receiving = spool.receive("m", blob)
    receiving.write(0, BODY[:1000])
    assert spool.arrived("m", blob) == 1000  # what was written counts, also while it is being written
    receiving.close()
    again = spool.receive("m", blob)
    assert again.size == 1000
    again.write(1000, BODY[1000:])
    assert not spool.reply("m").exists()
    again.finish()
    assert spool.reply("m").read_bytes() == BODY
    assert spool.arrived("m", blob) == len(BODY)


def test_a_large_part_is_digested_in_full(spool):
    body = BODY * 1200
    assert len(body) > 2 * PIECE
    blob = blob_of(body)
    receiving = spool.receive("m", blob)
    receiving.write(0, body[:-10])
    receiving.close()
    again = spool.receive("m", blob)
    again.write(len(body) - 10, body[-10:])
    again.finish()
    assert spool.reply("m").read_bytes() == body


def test_another_reply_to_the_same_message_begins_anew(spool):
    first, second = blob_of(BODY), blob_of(BODY[::-1])
    receiving = spool.receive("m", first)
    receiving.write(0, BODY[:50])
    receiving.close()
    assert spool.arrived("m", second) == 0
    again = spool.receive("m", second)
    again.write(0, BODY[::-1])
    again.finish()
    assert spool.arrived("m", second) == second.size
    assert spool.arrived("m", first) == 0, "a plant cannot fill the disk with beginnings"


def test_a_whole_reply_that_was_damaged_is_not_whole(spool):
    blob = blob_of(BODY)
    receiving = spool.receive("m", blob)
    receiving.write(0, BODY)
    receiving.finish()
    spool.reply("m").write_bytes(bytes(len(BODY)))
    assert spool.arrived("m", blob) == 0


def test_a_complete_part_counts_only_with_the_right_digest(spool):
    blob = blob_of(BODY)
    receiving = spool.receive("m", blob)
    receiving.write(0, bytes(len(BODY)))
    receiving.close()
    assert spool.arrived("m", blob) == 0
    right = spool.receive("m", blob)
    assert right.size == 0
    right.write(0, BODY)
    right.close()
    assert spool.arrived("m", blob) == len(BODY)
    assert spool.reply("m").read_bytes() == BODY


@pytest.mark.parametrize("offset", [0, 9, 11, 1 << 60])
def test_a_piece_must_begin_where_the_file_ends(spool, offset):
    blob = blob_of(BODY)
    receiving = spool.receive("m", blob)
    receiving.write(0, BODY[:10])
    with pytest.raises(InterplantError, match=f"expected a piece from byte 10, found one from byte {offset}"):
        receiving.write(offset, BODY[10:20])
    receiving.close()
    assert spool.arrived("m", blob) == 10


def test_a_full_disk_is_told_in_one_sentence(spool, monkeypatch):
    receiving = spool.receive("m", blob_of(BODY))

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    receiving.close()
    monkeypatch.setattr(receiving, "_file", Full())
    with pytest.raises(InterplantError, match="the disk is full"):
        receiving.write(0, BODY)


def test_forgetting_one_message_leaves_its_neighbours(spool):
    for name in ("run.1.2", "run.1.22", "run.11.2"):
        receiving = spool.receive(name, blob_of(BODY))
        receiving.write(0, BODY[:5])
        receiving.close()
    spool.forget("run.1.2")
    assert spool.arrived("run.1.2", blob_of(BODY)) == 0
    assert spool.arrived("run.1.22", blob_of(BODY)) == 5
    assert spool.arrived("run.11.2", blob_of(BODY)) == 5


def test_a_reply_without_bytes(spool):
    empty = pb.Blob()
    assert spool.arrived("m", empty) == 0
    receiving = spool.receive("m", blob_of(b""))
    receiving.finish()
    assert spool.reply("m").read_bytes() == b""


def test_a_reply_that_is_forgotten_while_it_comes_is_gone(spool):
    receiving = spool.receive("m", blob_of(BODY))
    receiving.write(0, BODY)
    spool.forget("m")
    with pytest.raises(InterplantError, match="nobody waits for this reply any more"):
        receiving.finish()
    assert spool.arrived("m", blob_of(BODY)) == 0
