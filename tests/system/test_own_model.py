"""A plant with a model of its own, under certificates that end within seconds."""

import time
from pathlib import Path
from typing import Any

import pytest

from interplant.core import certificates, config, signing
from interplant.core.release import read_release
from interplant.core.schema import Task
from interplant.lab.federation import local_federation

from .conftest import add_plant, processes_of, willing

pytestmark = pytest.mark.system

EXAMPLE = Path(__file__).parents[2] / "examples" / "turbofan"
LIFETIME = 20.0


def short_lived(settings: Any) -> None:
    settings.certificates.plant_hours = LIFETIME / 3600


def with_own_model(plant: Any) -> None:
    willing(plant)
    plant.policy.models = ["my_model.ResidualRegressor"]


def test_an_installed_model_is_trained_and_released_while_certificates_renew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    task = config.load(EXAMPLE / "task.yaml", Task, ["rounds=2", "training.steps=10", "training.batch=64"])
    with local_federation(tmp_path) as federation:
        federation.create("own", short_lived)
        federation.start_coordinator()
        add_plant(federation, "solo", with_own_model)
        plant = federation.plant("solo")
        first = certificates.identity(plant.plant_certificate.read_bytes())
        federation.start_plant("solo")
        federation.until_online(["solo"])
        run = federation.until_over(federation.start_run(task).id)
        assert (run.state, run.reason) == ("finished", "")
        (release,) = federation.registry.releases()
        opened = read_release(
            federation.coordinator.releases / release.id,
            signing.read_public(federation.coordinator.release_public_key),
        )
        assert opened.task.model.name == "my_model.ResidualRegressor"
        federation.until(lambda: bool(federation.registry.deployments(release.id)), 60, "a verdict")

        time.sleep(max(0.0, first.not_after.timestamp() - time.time()) + 3)
        now = certificates.identity(plant.plant_certificate.read_bytes())
        assert now.serial != first.serial
        federation.until_online(["solo"])
        again = federation.start_run(task, release=False)
        assert federation.until_over(again.id).state == "finished"
    assert processes_of(tmp_path) == []
