"""The gRPC process: one port, one sentence when it cannot serve, certificates taken up as they come."""

import signal
import socket
import ssl
import subprocess
import sys
from datetime import timedelta

import grpc
import pytest

from interplant.core import certificates
from interplant.core import federation_pb2 as pb
from interplant.core.processes import HOPELESS
from interplant.server import control, releases
from interplant.server.authority import write_server_certificate

from ..waiting import until


def serial_of_server(serving, caller, tmp_path):
    """Shake hands and look at the server's certificate."""
    for name, pem in (("key", caller.key), ("crt", caller.certificate), ("ca", serving.authority_pem)):
        (tmp_path / name).write_bytes(pem)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", serving.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        pem = ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True))
    return certificates.identity(pem.encode()).serial


def test_a_renewed_server_certificate_is_taken_up_without_a_restart(serving, tmp_path):
    north = serving.plant("north")
    authority = serving.service.authority
    with north.watch() as stream:
        before = serial_of_server(serving, north, tmp_path)
        write_server_certificate(
            serving.directory,
            authority.issuer,
            authority.federation,
            certificates.read_key(serving.directory.server_key).public_key(),
        )
        after = serial_of_server(serving, north, tmp_path)
        assert after != before
        assert after == certificates.identity(serving.directory.server_certificate.read_bytes()).serial
        serving.push(serving.question("north"))
        assert next(stream).HasField("work")  # who is connected stays connected


def test_releases_are_offered_after_a_restart_one_of_each_task(serving):
    north, registry = serving.plant("north"), serving.service.registry
    for release, task in (("r-1", "wear"), ("r-2", "wear"), ("r-3", "heat")):
        serving.offer(release, task)
    registry.create_release("r-4", None, "heat", "0" * 64)
    serving.restart()
    with north.watch() as stream:
        assert {next(stream).release.id for _ in range(2)} == {"r-2", "r-3"}


def test_a_release_is_told_of_once_a_person_approves_it(serving):
    registry = serving.service.registry
    with serving.plant("north").watch() as stream:
        serving.offer("r-1", "wear")
        assert next(stream).release.id == "r-1"
        serving.offer("r-2", "wear")
        assert next(stream).release.id == "r-2"
        assert control.reload(serving.directory)  # nothing is new, so nothing is said
        serving.offer("r-3", "wear")
        assert next(stream).release.id == "r-3"
    assert {one.id: one.state for one in registry.releases()} == {
        "r-1": "superseded",
        "r-2": "superseded",
        "r-3": "rolling_out",
    }


def test_a_rollback_reaches_plants_now_or_on_return_before_the_release(serving):
    north, south = serving.plant("north"), serving.plant("south")
    for release in ("r-1", "r-2"):
        serving.offer(release, "wear")
    with north.watch() as stream:
        assert next(stream).release.id == "r-2"
        releases.roll_back(serving.directory, "r-2", None, "a person", "it alarms at night")
        assert next(stream).rollback == pb.Rollback(release="r-2", to="r-1")
        assert next(stream).release.id == "r-1"
    serving.restart()
    with south.watch() as stream:
        assert next(stream).rollback == pb.Rollback(release="r-2", to="r-1")
        assert next(stream).release.id == "r-1"


@pytest.mark.parametrize("damage", ["gone", "empty", "unreadable"])
def test_a_damaged_release_does_not_keep_the_coordinator_from_serving(serving, caplog, damage):
    folder = serving.directory.releases / "r-1"
    if damage != "gone":
        folder.mkdir()
    if damage == "unreadable":
        (folder / "manifest.json").write_text("{")
    serving.service.registry.create_release("r-1", None, "wear", "0" * 64)
    serving.service.registry.approve_release("r-1", "by a test")
    serving.restart()
    assert serving.service.registry.release("r-1").state == "approved"
    assert "release r-1 is not offered" in caplog.text
    with serving.plant("north").watch():
        assert serving.service.exchange.online() == {"north"}


# --- the process ---------------------------------------------------------------------------------------


def run_service(directory, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "interplant.server.service", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_a_port_in_use_is_told_in_one_sentence(coordinator):
    host, _, port = coordinator.load().listen.rpartition(":")
    with socket.create_server((host, int(port))):
        service = run_service(coordinator.path)
        said, errors = service.communicate(timeout=30)
    assert service.returncode == HOPELESS
    assert said == (
        f"{host}:{port}: cannot listen there; the port is in use or the address is not this machine's: "
        "stop the other process or change `listen` in federation.yaml\n"
    )
    assert "Traceback" not in errors


@pytest.mark.parametrize("wrong", ["no directory", "a wrong key", "no authority"])
def test_what_is_wrong_with_the_directory_is_told_in_one_sentence(coordinator, tmp_path, wrong):
    path = coordinator.path
    if wrong == "no directory":
        path = tmp_path / "nowhere"
    elif wrong == "a wrong key":
        coordinator.config.write_text(coordinator.config.read_text() + "\nunknown: 1\n")
    else:
        coordinator.ca_key.unlink()
    service = run_service(path)
    said, errors = service.communicate(timeout=30)
    assert service.returncode == (HOPELESS if wrong == "no authority" else 2)
    assert len(said.splitlines()) == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_end(coordinator, number):
    service = run_service(coordinator.path)

    def answers():
        assert service.poll() is None
        return control.reload(coordinator)

    until(answers)
    service.send_signal(number)
    _, errors = service.communicate(timeout=15)
    assert service.returncode == 0
    assert "Traceback" not in errors


def test_an_expired_invitation_is_refused_by_its_certificate(serving):
    """A join file is worth nothing after its time, before anybody looks into the registry."""
    key = certificates.make_key()
    authority = serving.service.authority
    past = certificates.utc_now() - timedelta(hours=3)
    pem = certificates.issue(
        authority.issuer, key.public_key(), "bootstrap", "north", lifetime=timedelta(hours=1), now=past
    )
    caller = serving.caller(certificates.key_pem(key), pem)

    with pytest.raises(grpc.RpcError) as failed:
        caller.stub.Enrol(pb.CertificateRequest(), timeout=10)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
