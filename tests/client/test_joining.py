import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import yaml

from interplant.client import joining
from interplant.client.directory import PlantDirectory
from interplant.core import certificates, config, signing
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Connection, Plant
from interplant.server import setup
from interplant.server.authority import Authority

HOUR = timedelta(hours=1)
NUMBERS = count(1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    directory = tmp_path_factory.mktemp("federation") / "coordinator"
    setup.init(directory, "demo", "127.0.0.1:7443", "ml.example.com:7443")
    authority = Authority.open(directory)
    yield authority
    authority.registry.close()


@pytest.fixture
def name():
    """A plant of its own for each test of the shared federation."""
    return f"plant-{next(NUMBERS)}"


@pytest.fixture
def file(authority, name, tmp_path):
    path = tmp_path / "join.yaml"
    path.write_text(authority.invite(name))
    return path


@pytest.fixture
def enrol(authority):
    """The coordinator's answer, without the network between."""

    def call(join, csr):
        return authority.accept(certificates.identity(join.certificate), csr)

    return call


@pytest.fixture
def plant(file, enrol, tmp_path):
    return joining.join_federation(tmp_path / "plant", joining.read_join_file(file), enrol)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def changed(file, **words):
    content = yaml.safe_load(file.read_text())
    content.update({word.replace("_", "-"): value for word, value in words.items()})
    file.write_text(yaml.safe_dump(content))
    return file


def refuse(_join, _csr):
    raise InterplantError("the coordinator cannot be reached")


# --- the join file ---------------------------------------------------------------------------------


def test_join_file_of_the_coordinator_is_understood(file, name, authority):
    join = joining.read_join_file(file)
    assert (join.federation, join.plant, join.coordinator) == ("demo", name, "ml.example.com:7443")
    assert join.authority == authority.issuer.pem
    assert join.release_key == authority.directory.release_public_key.read_bytes()
    assert abs(join.expires - datetime.now(UTC) - 24 * HOUR) < timedelta(minutes=1)
    assert certificates.identity(join.certificate).role == "bootstrap"
    certificates.check_pair(join.certificate, certificates.parse_key(join.key))


def test_expired_join_file_says_when_and_what_to_do(file, name):
    with pytest.raises(UsageError, match=rf"expired on .* UTC.*coordinator enrol {name}.*set the clock"):
        joining.read_join_file(file, now=datetime.now(UTC) + 25 * HOUR)


def test_expiry_is_what_the_certificate_says(file):
    changed(file, expires="2999-01-01T00:00:00+00:00")
    with pytest.raises(UsageError, match="expired on"):
        joining.read_join_file(file, now=datetime.now(UTC) + 25 * HOUR)


def test_slow_clock_is_named(file):
    with pytest.raises(UsageError, match=r"the clock of this machine says .* set the clock or"):
        joining.read_join_file(file, now=datetime.now(UTC) - HOUR)


@pytest.mark.parametrize("text", ["", "nonsense", "name: plant-1\n", "- 1\n", "a: [", "\0"])
def test_foreign_file_is_one_sentence(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(UsageError, match="expected a join file, found something else"):
        joining.read_join_file(tmp_path / "f")


def test_binary_and_missing_files_are_one_sentence(tmp_path):
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="expected a join file"):
        joining.read_join_file(tmp_path / "f")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        joining.read_join_file(tmp_path / "g")


def test_join_file_of_another_version_is_refused(file):
    with pytest.raises(UsageError, match="format 1, found 2"):
        joining.read_join_file(changed(file, interplant_join=2))


@pytest.mark.parametrize("word", ["plant", "coordinator", "authority", "release_key", "certificate", "key"])
@pytest.mark.parametrize("value", [None, 7, "nonsense"])
def test_damaged_join_file_is_one_sentence(file, word, value):
    with pytest.raises(UsageError, match=r"join\.yaml: "):
        joining.read_join_file(changed(file, **{word: value}))


def test_join_file_with_a_key_of_another_is_refused(file):
    other = certificates.key_pem(certificates.make_key()).decode()
    with pytest.raises(UsageError, match="another key"):
        joining.read_join_file(changed(file, key=other))


def test_join_file_with_a_foreign_authority_is_refused(file):
    other = certificates.make_authority("demo").pem.decode()
    with pytest.raises(UsageError, match="not from this federation's authority"):
        joining.read_join_file(changed(file, authority=other))


def test_plant_certificate_is_no_join_file(file, authority):
    key = certificates.make_key()
    pem = certificates.issue(authority.issuer, key.public_key(), "plant", "plant-x", lifetime=HOUR)
    words = {"certificate": pem.decode(), "key": certificates.key_pem(key).decode(), "plant": "plant-x"}
    with pytest.raises(UsageError, match="its certificate is for plant plant-x"):
        joining.read_join_file(changed(file, **words))


# --- the plant directory ---------------------------------------------------------------------------


def test_plant_is_complete_and_nothing_lies_beside_it(plant, tmp_path):
    assert names(tmp_path) == ["join.yaml", "plant"]
    assert names(plant.path) == ["keys", "outbox", "plant.yaml", "releases"]
    assert names(plant.keys) == ["ca.crt", "plant.crt", "plant.key", "release.pub", "snapshot.key"]
    assert stat.S_IMODE(plant.keys.stat().st_mode) == 0o700
    for path in (plant.plant_key, plant.snapshot_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_and_certificates_belong_together(plant, name, authority):
    pem = plant.tls_files.certificate.read_bytes()
    certificates.check_issued(pem, plant.tls_files.authority.read_bytes())
    certificates.check_pair(pem, certificates.read_key(plant.tls_files.key))
    found = certificates.identity(pem)
    assert (found.role, found.name) == ("plant", name)
    assert authority.registry.is_allowed(name, found.serial)
    assert signing.read_public(plant.release_public_key)
    assert len(plant.snapshot_key.read_bytes()) == 32


def test_policy_is_cautious_and_explained(plant, name):
    settings = plant.load()
    expected = Plant(name=name, federation="demo", connection=Connection(coordinator="ml.example.com:7443"))
    assert settings == expected == config.load(plant.config, Plant)
    policy = settings.policy
    assert policy.tasks == []
    assert policy.privacy.allow_none is False
    assert (policy.release.approval, policy.release.report) == ("person", "nothing")
    lines = plant.config.read_text().splitlines()
    groups = [number for number, line in enumerate(lines) if line and line[0].isalpha()]
    assert all(lines[number - 1].startswith("# ") for number in groups)


def test_only_the_request_goes_out(file, authority, tmp_path):
    sent = []

    def enrol(join, csr):
        sent.append(csr)
        return authority.accept(certificates.identity(join.certificate), csr)

    plant = joining.join_federation(tmp_path / "plant", joining.read_join_file(file), enrol)
    (csr,) = sent
    assert certificates.requested_key(csr) == certificates.read_key(plant.plant_key).public_key()
    assert b"PRIVATE" not in csr


def test_another_address_may_be_dialled(file, enrol, tmp_path):
    join = joining.read_join_file(file)
    plant = joining.join_federation(tmp_path / "plant", join, enrol, address="10.1.2.3:9000")
    assert plant.load().connection.coordinator == "10.1.2.3:9000"


def test_impossible_address_is_found_before_the_join_file_is_used(file, tmp_path):
    def enrol(_join, _csr):
        pytest.fail("the network must not be reached")

    with pytest.raises(UsageError, match="expected host:port"):
        joining.join_federation(tmp_path / "plant", joining.read_join_file(file), enrol, address="nowhere")
    assert names(tmp_path) == ["join.yaml"]


def test_failed_call_makes_no_plant_and_a_second_try_works(file, enrol, tmp_path):
    join = joining.read_join_file(file)
    with pytest.raises(InterplantError, match="cannot be reached"):
        joining.join_federation(tmp_path / "plant", join, refuse)
    assert not (tmp_path / "plant").exists()
    joining.join_federation(tmp_path / "plant", join, enrol)
    assert names(tmp_path) == ["join.yaml", "plant"]


def test_lost_answer_does_not_lock_the_plant_out(file, enrol, tmp_path):
    join = joining.read_join_file(file)

    def answer_lost(*words):
        enrol(*words)
        raise InterplantError("connection reset")

    with pytest.raises(InterplantError, match="reset"):
        joining.join_federation(tmp_path / "plant", join, answer_lost)
    joining.join_federation(tmp_path / "plant", join, enrol).load()


def test_key_of_a_failed_try_serves_its_own_join_file_alone(file, enrol, authority, name, tmp_path):
    seen = []

    def lost(_join, csr):
        seen.append(certificates.requested_key(csr))
        raise InterplantError("connection reset")

    join = joining.read_join_file(file)
    for _ in range(2):
        with pytest.raises(InterplantError):
            joining.join_federation(tmp_path / "plant", join, lost)
    file.write_text(authority.invite(name))
    with pytest.raises(InterplantError):
        joining.join_federation(tmp_path / "plant", joining.read_join_file(file), lost)
    assert seen[0] == seen[1] != seen[2]


def test_used_join_file_makes_no_second_plant(plant, file, enrol, tmp_path):
    with pytest.raises(InterplantError, match="was used on"):
        joining.join_federation(tmp_path / "thief", joining.read_join_file(file), enrol)
    assert not (tmp_path / "thief").exists()


def test_existing_plant_is_left_alone(plant, file, authority, tmp_path):
    before = {path: path.read_bytes() for path in plant.keys.iterdir()}

    def enrol(_join, _csr):
        pytest.fail("the network must not be reached")

    with pytest.raises(UsageError, match="not empty"):
        joining.join_federation(plant.path, joining.read_join_file(file), enrol)
    assert {path: path.read_bytes() for path in plant.keys.iterdir()} == before


@pytest.mark.parametrize(("role", "other"), [("plant", True), ("bootstrap", False), ("server", False)])
def test_wrong_answer_makes_no_plant(file, authority, tmp_path, role, other):
    join = joining.read_join_file(file)
    name = "plant-x" if other else join.plant

    def enrol(_join, csr):
        key = certificates.requested_key(csr)
        return certificates.issue(authority.issuer, key, role, name, lifetime=HOUR)

    with pytest.raises(InterplantError, match=f"the coordinator sent one for {role} {name}"):
        joining.join_federation(tmp_path / "plant", join, enrol)
    assert not (tmp_path / "plant").exists()


def test_answer_of_another_authority_or_for_another_key_makes_no_plant(file, authority, tmp_path):
    join = joining.read_join_file(file)
    stranger, mine = certificates.make_authority("demo"), certificates.make_key().public_key()

    def foreign(_join, csr):
        key = certificates.requested_key(csr)
        return certificates.issue(stranger, key, "plant", join.plant, lifetime=HOUR)

    def swapped(_join, _csr):
        return certificates.issue(authority.issuer, mine, "plant", join.plant, lifetime=HOUR)

    for enrol, words in ((foreign, "not from this federation"), (swapped, "another key")):
        with pytest.raises(InterplantError, match=words):
            joining.join_federation(tmp_path / "plant", join, enrol)
    assert not (tmp_path / "plant").exists()


def test_killed_half_way_there_is_no_plant_and_joining_works_again(file, enrol, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from interplant.client import joining\n"
        "def enrol(join, csr): os.kill(os.getpid(), signal.SIGKILL)\n"
        "joining.join_federation(Path(sys.argv[1]), joining.read_join_file(Path(sys.argv[2])), enrol)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "plant", file], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "plant").exists()
    joining.join_federation(tmp_path / "plant", joining.read_join_file(file), enrol).load()
    assert names(tmp_path) == ["join.yaml", "plant"]


# --- renewal ---------------------------------------------------------------------------------------


def test_certificate_is_renewed_in_its_last_third(plant, authority):
    old = certificates.identity(plant.plant_certificate.read_bytes())
    key = plant.plant_key.read_bytes()

    def renew(csr):
        return authority.renew(old, csr)

    assert not joining.renew_if_due(plant, renew)
    late = old.not_after - timedelta(hours=200)
    assert joining.renew_if_due(plant, renew, now=late)
    new = certificates.identity(plant.plant_certificate.read_bytes())
    assert (new.role, new.name) == ("plant", old.name)
    assert new.serial != old.serial
    assert authority.registry.is_allowed(new.name, new.serial)
    certificates.check_pair(plant.plant_certificate.read_bytes(), certificates.read_key(plant.plant_key))
    assert plant.plant_key.read_bytes() == key


def test_wrong_answer_leaves_the_old_certificate(plant):
    before = plant.plant_certificate.read_bytes()
    stranger, late = certificates.make_authority("demo"), datetime.now(UTC) + 600 * HOUR

    def renew(csr):
        key = certificates.requested_key(csr)
        return certificates.issue(stranger, key, "plant", plant.load().name, lifetime=HOUR)

    for answer, words in ((renew, "not from this federation"), (lambda _: b"", "in PEM")):
        with pytest.raises(InterplantError, match=words):
            joining.renew_if_due(plant, answer, now=late)
    assert plant.plant_certificate.read_bytes() == before


# --- the directory ---------------------------------------------------------------------------------


def test_folder_that_is_no_plant_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"expected a plant directory .* plant join FILE"):
            PlantDirectory(folder).load()


def test_wrong_setting_is_named_with_its_line(plant):
    text = plant.config.read_text()
    line = text.splitlines().index("    epsilon: 1.0") + 1
    plant.config.write_text(text.replace("epsilon: 1.0", "epsilon: -1"))
    with pytest.raises(UsageError, match=rf"plant\.yaml:{line}: policy\.privacy\.epsilon: expected more"):
        plant.load()


def test_paths_are_the_documented_ones():
    plant = PlantDirectory(Path("p"))
    names = {
        "config": "plant.yaml", "keys": "keys", "plant_key": "keys/plant.key", "data": "data",
        "plant_certificate": "keys/plant.crt", "ca_certificate": "keys/ca.crt", "remote": "remote",
        "release_public_key": "keys/release.pub", "snapshot_key": "keys/snapshot.key",
        "ledger": "ledger.db", "outbox": "outbox", "releases": "releases", "champion": "champion.json",
        "audit": "audit.jsonl", "trainer_log": "trainer.log", "agent_log": "agent.log",
    }  # fmt: skip
    assert {name: str(getattr(plant, name)) for name in names} == {
        name: f"p/{path}" for name, path in names.items()
    }
