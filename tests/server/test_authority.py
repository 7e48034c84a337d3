from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from interplant.core import certificates
from interplant.core.errors import InterplantError, UsageError
from interplant.server import setup
from interplant.server.authority import Authority, server_hosts
from interplant.server.directory import CoordinatorDirectory

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def directory(tmp_path):
    setup.init(tmp_path / "coordinator", "demo", "0.0.0.0:7443", "ml.example.com:7443")
    return CoordinatorDirectory(tmp_path / "coordinator")


@pytest.fixture
def authority(directory):
    authority = Authority.open(directory)
    yield authority
    authority.registry.close()


def bootstrap_of(join_text):
    return certificates.identity(yaml.safe_load(join_text)["certificate"])


def request():
    return certificates.make_csr(certificates.make_key())


def join(authority, name="plant-1"):
    return certificates.identity(authority.accept(bootstrap_of(authority.invite(name)), request()))


def test_join_file_holds_all_that_a_plant_needs(authority, directory):
    content = yaml.safe_load(authority.invite("plant-1", hours=2))
    assert content["interplant-join"] == 1
    assert (content["federation"], content["plant"]) == ("demo", "plant-1")
    assert content["coordinator"] == "ml.example.com:7443"
    assert content["authority"].encode() == directory.ca_certificate.read_bytes()
    assert content["release-key"].encode() == directory.release_public_key.read_bytes()
    bootstrap = certificates.identity(content["certificate"])
    assert (bootstrap.role, bootstrap.name) == ("bootstrap", "plant-1")
    assert datetime.fromisoformat(content["expires"]) == bootstrap.not_after
    assert abs(bootstrap.not_after - datetime.now(UTC) - 2 * HOUR) < timedelta(minutes=1)
    certificates.check_issued(content["certificate"].encode(), content["authority"].encode())
    certificates.check_pair(content["certificate"].encode(), certificates.parse_key(content["key"].encode()))


def test_join_file_holds_no_key_of_the_federation(authority, directory):
    text = authority.invite("plant-1")
    for path in (directory.ca_key, directory.release_key, directory.server_key):
        assert path.read_text().splitlines()[1] not in text


def test_join_file_lasts_as_long_as_configured(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1"))
    assert abs(bootstrap.not_after - datetime.now(UTC) - 24 * HOUR) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "name", ["", "plant 1", "../plant", "-plant", "a" * 64, "plänt", "a/b", "a:b", "a\n"]
)
def test_impossible_names_are_refused(authority, name):
    with pytest.raises(UsageError, match="plant name: expected"):
        authority.invite(name)
    assert authority.registry.invitations() == []


@pytest.mark.parametrize("hours", [0, -1, 10_000, float("nan"), float("inf")])
def test_impossible_times_are_refused(authority, hours):
    with pytest.raises(UsageError, match="hours: expected"):
        authority.invite("plant-1", hours=hours)


def test_plant_gets_its_certificate(authority, directory):
    key = certificates.make_key()
    pem = authority.accept(bootstrap_of(authority.invite("plant-1")), certificates.make_csr(key))
    found = certificates.identity(pem)
    assert (found.role, found.name) == ("plant", "plant-1")
    assert abs(found.not_after - datetime.now(UTC) - 720 * HOUR) < timedelta(minutes=1)
    certificates.check_issued(pem, directory.ca_certificate.read_bytes())
    certificates.check_pair(pem, key)
    assert authority.registry.is_allowed("plant-1", found.serial)


