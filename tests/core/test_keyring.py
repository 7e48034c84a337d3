"""Who trusts one key of a federation learns the others, and the earlier ones by a later one's word alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interplant.core import keyring, signing
from interplant.core.errors import InterplantError
from interplant.core.keyring import Keyring, RevokedKeyError, Statement, UnknownKeyError, digest

KEYS = [signing.make_key() for _ in range(4)]
NAMES = [key.public_key().public_bytes_raw().hex() for key in KEYS]
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def day(number):
    return (DAY + timedelta(days=number)).isoformat()


def handing_over(number, revoked=False, until=None, before=()):
    """Key ``number`` hands over on that day; releases count for a day more."""
    until = day(number + 1 if until is None else until)
    words = Statement("demo", NAMES[number], NAMES[number + 1], day(number), until, revoked, digest(before))
    return words.signed(KEYS[number], KEYS[number + 1])


CHAIN: tuple[Statement, ...] = ()
for step in range(3):
    CHAIN += (handing_over(step, before=CHAIN),)


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
    first = handing_over(0, revoked=True)
    ring = Keyring(NAMES[1]).extended((first, handing_over(1, before=(first,))))
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
    theirs = Statement("demo", NAMES[0], name, day(5), day(6), False, digest(())).signed(KEYS[0], thief)
    ring = Keyring(NAMES[0]).extended(CHAIN)
    for statements in ((theirs,), (CHAIN[0], theirs), (theirs, *CHAIN, CHAIN[0])):
        with pytest.raises(InterplantError, match=r"contradict|follow one another"):
            ring.extended(statements)
    with pytest.raises(InterplantError, match="follow one another"):
        Keyring(NAMES[0]).extended((CHAIN[0], theirs))


@pytest.mark.parametrize("before", ["theirs", "genuine"])
def test_a_revoked_key_leads_nobody_in_before_it(before):
    """A thief of the first key, which is revoked, puts a key of theirs before it."""
    thief = signing.make_key()
    name = thief.public_key().public_bytes_raw().hex()
    theirs = Statement("demo", name, NAMES[0], day(0), day(9999), False, digest(())).signed(thief, KEYS[0])
    genuine = handing_over(0, revoked=True)
    again = handing_over(0, revoked=True, before=(theirs,))
    forged = replace(again, by_new=genuine.by_new)  # the second key has not signed this
    for root in (Keyring(NAMES[1]), Keyring(NAMES[1]).extended((genuine,))):
        with pytest.raises(InterplantError):
            root.extended((theirs, genuine if before == "genuine" else forged))


def revoking(number, present, before):
    words = Statement("demo", NAMES[number], NAMES[present], day(8), day(8), True, digest(before))
    return words.signed(None, KEYS[present])


@pytest.mark.parametrize("root", range(4))
def test_the_present_key_revokes_an_earlier_one(root):
    ring = Keyring(NAMES[root]).extended((*CHAIN, revoking(1, 3, CHAIN)))
    assert ring.present == NAMES[3]
    with pytest.raises(RevokedKeyError, match="revoked on"):
        ring.check_counts(NAMES[1], day(0))
    ring.check_counts(NAMES[0], day(0))


@pytest.mark.parametrize(("key", "by"), [(3, 1), (0, 2), (3, 3)])
def test_nobody_else_revokes_a_key(key, by):
    with pytest.raises(InterplantError):
        Keyring(NAMES[0]).extended((*CHAIN, revoking(key, by, CHAIN)))
    forged = replace(revoking(0, 3, CHAIN), by_new=revoking(0, 2, CHAIN).by_new)
    with pytest.raises(InterplantError, match="not signed by its keys"):
        Keyring(NAMES[0]).extended((*CHAIN, forged))


def test_the_statements_of_a_former_root_count_for_nothing_beside_a_new_one(tmp_path, caplog):
    (tmp_path / "release.pub").write_bytes(signing.public_pem(KEYS[3].public_key()))
    (tmp_path / "release-keys.json").write_text(keyring.to_json(CHAIN[:1]))
    assert keyring.read(tmp_path / "release.pub") == Keyring(NAMES[3])
    assert "count for nothing" in caplog.text
    with pytest.raises(UnknownKeyError):
        Keyring(NAMES[3]).extended(CHAIN[:1])


def test_statements_that_do_not_name_the_trusted_key_are_refused():
    with pytest.raises(InterplantError, match="do not name the key that is trusted"):
        Keyring(NAMES[3]).extended(CHAIN[:2])


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
    with pytest.raises(InterplantError, match="not signed by its keys"):
        changed.check()
    with pytest.raises(InterplantError):
        Keyring(NAMES[0]).extended((changed,))


def test_one_of_the_two_keys_alone_cannot_hand_over():
    words = Statement("demo", NAMES[0], NAMES[1], day(0), day(1), False, digest(()))
    for old, new in ((KEYS[0], KEYS[0]), (KEYS[1], KEYS[1])):
        with pytest.raises(InterplantError, match="not signed by its keys"):
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
        b'{"format": "interplant-keys/2", "statements": [{"old": "x"}]}',
        b'{"format": "interplant-keys/2", "statements": 3}',
        keyring.to_json((CHAIN[0],)).replace('"revoked": false', '"revoked": 0').encode(),
    ],
)
def test_what_are_no_statements_is_one_sentence(text):
    with pytest.raises(InterplantError, match="expected statements on release keys"):
        keyring.parse(text)
