"""The signing key hands over to a new one, in steps that a kill may come between."""

import os
import stat
from contextlib import closing
from datetime import datetime

import pytest

from interplant.client.joining import read_join_file
from interplant.core import federation_pb2 as pb
from interplant.core import keyring, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.server import control, release_keys
from interplant.server.authority import Authority
from interplant.server.registry import Registry
from interplant.server.release_keys import revoke, rotate, settle


def present(coordinator):
    return signing.read_private(coordinator.release_key).public_key()


def test_the_new_key_takes_the_old_ones_place(coordinator):
    first = present(coordinator)
    made = rotate(coordinator, 30, False, "ann")
    second = present(coordinator)
    assert (made.old, made.new) == (first.public_bytes_raw().hex(), second.public_bytes_raw().hex())
    assert signing.read_public(coordinator.release_public_key) == second != first
    assert stat.S_IMODE(coordinator.release_key.stat().st_mode) == 0o600
    lasts = datetime.fromisoformat(made.until) - datetime.fromisoformat(made.created)
    assert (lasts.days, made.revoked) == (30, False)
    rotate(coordinator, 0, True, "ann")
    ring = keyring.read(coordinator.release_public_key)
    assert [one.revoked for one in ring.statements] == [False, True]
    assert keyring.of(first).extended(ring.statements).present == ring.root
    with closing(Registry.open(coordinator)) as registry:
        kinds = [(event.kind, event.text[:7]) for event in registry.events("demo")][:2]
    assert kinds == [("key.rotated", "by ann:")] * 2
    left = {path.name for path in coordinator.keys.iterdir()}
    assert "release.next.key" not in left


def test_a_key_that_has_handed_over_is_revoked_later(coordinator):
    first = present(coordinator).public_bytes_raw().hex()
    rotate(coordinator, 30, False, "ann")
    second = present(coordinator)
    for wrong in (first[:15], "0" * 64, second.public_bytes_raw().hex()):
        with pytest.raises(UsageError, match=f"first 16 hex digits, one of: {first[:16]}"):
            revoke(coordinator, wrong, "ann")
    made = revoke(coordinator, first[:16], "ann")
    assert (made.old, made.revoked, present(coordinator)) == (first, True, second)
    with pytest.raises(UsageError, match="revoked already"):
        revoke(coordinator, first, "ann")
    rotate(coordinator, 30, False, "ann")
    ring = keyring.Keyring(first).extended(keyring.read(coordinator.release_public_key).statements)
    with pytest.raises(keyring.RevokedKeyError):
        ring.check_counts(first, "2000-01-01T00:00:00+00:00")
    ring.check_counts(second.public_bytes_raw().hex(), "2000-01-01T00:00:00+00:00")


def test_a_join_file_carries_what_was_said_of_earlier_keys(coordinator, tmp_path):
    first = present(coordinator).public_bytes_raw().hex()
    rotate(coordinator, 0, True, "ann")
    (tmp_path / "south.join").write_text(Authority.open(coordinator.path).invite("south"))
    join = read_join_file(tmp_path / "south.join")
    ring = keyring.of(signing.parse_public(join.release_key)).extended(keyring.parse(join.release_keys))
    assert ring == keyring.read(coordinator.release_public_key)
    with pytest.raises(keyring.RevokedKeyError):
        ring.check_counts(first, "2000-01-01T00:00:00+00:00")


@pytest.mark.parametrize("days", [-1, 1e6, float("nan")])
def test_impossible_days_are_refused(coordinator, days):
    before = coordinator.release_key.read_bytes()
    with pytest.raises(UsageError, match="expected 0 to 3650 days"):
        rotate(coordinator, days, False, "ann")
    assert coordinator.release_key.read_bytes() == before


@pytest.mark.parametrize("step", range(7))
def test_a_kill_between_two_steps_leaves_one_key_that_signs(coordinator, monkeypatch, step):
    """Steps: the new key, the statement, the private key's place, the public key's; a rename ends each."""
    steps = []

    def killed(function):
        def work(*given, **words):
            if len(steps) == step:
                raise KeyboardInterrupt
            steps.append(function)
            return function(*given, **words)

        return work

    with monkeypatch.context() as patch:
        patch.setattr(release_keys.certificates, "write_key", killed(release_keys.certificates.write_key))
        patch.setattr(release_keys, "write_atomic", killed(release_keys.write_atomic))
        patch.setattr(release_keys.os, "replace", killed(os.replace))
        with pytest.raises(KeyboardInterrupt):
            rotate(coordinator, 30, False, "ann")
    settle(coordinator)
    ring = keyring.read(coordinator.release_public_key)
    assert ring.present == present(coordinator).public_bytes_raw().hex()
    assert len(ring.statements) == (0 if step < 4 else 1)
    rotate(coordinator, 30, False, "ann")
    assert (
        keyring.read(coordinator.release_public_key).present == present(coordinator).public_bytes_raw().hex()
    )


def test_a_key_that_the_statements_do_not_name_is_noticed(coordinator):
    before = coordinator.release_key.read_bytes()
    rotate(coordinator, 30, False, "ann")
    coordinator.release_key.write_bytes(before)  # an old copy was put back
    with pytest.raises(InterplantError, match="restore keys/ from a backup"):
        settle(coordinator)


def test_plants_are_told_now_or_on_return_before_any_release(serving, coordinator):
    serving.offer("r-1", "wear")
    north, south = serving.plant("north"), serving.plant("south")
    with north.watch() as stream:
        assert next(stream).HasField("release")
        rotate(coordinator, 30, False, "ann")
        assert control.reload(coordinator)
        told = pb.Notice(keys=pb.Keys(statements=coordinator.release_keys.read_bytes()))
        assert next(stream) == told
    serving.restart()
    with south.watch() as stream:
        assert next(stream) == told
        assert next(stream).HasField("release")
