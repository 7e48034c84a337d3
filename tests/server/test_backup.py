"""A coordinator is copied while it works, and made anew from the copy, whichever database it has."""

import io
import json
import shutil
import stat
import tarfile
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from sqlalchemy import create_engine, text

from interplant.core import signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.files import sha256_file, write_atomic
from interplant.server import backup, release_keys
from interplant.server.backup import back_up, restore
from interplant.server.database import writing
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Issued
from interplant.server.registry import Registry
from interplant.server.release_keys import rotate


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request, coordinator, change):
    """A coordinator with a plant, a run and a release."""
    if request.param == "postgresql":
        change("database", request.getfixturevalue("postgres_url"))
    fill(coordinator)
    return coordinator


@pytest.fixture
def plain(coordinator):
    """The same in SQLite."""
    fill(coordinator)
    return coordinator


def fill(coordinator):
    with closing(Registry.open(coordinator)) as registry:
        soon = datetime.now(UTC) + timedelta(hours=1)
        registry.enrol("north", Issued("aa", soon, "certificate", "key"))
        run = registry.create_run("wear", {"name": "wear", "columns": ["b", "a"]}, 5, run_id="r")
        registry.update_run(run.id, state="running", round=2)
        registry.create_release("wear-r", "r", "wear", "ab" * 32)
        registry.record_deployment("wear-r", "north", "received")
    for name in ("runs/r/checkpoint.safetensors", "runs/.receipts.jsonl", "releases/wear-r/manifest.json"):
        write_atomic(coordinator.path / name, f"content of {name}")
    write_atomic(coordinator.path / "spool/blobs/x", "in flight")
    write_atomic(coordinator.path / "releases/.wear-s.7.part/model.onnx", "not whole yet")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("registry.")
    }


def clear(coordinator):
    """Lose the coordinator, its database too."""
    url = coordinator.load().database
    if not url.startswith("sqlite"):
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()
    shutil.rmtree(coordinator.path)


def said(registry):
    """Everything that a registry tells, but for the last event, which tells of the copy itself."""
    return (
        registry.plants(),
        registry.runs(),
        registry.tasks(),
        registry.releases(),
        registry.deployment_history(),
        registry.is_allowed("north", "aa"),
        registry.events(limit=100)[1:],
    )


@pytest.mark.parametrize("name", ["copy.tar", "copy"])
def test_what_was_lost_comes_back(filled, tmp_path, name):
    made = back_up(filled, tmp_path / name)
    assert (made.federation, made.missing) == ("demo", ())
    before = contents(filled.path)
    with closing(Registry.open(filled)) as registry:
        told = said(registry)
    clear(filled)
    restore(tmp_path / name, filled.path)
    after = contents(filled.path)
    left = {"rotate.lock", "spool/blobs/x", "releases/.wear-s.7.part/model.onnx"}
    assert after == {name: content for name, content in before.items() if name not in left}
    assert after["keys/ca.key"][1] == after["keys/release.key"][1] == 0o600
    assert stat.S_IMODE(filled.keys.stat().st_mode) == 0o700
    with closing(Registry.open(filled)) as registry:
        assert said(registry) == told
        assert registry.events()[0].kind == "federation.restored"
        registry.add_event("later", "demo")  # it counts on after the last event
        with pytest.raises(InterplantError, match="never changed"):
            rewrite(registry)


def rewrite(registry):
    with writing(registry.engine) as session:
        session.execute(text("UPDATE events SET text = 'x'"))


