import errno
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from interplant.core import certificates, config, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Federation
from interplant.server import setup
from interplant.server.directory import CoordinatorDirectory
from interplant.server.registry import Registry

WHERE = ("demo", "127.0.0.1:7443", "ml.example.com:7443")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def directory(tmp_path):
    setup.init(tmp_path / "c", *WHERE)
    return CoordinatorDirectory(tmp_path / "c")


def test_federation_is_complete_and_nothing_lies_beside_it(directory):
    assert names(directory.path.parent) == ["c"]
    assert names(directory.path) == ["federation.yaml", "keys", "registry.db", "releases", "runs", "spool"]
    assert names(directory.keys) == [
        "ca.crt", "ca.key", "release.key", "release.pub", "server.crt", "server.key",
    ]  # fmt: skip


def test_settings_are_the_defaults_and_explain_every_group(directory):
    expected = Federation(name="demo", listen="127.0.0.1:7443", address="ml.example.com:7443")
    assert config.load(directory.config, Federation) == expected
    assert directory.load() == expected
    lines = directory.config.read_text().splitlines()
    groups = [number for number, line in enumerate(lines) if line and line[0].isalpha()]
    assert all(lines[number - 1].startswith("# ") for number in groups)


def test_keys_are_the_owners_alone(directory):
    assert stat.S_IMODE(directory.keys.stat().st_mode) == 0o700
    for path in (directory.ca_key, directory.server_key, directory.release_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_and_certificates_belong_together(directory):
    pem = directory.server_certificate.read_bytes()
    issuer = certificates.load_authority(directory.ca_certificate, directory.ca_key)
    certificates.check_pair(issuer.pem, issuer.key)
    certificates.check_issued(pem, issuer.pem)
    certificates.check_pair(pem, certificates.read_key(directory.server_key))
    found = certificates.identity(pem)
    assert (found.role, found.name) == ("server", "demo")
    assert certificates.covers(pem, ["localhost", "127.0.0.1", "ml.example.com"])
    public = signing.read_public(directory.release_public_key)
    assert signing.read_private(directory.release_key).public_key() == public


def test_registry_is_empty_but_for_its_beginning(directory):
    registry = Registry.open(directory)
    assert registry.plants() == []
    assert [event.kind for event in registry.events()] == ["federation.created"]
    registry.close()


def test_two_federations_share_no_key(directory, tmp_path):
    setup.init(tmp_path / "d", *WHERE)
    other = CoordinatorDirectory(tmp_path / "d")
    for name in names(directory.keys):
        assert (directory.keys / name).read_bytes() != (other.keys / name).read_bytes()


def test_federation_is_not_made_twice(directory):
    before = {path: path.read_bytes() for path in directory.keys.iterdir()}
    with pytest.raises(UsageError, match="there is a federation here already"):
        setup.init(directory.path, *WHERE)
    assert {path: path.read_bytes() for path in directory.keys.iterdir()} == before


def test_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        setup.init(tmp_path / "c", *WHERE)
    assert names(tmp_path) == ["c"]
    assert names(tmp_path / "c") == ["mine"]


def test_empty_folder_relative_path_and_missing_parents_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    setup.init(Path("c"), *WHERE)
    setup.init(Path("x/y/c"), *WHERE)
    assert CoordinatorDirectory(tmp_path / "c").load() == CoordinatorDirectory(tmp_path / "x/y/c").load()


@pytest.mark.parametrize(
    ("name", "listen", "address", "key"),
    [
        ("my federation", "127.0.0.1:1", "127.0.0.1:1", "name"),
        ("-demo", "127.0.0.1:1", "127.0.0.1:1", "name"),
        ("demo", "7443", "127.0.0.1:1", "listen"),
        ("demo", "127.0.0.1:1", "ml.example.com", "address"),
        ("demo", "127.0.0.1:1", "ml.example.com:99999", "address"),
        ("demo", "127.0.0.1:1", "ml example:1", "host name"),
    ],
)
def test_impossible_words_make_nothing(tmp_path, name, listen, address, key):
    with pytest.raises(InterplantError, match=key):
        setup.init(tmp_path / "c", name, listen, address)
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["make_authority", "make_key", "write_key"])
def test_failure_half_way_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, step, fail)
    with pytest.raises(KeyboardInterrupt):
        setup.init(tmp_path / "c", *WHERE)
    assert names(tmp_path) == []


def test_failure_at_the_very_end_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise sqlite3.OperationalError

    monkeypatch.setattr(Registry, "add_event", fail)
    with pytest.raises(sqlite3.OperationalError):
        setup.init(tmp_path / "c", *WHERE)
    assert names(tmp_path) == []


def test_killed_half_way_there_is_no_federation_and_init_works_again(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "from interplant.server import setup\n"
        "setup.Registry.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "setup.init(pathlib.Path(sys.argv[1]), *sys.argv[2:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "c", *WHERE], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    setup.init(tmp_path / "c", *WHERE)
    assert names(tmp_path) == ["c"]
    Registry.open(tmp_path / "c").close()


def test_place_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "chmod", denied)
    with pytest.raises(InterplantError, match="cannot be written"):
        setup.init(tmp_path / "c", *WHERE)


def test_directory_that_is_none_is_named(tmp_path):
    with pytest.raises(UsageError, match="expected a coordinator directory"):
        Registry.open(tmp_path)


def test_wrong_key_in_the_settings_is_named_with_its_line(directory):
    directory.config.write_text("name: demo\nlisten_on: x\n")
    with pytest.raises(UsageError, match=r"federation\.yaml:2: listen_on"):
        Registry.open(directory.path)
