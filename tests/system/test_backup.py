"""A backup that is taken in the middle of a run makes a coordinator to which plants return."""

import shutil
from pathlib import Path

import pytest

from interplant.core.schema import Federation
from interplant.lab.federation import local_federation
from interplant.server.backup import back_up, restore

from .conftest import PLANTS, add_plant, processes_of, turbofan

pytestmark = pytest.mark.system


def quorum_of_two(settings: Federation) -> None:
    """Rounds wait for both plants."""
    settings.rounds.quorum = 2


def test_a_run_goes_on_after_its_coordinator_was_lost(tmp_path: Path) -> None:
    with local_federation(tmp_path / "federation") as federation:
        federation.create("test", quorum_of_two)
        federation.start_coordinator()
        for name in PLANTS:
            add_plant(federation, name)
            federation.start_plant(name)
        federation.until_online(PLANTS)
        run = federation.start_run(turbofan("rounds=6", "training.steps=20")).id
        federation.until(lambda: federation.registry.run(run).round >= 2, 120, "two rounds")
        made = back_up(federation.coordinator, tmp_path / "backup.tar")
        assert made.missing == ()

        federation.stop("coordinator", kill=True)
        shutil.rmtree(federation.coordinator.path)
        restore(tmp_path / "backup.tar", federation.coordinator.path)
        found = federation.registry.run(run)
        assert (found.state, found.round >= 2) == ("running", True)

        federation.start_coordinator()
        federation.until_online(PLANTS)
        ended = federation.until_over(run)
        assert (ended.state, ended.round) == ("finished", 6)
        rounds = [one.round for one in federation.registry.rounds(run) if len(one.participants) == 2]
        assert sorted(set(rounds)) == [1, 2, 3, 4, 5, 6]
        (release,) = federation.registry.releases()
        federation.until(lambda: len(federation.registry.deployments(release.id)) == 2, 60, "two verdicts")
        kinds = [event.kind for event in federation.registry.events("test")]
        assert "federation.restored" in kinds
    assert processes_of(tmp_path) == []
