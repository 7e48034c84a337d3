import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from interplant.core import certificates
from interplant.core.errors import InterplantError

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority():
    return certificates.make_authority("demo", now=NOW)


def make(authority, role="plant", name="plant-1", lifetime=HOUR, **more):
    key = certificates.make_key()
    pem = certificates.issue(
        authority, key.public_key(), role, name, lifetime=lifetime, **{"now": NOW, **more}
    )
    return pem, key


def signed_with_names(authority, names):
    """A certificate as a careless or hostile authority would make it."""
    key = certificates.make_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + HOUR)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(authority.key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def uri(text):
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("role", certificates.ROLES)
def test_identity_is_what_was_issued(authority, role):
    pem, _ = make(authority, role, "press-7")
    found = certificates.identity(pem)
    assert (found.role, found.name) == (role, "press-7")
    assert found.not_after == NOW + HOUR
    assert found.not_before == NOW - timedelta(minutes=5)
    assert int(found.serial, 16) == x509.load_pem_x509_certificate(pem).serial_number
    assert certificates.identity(pem.decode()) == found


def test_bootstrap_certificate_is_never_read_as_a_plant(authority):
    pem, _ = make(authority, "bootstrap", "plant")
    assert certificates.identity(pem).role == "bootstrap"


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("plant-1")],
        [uri("https://example.com")],
        [uri("interplant:plant:a"), uri("interplant:server:a")],
        [uri("interplant:plant:a"), uri("interplant:plant:a")],
        [uri("interplant:plant:a"), uri("INTERPLANT:server:a")],
        [uri("INTERPLANT:plant:a")],
        [uri("interplant:admin:a")],
        [uri("interplant:Plant:a")],
        [uri("interplant:plant:")],
        [uri("interplant:plant")],
        [uri("interplant:plant:a:b")],
        [uri("interplant:plant:../a")],
        [uri("interplant:plant:a\n")],
        [uri("interplant:plant:-a")],
        [uri(" interplant:plant:a")],
        [uri("interplant:plant:" + "a" * 64)],
    ],
)
def test_identity_is_read_strictly(authority, names):
    with pytest.raises(InterplantError):
        certificates.identity(signed_with_names(authority, names))


def test_identity_ignores_the_subject(authority):
    pem, _ = make(authority, "bootstrap", "plant-1")
    assert "plant-1" in x509.load_pem_x509_certificate(pem).subject.rfc4514_string()
    with pytest.raises(InterplantError, match="one interplant identity, found 0"):
        certificates.identity(authority.pem)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_one_sentence(text):
    with pytest.raises(InterplantError, match="expected a certificate in PEM"):
        certificates.identity(text)


def test_two_certificates_are_one_too_many(authority):
    first, second = make(authority)[0], make(authority)[0]
    with pytest.raises(InterplantError, match="expected one certificate, found 2"):
        certificates.identity(first + second)


@pytest.mark.parametrize(
    ("role", "name"), [("admin", "a"), ("plant", "a b"), ("plant", ""), ("plant", "a/b")]
)
def test_impossible_roles_and_names_are_not_issued(authority, role, name):
    with pytest.raises(InterplantError, match="expected a name"):
        make(authority, role, name)


def test_only_a_server_may_serve(authority):
    for role in certificates.ROLES:
        pem, _ = make(authority, role)
        extensions = x509.load_pem_x509_certificate(pem).extensions
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (ExtendedKeyUsageOID.SERVER_AUTH in purposes) == (role == "server")
        assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_authority_signs_certificates_and_no_authority_below(authority):
    extensions = authority.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert constraints.critical
    assert constraints.value.ca
    assert constraints.value.path_length == 0
    assert usage.key_cert_sign
    assert not usage.digital_signature


def test_certificate_never_outlives_its_authority():
    authority = certificates.make_authority("demo", lifetime=HOUR, now=NOW)
    pem, _ = make(authority, lifetime=5 * HOUR)
    assert certificates.identity(pem).not_after == NOW + HOUR


def test_covers_knows_names_and_addresses(authority):
    pem, _ = make(authority, "server", hosts=["localhost", "127.0.0.1", "::1", "ml.example.com"])
    assert certificates.covers(pem, ["localhost", "127.0.0.1", "0:0::1"])
    assert not certificates.covers(pem, ["localhost", "10.0.0.1"])
    assert not certificates.covers(make(authority)[0], ["localhost"])


def test_impossible_host_is_one_sentence(authority):
    with pytest.raises(InterplantError, match="expected a host name"):
        make(authority, "server", hosts=["bad host"])


def test_request_proves_the_key_and_names_nobody():
    key = certificates.make_key()
    csr = certificates.make_csr(key)
    assert certificates.requested_key(csr) == key.public_key()
    assert not list(x509.load_pem_x509_csr(csr).subject)