def test_bootstrap_certificate_itself_is_never_allowed(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1"))
    authority.accept(bootstrap, request())
    assert not authority.registry.is_allowed("plant-1", bootstrap.serial)
    with pytest.raises(InterplantError, match="role bootstrap"):
        authority.renew(bootstrap, request())


def test_join_file_is_good_once(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1"))
    authority.accept(bootstrap, request())
    with pytest.raises(InterplantError, match="was used on"):
        authority.accept(bootstrap, request())


def test_join_file_is_good_once_even_at_the_same_moment(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1"))

    def accept(csr):
        try:
            return certificates.identity(authority.accept(bootstrap, csr)).role
        except InterplantError:
            return "refused"

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(accept, [request() for _ in range(12)]))
    assert sorted(said) == ["plant"] + ["refused"] * 11


def test_plant_that_lost_the_answer_gets_it_again(authority):
    bootstrap, key = bootstrap_of(authority.invite("plant-1")), certificates.make_key()
    first = authority.accept(bootstrap, certificates.make_csr(key))
    assert authority.accept(bootstrap, certificates.make_csr(key)) == first


def test_expired_join_file_is_refused(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1", hours=1))
    with pytest.raises(InterplantError, match="expired on"):
        authority.accept(bootstrap, request(), now=datetime.now(UTC) + 2 * HOUR)
    assert authority.registry.plants() == []


def test_name_comes_from_the_invitation_and_not_from_the_request(authority):
    join(authority, "plant-2")
    key = certificates.make_key()
    names = [
        x509.DNSName("localhost"),
        x509.UniformResourceIdentifier("interplant:server:demo"),
        x509.UniformResourceIdentifier("interplant:plant:plant-2"),
    ]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plant-2")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    pem = authority.accept(bootstrap_of(authority.invite("plant-1")), csr)
    found = certificates.identity(pem)
    assert (found.role, found.name) == ("plant", "plant-1")
    assert not certificates.covers(pem, ["localhost"])
    certificate = x509.load_pem_x509_certificate(pem)
    assert "plant-2" not in certificate.subject.rfc4514_string()
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    renewed = certificates.identity(authority.renew(found, csr))
    assert (renewed.role, renewed.name) == ("plant", "plant-1")


def test_bad_request_does_not_use_the_join_file_up(authority):
    bootstrap = bootstrap_of(authority.invite("plant-1"))
    with pytest.raises(InterplantError, match="expected a certificate request"):
        authority.accept(bootstrap, b"nonsense")
    authority.accept(bootstrap, request())


def test_plant_or_server_cannot_use_what_is_for_join_files(authority):
    plant = join(authority, "plant-1")
    server = certificates.identity(authority.directory.server_certificate.read_bytes())
    for caller in (plant, server):
        with pytest.raises(InterplantError, match=f"found role {caller.role}"):
            authority.accept(caller, request())
    with pytest.raises(InterplantError, match="role server"):
        authority.renew(server, request())


def test_renewed_certificate_counts_beside_the_old_one(authority):
    old = join(authority)
    new = certificates.identity(authority.renew(old, request()))
    assert new.serial != old.serial
    assert new.name == old.name
    assert authority.registry.is_allowed("plant-1", old.serial)
    assert authority.registry.is_allowed("plant-1", new.serial)


def test_revoked_plant_is_out_with_every_certificate(authority):
    old = join(authority)
    new = certificates.identity(authority.renew(old, request()))
    authority.revoke("plant-1", "laptop stolen")
    for identity in (old, new):
        assert not authority.registry.is_allowed("plant-1", identity.serial)
        with pytest.raises(InterplantError, match="not enrolled"):
            authority.renew(identity, request())
    again = join(authority)
    assert authority.registry.is_allowed("plant-1", again.serial)
    with pytest.raises(InterplantError, match="not enrolled"):
        authority.renew(old, request())


def test_expired_certificate_is_not_renewed(authority):
    old = join(authority)
    with pytest.raises(InterplantError, match="not enrolled"):
        authority.renew(old, request(), now=old.not_after)


def test_active_plant_is_not_invited_again(authority):
    join(authority)
    with pytest.raises(InterplantError, match="coordinator revoke plant-1"):
        authority.invite("plant-1")


def test_join_file_of_another_federation_is_refused(authority, tmp_path):
    setup.init(tmp_path / "other", "demo", "127.0.0.1:7443", "127.0.0.1:7443")
    other = Authority.open(tmp_path / "other")
    with pytest.raises(InterplantError, match="not written this join file"):
        authority.accept(bootstrap_of(other.invite("plant-1")), request())
    other.registry.close()


# --- the server's own certificate ------------------------------------------------------------------


def test_server_certificate_is_renewed_in_its_last_third_alone(authority, directory):
    before, key = directory.server_certificate.read_bytes(), directory.server_key.read_bytes()
    assert not authority.ensure_server_certificate()
    assert not authority.ensure_server_certificate(now=NOW + timedelta(hours=1430))
    assert directory.server_certificate.read_bytes() == before
    late = NOW + timedelta(hours=1450)
    assert authority.ensure_server_certificate(now=late)
    assert not authority.ensure_server_certificate(now=late)
    after = directory.server_certificate.read_bytes()
    assert certificates.identity(after).not_after > certificates.identity(before).not_after
    certificates.check_pair(after, certificates.read_key(directory.server_key))
    assert directory.server_key.read_bytes() == key


def test_server_certificate_follows_the_configured_address(directory):
    directory.config.write_text(directory.config.read_text().replace("ml.example.com", "10.1.2.3"))
    authority = Authority.open(directory)
    assert authority.ensure_server_certificate()
    assert certificates.covers(
        directory.server_certificate.read_bytes(), ["10.1.2.3", "localhost", "127.0.0.1"]
    )
    assert not authority.ensure_server_certificate()
    authority.registry.close()


def test_lost_server_certificate_is_made_again(authority, directory):
    directory.server_certificate.unlink()
    assert authority.ensure_server_certificate()
    assert certificates.identity(directory.server_certificate.read_bytes()).role == "server"


@pytest.mark.parametrize(
    ("listen", "address", "more"),
    [
        ("127.0.0.1:1", "localhost:1", []),
        ("0.0.0.0:1", "ml.example.com:1", ["ml.example.com"]),
        ("[::]:1", "[2001:db8::1]:1", ["2001:db8::1"]),
        ("10.0.0.1:1", "ml.example.com:1", ["ml.example.com", "10.0.0.1"]),
    ],
)
def test_server_is_dialled_as_configured_and_from_this_machine(authority, listen, address, more):
    authority.federation.listen, authority.federation.address = listen, address
    assert server_hosts(authority.federation) == ["localhost", "127.0.0.1", *more]


def test_clock_before_the_federation_began_is_named(authority, directory, monkeypatch):
    monkeypatch.setattr(certificates, "utc_now", lambda: NOW - timedelta(days=400))
    with pytest.raises(InterplantError, match="set the clock or"):
        Authority.open(directory)


def test_lost_authority_key_is_named(directory):
    directory.ca_key.unlink()
    with pytest.raises(InterplantError, match=r"ca\.key: cannot be read"):
        Authority.open(directory)
