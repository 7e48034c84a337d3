import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.data import git as git_module
from interplant.data import snapshots, tables
from interplant.data.frames import Dataset
from interplant.data.git import git, tidy
from interplant.data.repository import Repository
from interplant.data.snapshots import keyed_digest, load


def dataset(seed: int, machines: int = 3) -> Dataset:
    rows = [(machine, cycle, machine * seed + cycle / 7) for machine in range(machines) for cycle in range(9)]
    frame = pd.DataFrame(rows, columns=["machine", "cycle", "s2"])
    return Dataset(frame, frame.assign(rul=3).head(5), simulated=seed % 2 == 0)


def same(one: Dataset, other: Dataset) -> bool:
    return (
        one.train.equals(other.train)
        and one.holdout.equals(other.holdout)
        and one.simulated == other.simulated
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "plant" / "data", tmp_path / "plant" / "remote")


def commits(repository: Repository) -> int:
    done = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=repository.path, capture_output=True, check=True
    )
    return int(done.stdout)


def wipe_cache(repository: Repository) -> None:
    shutil.rmtree(repository.path / ".dvc" / "cache")
    shutil.rmtree(repository.path / ".dvc" / "tmp", ignore_errors=True)


def test_a_snapshot_is_read_back_as_it_was(repository: Repository) -> None:
    made = repository.snapshot(dataset(1))
    assert (made.rows, made.machines, made.simulated) == (27, 3, False)
    assert same(load(made), dataset(1))
    assert same(load(repository.open()), dataset(1))
    assert repository.open(made.digest) == repository.open()


def test_a_snapshot_is_committed_tagged_and_pushed(repository: Repository) -> None:
    made = repository.snapshot(dataset(1), "First shift")

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=repository.path, capture_output=True, check=True, encoding="utf-8"
        ).stdout.strip()

    assert git("status", "--porcelain") == ""
    assert git("log", "-1", "--format=%s %H") == f"First shift {made.commit}"
    assert git("rev-list", "-1", f"snapshot-{made.digest[:12]}") == made.commit
    assert "readings" not in {Path(name).parts[0] for name in git("ls-files").splitlines()}
    pushed = [path for path in (repository.path.parent / "remote").rglob("*") if path.is_file()]
    assert len(pushed) == 4  # three files and DVC's list of them


def test_the_digest_names_the_readings_and_nothing_else(tmp_path: Path) -> None:
    one = Repository.create(tmp_path / "a", tmp_path / "ra").snapshot(dataset(1), "one")
    other = Repository.create(tmp_path / "b", tmp_path / "rb").snapshot(dataset(1), "other")
    assert one.digest == other.digest
    assert one.commit != other.commit
    reindexed = dataset(1).train.set_index(pd.Index(range(100, 127)))
    assert tables.encode(Dataset(reindexed, dataset(1).holdout, False)) == tables.encode(dataset(1))
    changed = dataset(1)
    changed.train.loc[0, "s2"] += 1e-12
    assert tables.encode(changed) != tables.encode(dataset(1))


def test_log_lists_versions_newest_first(repository: Repository) -> None:
    assert repository.log() == []
    made = [repository.snapshot(dataset(seed, machines=seed)) for seed in (1, 2, 3)]
    listed = repository.log()
    assert [one.digest for one in listed] == [one.digest for one in reversed(made)]
    assert [(one.machines, one.simulated) for one in listed] == [(3, False), (2, True), (1, False)]
    assert all(one.folder is None for one in listed)
    with pytest.raises(UsageError, match="open it before"):
        load(listed[0])


def test_unchanged_readings_make_no_new_snapshot(repository: Repository) -> None:
    made = repository.snapshot(dataset(1))
    before = commits(repository)
    assert repository.snapshot(dataset(1)) == made
    assert commits(repository) == before


def test_an_old_version_has_the_same_bytes(repository: Repository) -> None:
    old = repository.snapshot(dataset(1))
    assert old.folder is not None
    before = {path.name: path.read_bytes() for path in old.folder.iterdir()}
    repository.snapshot(dataset(2))
    opened = repository.open(old.digest[:8])
    assert opened.folder is not None
    assert opened.folder != repository.path / "readings"
    assert {path.name: path.read_bytes() for path in opened.folder.iterdir()} == before
    assert same(load(repository.open()), dataset(2))


def test_an_old_version_comes_from_the_remote_when_the_cache_is_gone(repository: Repository) -> None:
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    wipe_cache(repository)
    assert same(load(repository.open(old.digest)), dataset(1))


def test_lost_working_files_are_restored(repository: Repository) -> None:
    repository.snapshot(dataset(1))
    shutil.rmtree(repository.path / "readings")
    assert same(load(repository.open()), dataset(1))