def test_only_its_owner_can_open_a_backup(plain, tmp_path):
    back_up(plain, tmp_path / "copy.tar")
    back_up(plain, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy.tar").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "copy" / "keys" / "ca.key").stat().st_mode) == 0o600


def test_every_file_has_its_digest(plain, tmp_path):
    made = back_up(plain, tmp_path / "copy")
    content = json.loads((tmp_path / "copy" / "backup.json").read_text())
    assert content["format"] == "interplant-backup/1"
    found = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")}
    assert found - {"backup.json"} == {entry.name for entry in made.files}
    for entry in made.files:
        path = tmp_path / "copy" / entry.name
        assert (entry.sha256, entry.size) == (sha256_file(path), path.stat().st_size)


def test_it_is_consistent_while_others_write(filled, tmp_path):
    """Runs and their folders are made and go on without a pause; each backup is a state that there was."""
    stop, more = threading.Event(), threading.Semaphore(0)

    def work():
        number = 0
        with closing(Registry.open(filled)) as registry:
            while not stop.is_set():
                number += 1
                write_atomic(filled.runs / f"run-{number}" / "checkpoint.safetensors", "0")
                registry.create_run("wear", {"number": number}, 9, run_id=f"run-{number}")
                for round in (1, 2):
                    write_atomic(filled.runs / f"run-{number}" / "checkpoint.safetensors", str(round))
                    registry.update_run(f"run-{number}", state="running", round=round)
                more.release()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(3):
            assert more.acquire(timeout=60)  # whichever of the two is slow, there is a run more in each
            back_up(filled, tmp_path / f"copy-{number}.tar")
    finally:
        stop.set()
        worker.join()
    clear(filled)
    place = filled.path
    restore(tmp_path / "copy-2.tar", place)
    with closing(Registry.open(filled)) as registry:
        runs = [run for run in registry.runs() if run.id.startswith("run-")]
    assert len(runs) > 2
    for run in runs:
        assert int((filled.runs / run.id / "checkpoint.safetensors").read_text()) >= run.round


def test_a_missing_release_is_named_and_the_rest_is_copied(plain, tmp_path):
    shutil.rmtree(plain.releases / "wear-r")
    assert back_up(plain, tmp_path / "copy.tar").missing == ("wear-r",)


@pytest.mark.parametrize("name", ["copy.tar", "copy"])
def test_a_place_that_is_taken_stays_as_it_is(plain, tmp_path, name):
    back_up(plain, tmp_path / name)
    before = sha256_file(tmp_path / "copy.tar") if name == "copy.tar" else contents(tmp_path / name)
    with pytest.raises(UsageError, match="choose another"):
        back_up(plain, tmp_path / name)
    after = sha256_file(tmp_path / "copy.tar") if name == "copy.tar" else contents(tmp_path / name)
    assert before == after
    with pytest.raises(UsageError, match="not empty"):
        restore(tmp_path / name, plain.path)


def test_a_full_disk_leaves_no_part_of_a_backup(plain, tmp_path, full_disk):
    (plain.runs / "r" / "big").write_bytes(bytes(3 << 20))
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in ("copy.tar", "copy"):
        with full_disk(1 << 20), pytest.raises(InterplantError, match="disk is full"):
            back_up(plain, tmp_path / name)
        assert sorted(path.name for path in tmp_path.iterdir()) == before


# --- damaged and wrong -----------------------------------------------------------------------------


@pytest.fixture
def copied(plain, tmp_path):
    """A backup as a folder; its coordinator is gone."""
    back_up(plain, tmp_path / "copy")
    shutil.rmtree(plain.path)
    return tmp_path / "copy"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["registry.db", "keys/ca.key", "runs/r/checkpoint.safetensors"])
def test_a_changed_file_is_noticed_before_anything_is_written(copied, tmp_path, name):
    flip(copied / name)
    with pytest.raises(UsageError, match=f"{name}: was changed since the backup"):
        restore(copied, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_file_and_one_too_many_are_noticed(copied, tmp_path):
    (copied / "keys" / "more.key").write_text("planted")
    with pytest.raises(UsageError, match=r"keys/more.key: is not named"):
        restore(copied, tmp_path / "new")
    (copied / "keys" / "more.key").unlink()
    (copied / "keys" / "ca.key").unlink()
    with pytest.raises(UsageError, match=r"keys/ca.key: is missing"):
        restore(copied, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "spool/x", "runs/../../outside", ""])
