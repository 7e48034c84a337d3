"""Where a plant's things lie, and its settings as they are now."""

import os
from functools import cached_property
from pathlib import Path

import pytest

from interplant.client.directory import PlantDirectory
from interplant.core.errors import UsageError

from .conftest import edit


def test_a_folder_that_is_no_plant_says_how_to_make_one(tmp_path: Path, bare: PlantDirectory) -> None:
    for made in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="plant join FILE"):
            PlantDirectory(made).load()
    bare.config.unlink()
    with pytest.raises(UsageError, match=r"plant\.yaml and keys"):
        bare.check()


def test_a_change_of_the_file_is_seen_and_a_change_of_the_object_is_not(bare: PlantDirectory) -> None:
    mine = bare.load()
    mine.policy.tasks.append("everything")
    mine.policy.privacy.epsilon = 1e6
    assert bare.load().policy.tasks == ["wear"]
    assert bare.load().policy.privacy.epsilon == 50.0
    edit(bare, lambda plant: setattr(plant.policy, "tasks", ["other"]))
    assert bare.load().policy.tasks == ["other"]


def test_a_file_put_in_its_place_is_seen_even_with_the_same_size_and_time(bare: PlantDirectory) -> None:
    bare.load()
    state = bare.config.stat()
    other = bare.config.with_name("other")
    other.write_text(bare.config.read_text().replace("wear", "tear"))
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    os.replace(other, bare.config)
    assert bare.load().policy.tasks == ["tear"]


def test_a_wrong_key_is_named_with_its_line_each_time(bare: PlantDirectory) -> None:
    bare.config.write_text(bare.config.read_text() + "polcy: {}\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"plant\.yaml:\d+: polcy"):
            bare.load()


def test_nothing_lies_outside_or_twice(bare: PlantDirectory) -> None:
    names = [name for name, member in vars(PlantDirectory).items() if isinstance(member, cached_property)]
    paths = [getattr(bare, name) for name in names if name != "tls_files"]
    assert len(set(paths)) == len(paths) > 15
    assert all(bare.path in path.parents for path in paths)
    secrets = (bare.plant_key, bare.snapshot_key, bare.plant_certificate, bare.release_public_key)
    assert all(path.parent == bare.keys for path in secrets)
    assert bare.tls_files.key == bare.plant_key
    assert bare.tls_files.certificate == bare.plant_certificate
    assert bare.tls_files.authority == bare.ca_certificate
