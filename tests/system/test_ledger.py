"""A plant whose disk went back: the coordinator's copy of its receipt shows it, over the real wire."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from interplant.core.receipt import from_json
from interplant.core.schema import Rounds
from interplant.lab.federation import LocalFederation
from interplant.privacy.ledger import Ledger
from interplant.server.run_folder import RunFolder

from .conftest import turbofan

pytestmark = pytest.mark.system


def one_round(federation: LocalFederation) -> dict[str, Any]:
    """Run a private round that one plant is enough for; return its record."""
    task = turbofan("rounds=1", "training.steps=10", "training.batch=64")
    run = federation.start_run(task, release=False, rounds=Rounds(quorum=1, retries=0))
    assert federation.until_over(run.id).state == "finished"
    (record,) = RunFolder(federation.coordinator.runs / run.id).records()
    return record


def spent(federation: LocalFederation) -> float:
    return Ledger(federation.plant("north").ledger).spent(None, 1e-5).epsilon


def repair(federation: LocalFederation) -> list[dict[str, Any]]:
    words = ["privacy", "ledger", "--repair", "--json", "--dir", str(federation.plant("north").path)]
    command = [sys.executable, "-m", "interplant.cli.main", *words]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return list(found["repaired"])


def test_a_plant_restored_from_a_backup_is_refused_until_it_has_charged_the_gap(
    federation: LocalFederation,
) -> None:
    assert one_round(federation)["participants"] == ["north", "south"]
    plant = federation.plant("north").path
    backup = plant.with_name("north-backup")

    federation.stop("north")
    shutil.copytree(plant, backup, symlinks=True)
    federation.start_plant("north")
    federation.until_online(["north"])
    assert one_round(federation)["participants"] == ["north", "south"]
    before = spent(federation)

    federation.stop("north")
    shutil.rmtree(plant)
    backup.rename(plant)
    assert spent(federation) < before
    federation.start_plant("north")
    federation.until_online(["north"])
    for _ in range(2):
        record = one_round(federation)
        assert record["participants"] == ["south"]
        assert record["dropped"]["north"]["code"] == "ledger_behind"

    (repaired,) = repair(federation)
    kept = RunFolder(federation.coordinator.runs / "any").receipts()
    assert from_json(kept["north"]).head == repaired["head"]
    assert spent(federation) == pytest.approx(before), "the gap, no more and no less"
    assert repair(federation) == []
    assert one_round(federation)["participants"] == ["north", "south"]
    assert spent(federation) > before
    Ledger(federation.plant("north").ledger).verify()
