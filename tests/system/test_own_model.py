"""A plant with a model of its own, whose certificate ends between two runs."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from interplant.core import certificates, config, signing
from interplant.core.files import write_atomic
from interplant.core.release import read_release
from interplant.core.schema import Task
from interplant.lab.federation import LocalFederation, local_federation
from interplant.server.authority import Authority

from .conftest import add_plant, processes_of, willing

pytestmark = pytest.mark.system

EXAMPLE = Path(__file__).parents[2] / "examples" / "turbofan"
LIFETIME, LEFT = timedelta(hours=1), timedelta(seconds=20)


def short_lived(settings: Any) -> None:
    settings.certificates.plant_hours = LIFETIME / timedelta(hours=1)


def soon_over(federation: LocalFederation, name: str) -> certificates.Identity:
    """Give an idle plant a certificate that has `LEFT` to live; return what it says."""
    plant = federation.plant(name)
    caller = certificates.identity(plant.plant_certificate.read_bytes())
    request = certificates.make_csr(certificates.read_key(plant.plant_key))
    then = certificates.utc_now() - LIFETIME + LEFT
    old = Authority.open(federation.coordinator).renew(caller, request, now=then)
    write_atomic(plant.plant_certificate, old)
    return certificates.identity(old)


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

        first = soon_over(federation, "solo")
        time.sleep(max(0.0, first.not_after.timestamp() - time.time()) + 1)
        now = certificates.identity(plant.plant_certificate.read_bytes())
        assert now.serial != first.serial
        federation.until_online(["solo"])
        again = federation.start_run(task, release=False)
        assert federation.until_over(again.id).state == "finished"
    assert processes_of(tmp_path) == []