def test_a_name_that_leads_elsewhere_is_refused(copied, tmp_path, name):
    content = json.loads((copied / "backup.json").read_text())
    content["files"][0]["name"] = name
    (copied / "backup.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="cannot be a file of a coordinator"):
        restore(copied, tmp_path / "new")


def test_a_link_in_a_tar_is_not_followed(plain, tmp_path):
    back_up(plain, tmp_path / "copy.tar")
    with tarfile.open(tmp_path / "copy.tar") as old, tarfile.open(tmp_path / "bad.tar", "w") as new:
        for member in old:
            if member.name == "federation.yaml":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            new.addfile(member, old.extractfile(member) if member.isreg() else io.BytesIO())
    with pytest.raises(UsageError, match=r"federation.yaml: is missing or no plain file"):
        restore(tmp_path / "bad.tar", tmp_path / "new")


def test_half_a_tar_is_refused(plain, tmp_path):
    back_up(plain, tmp_path / "copy.tar")
    content = (tmp_path / "copy.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="use another backup"):
        restore(tmp_path / "half.tar", tmp_path / "new")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(UsageError, match="use another backup"):
        restore(tmp_path / "empty.tar", tmp_path / "new")
    with pytest.raises(UsageError, match="found none"):
        restore(tmp_path / "nowhere.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_keys_in_a_backup_are_those_of_one_moment(plain, tmp_path, monkeypatch):
    """A rotation that begins once the private key is copied waits for the others."""
    genuine, turning = backup._copy, []

    def copy(place, path, name):
        made = genuine(place, path, name)
        if name == "keys/release.key":
            turning.append(threading.Thread(target=rotate, args=(plain, 30, False, "ann")))
            turning[-1].start()
            turning[-1].join(1.0)
        return made

    monkeypatch.setattr(backup, "_copy", copy)
    back_up(plain, tmp_path / "copy")
    for thread in turning:
        thread.join()
    restore(tmp_path / "copy", tmp_path / "new")
    place = CoordinatorDirectory(tmp_path / "new")
    private = signing.read_private(place.release_key).public_key()
    assert private == signing.read_public(place.release_public_key)
    assert private != signing.read_public(plain.release_public_key)


def test_keys_that_are_no_pair_are_not_restored(plain, tmp_path):
    plain.release_public_key.write_bytes(signing.public_pem(signing.make_key().public_key()))
    with pytest.raises(InterplantError, match=r"expected the public half of release\.key"):
        release_keys.check(plain)


def test_what_is_no_backup_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"backup.json: is missing"):
        restore(tmp_path / "folder", tmp_path / "new")
    (tmp_path / "folder" / "backup.json").write_text('{"format": "other"}')
    with pytest.raises(UsageError, match="expected that of a backup"):
        restore(tmp_path / "folder", tmp_path / "new")


def test_a_restore_that_fails_leaves_nothing(copied, tmp_path, monkeypatch):
    def fail(*_):
        raise InterplantError("the plug was pulled")

    monkeypatch.setattr(backup.registry_copy, "put_back", fail)
    with pytest.raises(InterplantError, match="plug"):
        restore(copied, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_rows_go_only_into_a_database_without_a_registry(coordinator, change, postgres_url, tmp_path):
    change("database", postgres_url)
    fill(coordinator)
    back_up(coordinator, tmp_path / "copy.tar")
    with pytest.raises(UsageError, match="name an empty database"):
        restore(tmp_path / "copy.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with closing(Registry.open(coordinator)) as registry:
        assert registry.plant("north").is_enrolled


def test_rows_of_another_version_are_refused(coordinator, change, postgres_url, tmp_path):
    change("database", postgres_url)
    fill(coordinator)
    back_up(coordinator, tmp_path / "copy")
    clear(coordinator)
    rows = tmp_path / "copy" / "registry.jsonl"
    rows.write_text(rows.read_text().replace('{"version": 2}', '{"version": 1}'))
    content = json.loads((tmp_path / "copy" / "backup.json").read_text())
    for entry in content["files"]:
        if entry["name"] == "registry.jsonl":
            entry["sha256"] = sha256_file(rows)
    (tmp_path / "copy" / "backup.json").write_text(json.dumps(content))
    with pytest.raises(InterplantError, match="is of version 1, this Interplant's of 2"):
        restore(tmp_path / "copy", tmp_path / "new")


def test_a_registry_elsewhere_goes_back_elsewhere(coordinator, change, tmp_path):
    (coordinator.path / "registry.db").rename(tmp_path / "registry.db")
    change("database", f"sqlite:///{tmp_path}/registry.db")
    fill(coordinator)
    back_up(coordinator, tmp_path / "copy.tar")
    shutil.rmtree(coordinator.path)
    with pytest.raises(UsageError, match="there is a registry here already"):
        restore(tmp_path / "copy.tar", coordinator.path)
    (tmp_path / "registry.db").unlink()
    restore(tmp_path / "copy.tar", coordinator.path)
    assert yaml.safe_load(CoordinatorDirectory(coordinator.path).config.read_text())["name"] == "demo"
    with closing(Registry.open(coordinator)) as registry:
        assert registry.plant("north").is_enrolled