def test_a_version_that_is_nowhere_is_one_sentence(repository: Repository) -> None:
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    wipe_cache(repository)
    shutil.rmtree(repository.path.parent / "remote")
    with pytest.raises(InterplantError, match="DVC could not store or fetch the data") as failure:
        repository.open(old.digest)
    assert "\n" not in str(failure.value)
    assert not list((repository.path / "versions").iterdir())


def test_readings_come_back_to_an_earlier_state(repository: Repository) -> None:
    first = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    again = repository.snapshot(dataset(1))
    assert again.digest == first.digest
    assert len(repository.log()) == 3
    assert repository.open(first.digest).digest == first.digest


@pytest.mark.parametrize("name", ["train.parquet", "holdout.parquet", "manifest.json", "added.txt"])
def test_a_tampered_working_file_is_refused(repository: Repository, name: str) -> None:
    repository.snapshot(dataset(1))
    with (repository.path / "readings" / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(InterplantError, match=f"{name} is not what snapshot") as failure:
        repository.open()
    assert "\n" not in str(failure.value)


def test_a_tampered_old_version_is_refused(repository: Repository) -> None:
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    opened = repository.open(old.digest)
    assert opened.folder is not None
    (opened.folder / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InterplantError, match=r"train\.parquet is not what"):
        repository.open(old.digest)
    with pytest.raises(InterplantError, match=r"train\.parquet is not what"):
        load(opened)


@pytest.mark.parametrize("places", [("cache",), ("cache", "remote")])
def test_a_tampered_cache_is_mended_from_the_remote_or_refused(
    repository: Repository, places: tuple[str, ...]
) -> None:
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    known = {"cache": repository.path / ".dvc" / "cache", "remote": repository.path.parent / "remote"}
    for path in (path for place in places for path in known[place].rglob("*")):
        if path.is_file() and path.read_bytes()[:4] == b"PAR1":
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b"x")
    if places == ("cache",):
        assert same(load(repository.open(old.digest)), dataset(1))
        return
    with pytest.raises(InterplantError):
        repository.open(old.digest)
    assert not list((repository.path / "versions").iterdir())


def test_a_new_snapshot_replaces_tampered_files(repository: Repository) -> None:
    made = repository.snapshot(dataset(1))
    (repository.path / "readings" / "train.parquet").write_bytes(b"x")
    before = commits(repository)
    assert repository.snapshot(dataset(1)) == made
    assert commits(repository) == before
    assert same(load(repository.open()), dataset(1))


STEPS = ("_begin", "_place", "_track", "_commit", "_tag")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_any_two_steps_is_recovered(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, step: str, first: bool
) -> None:
    class Killed(BaseException):
        pass

    if not first:
        repository.snapshot(dataset(1))
    original = getattr(Repository, step)

    def killed(*arguments: object, **more: object) -> None:
        original(*arguments, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Repository, step, killed)
        with pytest.raises(Killed):
            repository.snapshot(dataset(2))
    # What a killed git leaves behind.
    (repository.path / ".git" / "index.lock").touch()
    committed = step in ("_commit", "_tag")
    if not first or committed:
        assert same(load(repository.open()), dataset(2 if committed else 1))
    made = repository.snapshot(dataset(2))
    assert same(load(repository.open()), dataset(2))
    assert len(repository.log()) == (1 if first else 2)
    wipe_cache(repository)
    shutil.rmtree(repository.path / "readings")
    assert same(load(repository.open(made.digest)), dataset(2))


def test_half_a_dvc_pointer_is_recovered(repository: Repository) -> None:
    repository.snapshot(dataset(1))
    (repository.path / "readings.dvc").write_text("outs:\n- md5: 12")
    (repository.path / "incoming").mkdir()
    (repository.path / "incoming" / "train.parquet").write_text("half")
    repository.snapshot(dataset(2))
    assert same(load(repository.open()), dataset(2))


def test_only_one_snapshot_at_a_time(repository: Repository) -> None:
    with repository.locked(), pytest.raises(InterplantError, match="already running"):
        repository.snapshot(dataset(1))


def test_no_snapshot_yet_is_a_refusal_the_coordinator_may_know(repository: Repository) -> None:
    with pytest.raises(Refusal) as refusal:
        repository.open()
    assert refusal.value.code == "no_snapshot"


@pytest.mark.parametrize("digest", ["", "0" * 7, "f" * 64, "--help"])
def test_an_unknown_digest_is_one_sentence(repository: Repository, digest: str) -> None:
    repository.snapshot(dataset(1))
    with pytest.raises(UsageError, match="expected the digest of one snapshot"):
        repository.open(digest)


