"""The champion as MLServer and Triton read it: whole at each moment, and in step with the pointer."""

import ast
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interplant.client import champion, model_repository
from interplant.client.directory import PlantDirectory
from interplant.client.model_repository import InStep, keep_in_step
from interplant.core import export
from interplant.core.errors import InterplantError
from interplant.core.schema import Target
from interplant.core.targets import CLASS

from .federation import Federation
from .served import TASK, plant_with


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return plant_with(tmp_path, monkeypatch)


@pytest.fixture
def plant(federation: Federation) -> PlantDirectory:
    return federation.plant


def model_of(plant: PlantDirectory) -> Path:
    """The file that MLServer's settings name."""
    settings = json.loads((plant.models / "wear" / "model-settings.json").read_text())
    return plant.models / "wear" / str(settings["parameters"]["uri"])


def test_it_is_the_releases_own_file(plant: PlantDirectory) -> None:
    assert keep_in_step(plant) == plant.models / "wear"
    own = plant.releases / "r-1" / "model.onnx"
    assert model_of(plant).samefile(own)
    assert own.stat().st_nlink == 2
    x = np.zeros((1, 2, 4), np.float32)
    assert export.predict_onnx(model_of(plant), x) == export.predict_onnx(own, x)


def test_both_servers_find_what_they_look_for(plant: PlantDirectory) -> None:
    folder = keep_in_step(plant)
    assert folder is not None
    settings = json.loads((folder / "model-settings.json").read_text())
    assert settings["name"] == "wear"
    assert settings["parameters"] == {"uri": "./1/model.onnx", "version": "r-1"}
    assert settings["inputs"] == [{"name": "windows", "datatype": "FP32", "shape": [-1, 2, 4]}]
    module, name = settings["implementation"].split(".")
    classes = [node.name for node in ast.parse((folder / f"{module}.py").read_text()).body
               if isinstance(node, ast.ClassDef)]  # fmt: skip
    assert classes == [name]
    triton = (folder / "config.pbtxt").read_text()
    for line in (
        'name: "wear"', 'platform: "onnxruntime_onnx"', "max_batch_size: 64", "dims: [ 2, 4 ]",
        "reshape: { shape: [ ] }", 'key: "release" value: { string_value: "r-1" }',
    ):  # fmt: skip
        assert line in triton
    assert triton.count("{") == triton.count("}")
    # Triton serves the folders that are numbers.
    assert [path.name for path in folder.iterdir() if re.fullmatch(r"[1-9]\d*", path.name)] == ["1"]


def test_classes_have_a_size_of_their_own() -> None:
    classes = replace(TASK, target=Target(kind=CLASS, classes=["a", "b", "c"]))
    assert "dims: [ 3 ]" in model_repository._triton(classes, "r-1", 8)
    assert "reshape" not in model_repository._triton(classes, "r-1", 8)


def test_a_new_champion_takes_the_place_in_one_step(plant: PlantDirectory, monkeypatch) -> None:
    keep_in_step(plant)
    seen = []
    replaced = os.replace

    def looked(source: object, target: object) -> None:
        seen.append(json.loads((plant.models / "wear" / "model-settings.json").read_text()))
        assert model_of(plant).is_file()
        replaced(source, target)  # type: ignore[arg-type]

    champion.activate(plant, "r-2")
    monkeypatch.setattr(os, "replace", looked)
    keep_in_step(plant)
    assert {one["parameters"]["version"] for one in seen} == {"r-1"}
    assert model_of(plant).samefile(plant.releases / "r-2" / "model.onnx")
    assert model_of(plant).parent.name == "2"


def test_a_kill_in_the_middle_leaves_the_old_one_and_the_next_look_mends_it(
    plant: PlantDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in_step(plant)
    champion.activate(plant, "r-2")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            keep_in_step(plant)
    assert model_of(plant).samefile(plant.releases / "r-1" / "model.onnx")
    keep_in_step(plant)
    assert model_of(plant).samefile(plant.releases / "r-2" / "model.onnx")


def test_going_back_is_a_new_version_and_old_ones_go(plant: PlantDirectory) -> None:
    for release in ("r-1", "r-2", "r-1", "r-2"):
        champion.activate(plant, release)
        keep_in_step(plant)
        assert model_of(plant).samefile(plant.releases / release / "model.onnx")
    versions = plant.path / "serving" / "versions" / "wear"
    assert sorted(path.name for path in versions.iterdir()) == ["3", "4"]
    assert [path.name for path in plant.models.iterdir()] == ["wear"]


def test_nothing_is_done_twice(plant: PlantDirectory) -> None:
    keep_in_step(plant)
    before = model_of(plant).parent.stat().st_mtime_ns
    keep_in_step(plant)
    assert model_of(plant).parent.stat().st_mtime_ns == before


def test_without_a_champion_there_is_none(plant: PlantDirectory) -> None:
    plant.champion.unlink()
    assert keep_in_step(plant) is None
    InStep(plant)()
    assert not plant.models.exists()


def test_the_supervisor_follows_the_pointer(plant: PlantDirectory, caplog: pytest.LogCaptureFixture) -> None:
    follow = InStep(plant)
    follow()
    assert model_of(plant).samefile(plant.releases / "r-1" / "model.onnx")
    good = plant.champion.read_text()
    plant.champion.write_text("{")
    with caplog.at_level(logging.WARNING):
        follow()
        follow()
    assert caplog.text.count("champion.json") == 1
    assert model_of(plant).samefile(plant.releases / "r-1" / "model.onnx")
    plant.champion.write_text(good.replace('"r-1"', '"r-2"'))
    follow()
    assert model_of(plant).samefile(plant.releases / "r-2" / "model.onnx")


def test_a_release_that_is_not_there_is_told(plant: PlantDirectory) -> None:
    plant.champion.write_text(plant.champion.read_text().replace('"r-1"', '"r-9"'))
    with pytest.raises(InterplantError, match=r"r-9/task\.json: expected a file of the champion"):
        keep_in_step(plant)


def test_what_stands_in_the_way_is_told_and_the_supervisor_goes_on(
    plant: PlantDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    place = plant.models / "wear"
    (place / "mine").mkdir(parents=True)
    follow = InStep(plant)
    with caplog.at_level(logging.WARNING):
        follow()
    assert "the model repository: " in caplog.text
    (place / "mine").rmdir()
    place.rmdir()
    follow()
    assert model_of(plant).samefile(plant.releases / "r-1" / "model.onnx")


def test_what_others_put_there_is_left_alone(plant: PlantDirectory) -> None:
    other = plant.models.with_name("versions") / "wear" / "1.bak"
    other.mkdir(parents=True)
    InStep(plant)()
    champion.activate(plant, "r-2")
    InStep(plant)()
    assert other.is_dir()
    assert model_of(plant).samefile(plant.releases / "r-2" / "model.onnx")


def test_a_folder_in_the_links_place_is_told_and_ends_nothing(
    plant: PlantDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (plant.models / "wear").mkdir(parents=True)
    step = InStep(plant)
    step()
    assert "expected Interplant's own link" in caplog.text
    (plant.models / "wear").rmdir()
    step()
    assert model_of(plant).samefile(plant.releases / "r-1" / "model.onnx")
