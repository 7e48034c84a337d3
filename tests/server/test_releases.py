"""From a finished run to an offer; `test_packaging` looks inside the package itself."""

import json
import re
import shutil
from contextlib import closing
from unittest.mock import patch

import numpy as np
import pytest

from interplant.core.contract import Column, Contract
from interplant.core.errors import InterplantError
from interplant.core.files import sha256_file
from interplant.core.release import check_id, parse_lineage, task_digest
from interplant.core.schema import Rounds, Task
from interplant.server import releases
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry
from interplant.server.releases import offer_of, release_run
from interplant.server.run_folder import Checkpoint, RunFolder, make_order

from .conftest import receipt_of

PLANTS = {
    name: receipt_of(name, mechanism=mechanism, simulated=simulated)
    | {"rounds": 2, "snapshots": {"cd" * 32: 1, "ab" * 32: 1}}
    for name, mechanism, simulated in (("south", "dp-sgd", False), ("north", "dp-sgd", True))
}


@pytest.fixture
def packaged(monkeypatch):
    """Packages without torch: the files a release has, with something in them."""
    orders = []

    def package(order, folder):
        orders.append(order)
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(order.weights.read_bytes())
        (folder / "manifest.json").write_text(json.dumps({"files": {"weights.safetensors": "x"}}))
        (folder / "manifest.sig").write_bytes(b"signature")

    monkeypatch.setattr(releases, "package_in_child", package)
    return orders


@pytest.fixture
def registry(coordinator):
    registry = Registry.open(coordinator)
    yield registry
    registry.close()


@pytest.fixture
def finished(coordinator, registry):
    def make(name="wear", plants=PLANTS):
        task = Task(name=name, rounds=2, contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}))
        run = registry.create_run(name, {}, 2, run_id="20250101-120000-abcd")
        folder = RunFolder(coordinator.runs / run.id)
        folder.create(make_order(run.id, task, Rounds(), "grpc", True))
        folder.save(Checkpoint(2, {"w": np.ones(3, np.float32)}, plants))
        return folder

    return make


def test_the_lineage_says_where_a_release_comes_from(coordinator, registry, finished, packaged):
    run = finished()
    made = release_run(coordinator, registry, run)
    (order,) = packaged
    lineage = order.lineage
    assert made.id == lineage.release
    assert re.fullmatch("wear-20250101-120000-abcd-[0-9a-f]{6}", made.id)
    assert (lineage.run, lineage.task, lineage.rounds) == ("20250101-120000-abcd", "wear", 2)
    assert (lineage.engine, lineage.private, lineage.simulated) == ("grpc", True, True)
    assert lineage.task_digest == task_digest(run.task())
    assert [(one.name, one.rounds, one.epsilon) for one in lineage.participants] == [
        ("north", 2, 0.5),
        ("south", 2, 0.5),
    ]
    assert [list(one.snapshots) for one in lineage.participants] == [["cd" * 32, "ab" * 32]] * 2
    assert parse_lineage(lineage.to_json()) == lineage
    assert order.weights == run.weights
    assert order.key == coordinator.release_key


def test_one_plant_without_privacy_marks_the_release(coordinator, registry, finished, packaged):
    open_plant = PLANTS["north"] | {"mechanism": "none", "epsilon": 0.0}
    release_run(coordinator, registry, finished(plants=PLANTS | {"north": open_plant}))
    assert packaged[0].lineage.private is False


def test_one_plant_whose_noise_repeats_marks_the_release(coordinator, registry, finished, packaged):
    tested = PLANTS["north"] | {"mechanism": "dp-sgd-test", "epsilon": 0.0}
    release_run(coordinator, registry, finished(plants=PLANTS | {"north": tested}))
    assert packaged[0].lineage.private is False


def test_real_data_alone_is_not_called_simulated(coordinator, registry, finished, packaged):
    release_run(coordinator, registry, finished(plants={"south": PLANTS["south"]}))
    assert packaged[0].lineage.simulated is False


def test_the_offer_names_every_file_by_its_digest(coordinator, registry, finished, packaged):
    made = release_run(coordinator, registry, finished())
    folder = coordinator.releases / made.id
    offer = offer_of(folder, made.task)
    assert (offer.id, offer.task) == (made.id, "wear")
    assert [file.name for file in offer.files] == ["weights.safetensors", "manifest.json", "manifest.sig"]
    for file in offer.files:
        path = folder / file.name
        assert (file.blob.sha256, file.blob.size) == (sha256_file(path), path.stat().st_size)
    assert registry.releases() == [made]
    assert made.manifest_sha256 == sha256_file(folder / "manifest.json")
    assert (made.run, made.state) == ("20250101-120000-abcd", "approved")


def test_a_release_waits_for_a_person_where_one_must(coordinator, change, registry, finished, packaged):
    change("approval", "person")
    run = finished()
    made = release_run(coordinator, registry, run)
    assert made.state == "candidate"
    assert registry.offered_releases() == []
    approved, serving = releases.approve(coordinator, made.id, "ann")
    assert (approved.state, serving) == ("approved", False)
    assert registry.events(made.id)[0].text == "by ann"
    assert release_run(coordinator, registry, run).state == "approved"


def test_a_rejected_release_stays_so(coordinator, change, registry, finished, packaged):
    change("approval", "person")
    run = finished()
    made = release_run(coordinator, registry, run)
    releases.reject(coordinator, made.id, "ann", "one plant's labels were wrong")
    assert release_run(coordinator, registry, run).state == "rejected"
    assert registry.events(made.id)[0].text == "by ann: one plant's labels were wrong"
    with pytest.raises(InterplantError, match="is rejected; expected candidate"):
        releases.approve(coordinator, made.id, "ann")


def test_done_again_it_changes_nothing(coordinator, registry, finished, packaged):
    run = finished()
    assert release_run(coordinator, registry, run) == release_run(coordinator, registry, run)
    assert len(packaged) == 1
    assert len(registry.releases()) == 1


def test_one_that_was_packaged_before_a_kill_keeps_its_name(coordinator, registry, finished, packaged):
    run = finished()
    with (
        patch.object(registry, "create_release", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        release_run(coordinator, registry, run)
    (left,) = coordinator.releases.iterdir()
    assert release_run(coordinator, registry, run).id == left.name
    assert len(packaged) == 1


def test_a_run_that_is_finished_again_after_a_restore_makes_another_release(
    tmp_path, coordinator, registry, finished, packaged
):
    run = finished()
    before = shutil.copytree(coordinator.path, tmp_path / "restored")
    made = release_run(coordinator, registry, run)
    restored = CoordinatorDirectory(before)
    with closing(Registry.open(restored)) as other:
        again = release_run(restored, other, RunFolder(restored.runs / run.path.name))
    assert again.run == made.run
    assert again.id != made.id


def test_packaging_that_fails_leaves_no_release(coordinator, registry, finished, monkeypatch):
    def fail(order, folder):
        raise InterplantError("the model cannot be exported")

    monkeypatch.setattr(releases, "package_in_child", fail)
    with pytest.raises(InterplantError, match="cannot be exported"):
        release_run(coordinator, registry, finished())
    assert registry.releases() == []
    assert list(coordinator.releases.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 63, "a" * 41 + "-" + "b" * 21, "w"])
def test_a_long_task_name_does_not_cost_the_release(coordinator, registry, finished, packaged, name):
    """Found after the last round, it would be too late."""
    offer = release_run(coordinator, registry, finished(name))
    assert check_id(offer.id) == offer.id
    assert offer.id[:-6].endswith("-20250101-120000-abcd-")
    assert offer.task == name