def test_there_must_be_a_repository(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a plant's data repository here, found none"):
        Repository(tmp_path)


def test_create_again_changes_nothing(repository: Repository) -> None:
    repository.snapshot(dataset(1))
    before = commits(repository)
    again = Repository.create(repository.path, repository.path.parent / "remote")
    assert commits(repository) == before
    assert same(load(again.open()), dataset(1))


def test_a_plants_folder_can_be_moved(repository: Repository, tmp_path: Path) -> None:
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    (tmp_path / "plant").rename(tmp_path / "moved")
    moved = Repository(tmp_path / "moved" / "data")
    wipe_cache(moved)
    assert same(load(moved.open(old.digest)), dataset(1))
    assert same(load(moved.snapshot(dataset(3))), dataset(3))


def test_it_works_whatever_the_users_git_is_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\nhooksPath = {hook.parent}\n[commit]\ngpgsign = true\n[tag]\ngpgsign = true\n"
        "[gpg]\nprogram = false\n[user]\nuseConfigOnly = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    repository = Repository.create(tmp_path / "data", tmp_path / "remote")
    shutil.copy(hook, repository.path / ".git" / "hooks" / "pre-commit")
    assert same(load(repository.snapshot(dataset(1))), dataset(1))
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    repository.snapshot(dataset(2))
    assert len(repository.log()) == 2


def test_git_packs_what_it_holds_once_it_is_much(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = repository.snapshot(dataset(1))
    objects = repository.path / ".git" / "objects"
    tidy(repository.path)
    assert not list((objects / "pack").glob("*.pack"))
    monkeypatch.setattr(git_module, "_LOOSE", 1)
    number = 0
    while not (objects / "17").is_dir():
        number += 1
        git(repository.path, "hash-object", "-w", "--stdin", text=str(number))
    tidy(repository.path)
    assert list((objects / "pack").glob("*.pack"))
    assert [one.digest for one in repository.log()] == [kept.digest]


def test_git_missing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InterplantError, match="git is not installed"):
        Repository.create(tmp_path / "data", tmp_path / "remote")


def test_a_table_without_machines_is_refused_before_anything_changes(repository: Repository) -> None:
    broken = Dataset(dataset(1).train.drop(columns="machine"), dataset(1).holdout, simulated=False)
    with pytest.raises(UsageError, match="no column 'machine'"):
        repository.snapshot(broken)
    assert not (repository.path / "readings").exists()


def test_a_record_edited_by_hand_is_one_sentence(repository: Repository) -> None:
    repository.snapshot(dataset(1))
    record = repository.path / "snapshot.json"
    record.write_text(json.dumps({"digest": "x"}))
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x", "commit", "-qam", "by hand"],
        cwd=repository.path,
        check=True,
    )
    with pytest.raises(InterplantError, match="edited by hand"):
        repository.log()


def test_the_manifest_counts_readings_per_machine(repository: Repository) -> None:
    made = repository.snapshot(dataset(2))
    assert made.folder is not None
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["simulated"] is True
    assert manifest["train"] == {"rows": 27, "machines": {"0": 9, "1": 9, "2": 9}}
    assert manifest["holdout"]["machines"] == {"0": 5}


def test_reading_the_newest_snapshot_needs_no_dvc(repository: Repository) -> None:
    repository.snapshot(dataset(1))
    code = (
        "import sys; from pathlib import Path; from interplant.data import repository, snapshots\n"
        f"repository = repository.Repository(Path({str(repository.path)!r}))\n"
        "repository.log(); snapshots.load(repository.open())\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('dvc', 'torch')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_keyed_digest_hides_the_digest_and_can_be_opened() -> None:
    secret = bytes(range(32))
    keyed = keyed_digest("ab" * 32, secret)
    assert keyed == keyed_digest("ab" * 32, secret)
    assert len(keyed) == 64
    assert (
        len({keyed, keyed_digest("ab" * 32, secret[::-1]), keyed_digest("ac" * 32, secret), "ab" * 32}) == 4
    )
    with pytest.raises(UsageError, match="at least 16 bytes, found 3"):
        keyed_digest("ab" * 32, b"key")


def test_nothing_is_kept_outside_the_plants_folder(repository: Repository, tmp_path: Path) -> None:
    config = (repository.path / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert str(tmp_path) not in config
    old = repository.snapshot(dataset(1))
    repository.snapshot(dataset(2))
    repository.open(old.digest)
    assert (repository.path / ".dvc" / "tmp" / "site").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plant"]
    assert snapshots.READINGS == "readings"
