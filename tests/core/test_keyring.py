"""Who trusts one key of a federation learns the others, in both directions, and from nobody else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interplant.core import keyring, signing
from interplant.core.errors import InterplantError
from interplant.core.keyring import Keyring, RevokedKeyError, Statement

KEYS = [signing.make_key() for _ in range(4)]
NAMES = [key.public_key().public_bytes_raw().hex() for key in KEYS]
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def day(number):
    return (DAY + timedelta(days=number)).isoformat()


def handing_over(number, revoked=False, until=None):
    """Key ``number`` hands over on that day; releases count for a day more."""
    until = day(number + 1 if until is None else until)
    words = Statement("demo", NAMES[number], NAMES[number + 1], day(number), until, revoked)
    return words.signed(KEYS[number], KEYS[number + 1])


CHAIN = tuple(handing_over(number) for number in range(3))


@pytest.mark.parametrize("root", range(4))
def test_one_key_leads_to_all(root):
    ring = Keyring(NAMES[root]).extended(CHAIN)
    assert ring.present == NAMES[3]
    for key, name in zip(KEYS, NAMES, strict=True):
        assert ring.signer(b"text", key.sign(b"text")) == name
    with pytest.raises(InterplantError, match="not signed by this federation"):
        ring.signer(b"text", signing.make_key().sign(b"text"))


def test_before_the_first_statement_one_key_counts():
    ring = keyring.of(KEYS[0].public_key())
    assert ring.present == NAMES[0]
    assert ring.signer(b"text", KEYS[0].sign(b"text")) == NAMES[0]
    ring.check_counts(NAMES[0], day(99))
    with pytest.raises(InterplantError, match="not signed by this federation"):
        ring.signer(b"text", KEYS[1].sign(b"text"))


def test_an_old_key_counts_for_what_was_made_before_its_day():
    ring = Keyring(NAMES[0]).extended(CHAIN)
    ring.check_counts(NAMES[0], day(0))
    ring.check_counts(NAMES[0], day(1))
    with pytest.raises(RevokedKeyError, match="under a key that signed until 2026-01-02"):
        ring.check_counts(NAMES[0], (DAY + timedelta(days=1, seconds=1)).isoformat())
    ring.check_counts(NAMES[3], day(99))


def test_a_revoked_key_counts_for_nothing():
    ring = Keyring(NAMES[1]).extended((handing_over(0, revoked=True), CHAIN[1]))
    with pytest.raises(RevokedKeyError, match="revoked on 2026-01-01"):
        ring.check_counts(NAMES[0], day(-5))
    ring.check_counts(NAMES[1], day(1))


def test_who_knows_more_or_as_much_learns_nothing():
    ring = Keyring(NAMES[0]).extended(CHAIN)
    assert ring.extended(CHAIN[:2]) is ring
    assert ring.extended(()) is ring
    assert Keyring(NAMES[0]).extended(CHAIN[:1]).extended(CHAIN) == ring


def test_a_stolen_key_does_not_hand_over_again():
    thief = signing.make_key()
    name = thief.public_key().public_bytes_raw().hex()
    theirs = Statement("demo", NAMES[0], name, day(5), day(6), False).signed(KEYS[0], thief)
    ring = Keyring(NAMES[0]).extended(CHAIN)
    for statements in ((theirs,), (CHAIN[0], theirs), (theirs, *CHAIN, CHAIN[0])):
        with pytest.raises(InterplantError, match=r"contradict|follow one another"):
            ring.extended(statements)
    with pytest.raises(InterplantError, match="follow one another"):
        Keyring(NAMES[0]).extended((CHAIN[0], theirs))


def test_statements_that_do_not_name_the_trusted_key_are_refused():
    with pytest.raises(InterplantError, match="do not name the key that is trusted"):
        Keyring(NAMES[0]).extended(CHAIN[1:])


@pytest.mark.parametrize(
    "change",
    [
        {"new": NAMES[3]},
        {"old": NAMES[3]},
        {"until": day(99)},
        {"revoked": True},
        {"created": day(9)},
        {"federation": "other"},
        {"by_old": "00" * 64},
        {"by_new": CHAIN[0].by_old},
        {"by_new": ""},
        {"old": "nonsense"},
    ],
)
def test_a_changed_statement_is_refused(change):
    changed = replace(CHAIN[0], **change)
    with pytest.raises(InterplantError, match="not signed by both its keys"):
        changed.check()
    with pytest.raises(InterplantError):
        Keyring(NAMES[0]).extended((changed,))


def test_one_of_the_two_keys_alone_cannot_hand_over():
    words = Statement("demo", NAMES[0], NAMES[1], day(0), day(1), False)
    for old, new in ((KEYS[0], KEYS[0]), (KEYS[1], KEYS[1])):
        with pytest.raises(InterplantError, match="not signed by both"):
            words.signed(old, new).check()


def test_statements_lie_beside_the_key(tmp_path):
    (tmp_path / "release.pub").write_bytes(signing.public_pem(KEYS[0].public_key()))
    assert keyring.read(tmp_path / "release.pub") == Keyring(NAMES[0])
    (tmp_path / "release-keys.json").write_text(keyring.to_json(CHAIN))
    assert keyring.read(tmp_path / "release.pub") == Keyring(NAMES[0], CHAIN)
    assert keyring.parse(keyring.to_json(CHAIN).encode()) == CHAIN


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "other", "statements": []}',
        b'{"format": "interplant-keys/1", "statements": [{"old": "x"}]}',
        b'{"format": "interplant-keys/1", "statements": 3}',
        keyring.to_json((CHAIN[0],)).replace('"revoked": false', '"revoked": 0').encode(),
    ],
)
def test_what_are_no_statements_is_one_sentence(text):
    with pytest.raises(InterplantError, match="expected statements on release keys"):
        keyring.parse(text)
