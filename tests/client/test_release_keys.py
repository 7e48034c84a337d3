"""A plant learns the federation's keys from statements, and keeps to what it has learned."""

import pytest

from interplant.client import release_keys
from interplant.client.directory import PlantDirectory
from interplant.core import keyring, signing
from interplant.core.errors import InterplantError
from interplant.core.keyring import Statement

FIRST, SECOND, THIRD = (signing.make_key() for _ in range(3))


def hands_over(old, new, *before):
    names = [key.public_key().public_bytes_raw().hex() for key in (old, new)]
    days = ("2026-01-01T00:00:00+00:00", "2026-01-31T00:00:00+00:00")
    return Statement("demo", *names, *days, False, keyring.digest(before)).signed(old, new)


def text(*statements):
    return keyring.to_json(statements).encode()


@pytest.fixture
def plant(tmp_path):
    made = PlantDirectory(tmp_path)
    made.keys.mkdir()
    made.release_public_key.write_bytes(signing.public_pem(FIRST.public_key()))
    return made


def test_it_learns_what_its_key_leads_to(plant):
    one = hands_over(FIRST, SECOND)
    two = hands_over(SECOND, THIRD, one)
    assert release_keys.learn(plant, text(one)) == 1
    assert release_keys.learn(plant, text(one, two)) == 1
    assert release_keys.learn(plant, text(one, two)) == release_keys.learn(plant, text(one)) == 0
    ring = keyring.read(plant.release_public_key)
    assert ring.present == THIRD.public_key().public_bytes_raw().hex()
    assert ring.statements == (one, two)


def test_a_plant_that_joins_again_learns_what_leads_from_its_new_key(plant):
    one = hands_over(FIRST, SECOND)
    two = hands_over(SECOND, THIRD, one)
    release_keys.learn(plant, text(one))
    plant.release_public_key.write_bytes(signing.public_pem(THIRD.public_key()))
    assert release_keys.learn(plant, text(one, two)) == 2
    assert keyring.read(plant.release_public_key).statements == (one, two)


@pytest.mark.parametrize("wrong", ["stranger", "fork", "nonsense"])
def test_what_does_not_go_on_from_it_changes_nothing(plant, wrong):
    release_keys.learn(plant, text(hands_over(FIRST, SECOND)))
    before = keyring.read(plant.release_public_key)
    words = {
        "stranger": text(hands_over(THIRD, signing.make_key())),
        "fork": text(hands_over(FIRST, THIRD), hands_over(THIRD, SECOND, hands_over(FIRST, THIRD))),
        "nonsense": b"nonsense",
    }
    with pytest.raises(InterplantError):
        release_keys.learn(plant, words[wrong])
    assert keyring.read(plant.release_public_key) == before