def test_request_signed_by_another_key_is_refused():
    pem = certificates.make_csr(certificates.make_key())
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    other = certificates.make_key().public_key()
    point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    old = x509.load_pem_x509_csr(pem).public_key().public_bytes(*point)
    swapped = bytes(der).replace(old, other.public_bytes(*point))
    forged = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InterplantError, match="not signed by the key"):
        certificates.requested_key(forged)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["p384", "rsa"],
)
def test_request_for_another_kind_of_key_is_refused(key):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InterplantError, match="P-256"):
        certificates.requested_key(csr)


def test_what_is_no_request_is_one_sentence():
    with pytest.raises(InterplantError, match="expected a certificate request"):
        certificates.requested_key(b"nonsense")


@pytest.mark.parametrize(
    ("seconds", "due"), [(0, False), (19, False), (20, False), (21, True), (30, True), (99, True)]
)
def test_renewal_is_due_in_the_last_third_even_of_short_lives(authority, seconds, due):
    pem, _ = make(authority, lifetime=timedelta(seconds=30))
    assert certificates.renewal_due(pem, NOW + timedelta(seconds=seconds)) is due


def test_clock_within_the_validity_is_fine(authority):
    pem, _ = make(authority)
    certificates.check_clock(pem, "join again", NOW)
    # A machine that is a little slow finds its fresh certificate valid.
    certificates.check_clock(pem, "join again", NOW - timedelta(minutes=4))


@pytest.mark.parametrize("off", [-timedelta(hours=2), timedelta(hours=2)])
def test_clock_that_is_off_says_all_times_and_what_to_do(authority, off):
    pem, _ = make(authority)
    with pytest.raises(InterplantError) as caught:
        certificates.check_clock(pem, "join again", NOW + off)
    assert str(caught.value) == (
        f"the clock of this machine says {certificates.readable(NOW + off)}, the certificate is valid from "
        "2030-01-02 02:59:05 UTC to 2030-01-02 04:04:05 UTC: set the clock or join again"
    )


def test_only_this_authority_counts(authority):
    pem, key = make(authority)
    certificates.check_issued(pem, authority.pem)
    certificates.check_pair(pem, key)
    stranger = certificates.make_authority("demo", now=NOW)
    with pytest.raises(InterplantError, match="not from this federation"):
        certificates.check_issued(pem, stranger.pem)
    with pytest.raises(InterplantError, match="another key"):
        certificates.check_pair(pem, certificates.make_key())


def test_key_files_are_the_owners_alone(tmp_path):
    key = certificates.make_key()
    certificates.write_key(tmp_path / "a.key", certificates.key_pem(key))
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert certificates.read_key(tmp_path / "a.key").private_numbers() == key.private_numbers()


def test_missing_or_damaged_key_names_its_file(tmp_path):
    with pytest.raises(InterplantError, match=r"a\.key: cannot be read"):
        certificates.read_key(tmp_path / "a.key")
    (tmp_path / "a.key").write_text("nonsense")
    with pytest.raises(InterplantError, match=r"a\.key: expected a private key"):
        certificates.read_key(tmp_path / "a.key")


def test_authority_comes_back_from_its_files(tmp_path, authority):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    certificates.write_key(tmp_path / "ca.key", certificates.key_pem(authority.key))
    loaded = certificates.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key")
    certificates.check_issued(make(loaded)[0], authority.pem)


# --- what the TLS of gRPC makes of them ------------------------------------------------------------


def peer_name(_request, context):
    return context.auth_context()["x509_pem_cert"][0]


@pytest.fixture
def live():
    return certificates.make_authority("demo")


def serve(authority, pem, key):
    server = grpc.server(ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(peer_name)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Who": method}),))
    pair = (certificates.key_pem(key), pem)
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], authority.pem, require_client_auth=True)
    )
    server.start()
    return server, f"127.0.0.1:{port}"


def who(address, authority, pem, key):
    credentials = grpc.ssl_channel_credentials(authority.pem, certificates.key_pem(key), pem)
    with grpc.secure_channel(address, credentials) as channel:
        return channel.unary_unary("/t.T/Who")(b"", timeout=5)


def test_server_reads_the_identity_of_a_verified_peer(live):
    server, address = serve(live, *make(live, "server", "demo", hosts=["127.0.0.1"], now=None))
    try:
        pem, key = make(live, "plant", "plant-1", now=None)
        found = certificates.identity(who(address, live, pem, key))
        assert (found.role, found.name) == ("plant", "plant-1")
        stranger = certificates.make_authority("demo")
        with pytest.raises(grpc.RpcError):
            who(address, live, *make(stranger, "plant", "plant-1", now=None))
        expired = make(live, lifetime=timedelta(seconds=-1), now=None)
        with pytest.raises(grpc.RpcError):
            who(address, live, *expired)
    finally:
        server.stop(None)


def test_plant_cannot_pose_as_the_server(live):
    server, address = serve(live, *make(live, "plant", "plant-1", hosts=["127.0.0.1"], now=None))
    try:
        with pytest.raises(grpc.RpcError):
            who(address, live, *make(live, "plant", "plant-2", now=None))
    finally:
        server.stop(None)
