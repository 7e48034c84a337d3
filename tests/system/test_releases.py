"""Releases and the people at the coordinator: approved, signed by a new key, taken back."""

from pathlib import Path

import pytest

from interplant.core import keyring
from interplant.core.keyring import Keyring
from interplant.core.release import read_release
from interplant.core.schema import Federation
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server import control, releases
from interplant.server.release_keys import rotate

from .conftest import PLANTS, add_plant, processes_of, turbofan

pytestmark = pytest.mark.system

WORDS = ["rounds=1", "training.steps=5", "privacy.mechanism=none"]
"""A model that has learned next to nothing: gates refuse it, for what it is and not for who signed it."""


def asks_a_person(settings: Federation) -> None:
    """No plant is told of a release before a person approves it."""
    settings.approval = "person"


def trained(federation: LocalFederation) -> str:
    run = federation.until_over(federation.start_run(turbofan(*WORDS)).id)
    assert run.state == "finished", run.reason
    return federation.registry.releases()[0].id


def has(federation: LocalFederation, plant: str, release: str) -> bool:
    """Whether a plant has verified a release and put it in its place."""
    return (federation.plant(plant).releases / release).is_dir()


def test_from_a_candidate_to_a_rollback_over_a_change_of_keys(tmp_path: Path) -> None:
    with local_federation(tmp_path) as federation:
        federation.create("test", asks_a_person)
        federation.start_coordinator()
        for name in PLANTS:
            add_plant(federation, name)
            federation.start_plant(name)
        federation.until_online(PLANTS)

        first = trained(federation)
        assert federation.registry.release(first).state == "candidate"
        assert not any(has(federation, name, first) for name in PLANTS)
        releases.approve(federation.coordinator, first, "ann")
        federation.until(lambda: len(federation.registry.deployments(first)) == 2, 120, "two answers")
        assert all(has(federation, name, first) for name in PLANTS)
        assert federation.registry.release(first).state in ("rolling_out", "active")

        rotate(federation.coordinator, 30, False, "ann")
        assert control.reload(federation.coordinator)
        second = trained(federation)
        federation.stop("south")  # it is away, and learns of the key and the release when it returns
        releases.approve(federation.coordinator, second, "ann")
        federation.until(lambda: has(federation, "north", second), 120, "the second release at one plant")
        assert not has(federation, "south", second)
        federation.start_plant("south")
        federation.until(lambda: has(federation, "south", second), 120, "the second release at the other")
        for name in PLANTS:
            plant = federation.plant(name)
            ring = keyring.read(plant.release_public_key)
            assert (len(ring.statements), ring.present != ring.root) == (1, True)
            assert read_release(plant.releases / second, Keyring(ring.root)).id == second

        releases.roll_back(federation.coordinator, second, None, "ann", "it alarms at night")
        states = {one.id: one.state for one in federation.registry.releases()}
        assert states[second] == "rolled_back"
        assert states[first] in ("rolling_out", "active")
    assert processes_of(tmp_path) == []
