"""Who may call what, over real TLS."""

import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from interplant.core import certificates, wire
from interplant.core import federation_pb2 as pb
from interplant.server import service
from interplant.server.guard import ROLES

from ..waiting import until

COORDINATOR = pb.DESCRIPTOR.services_by_name["Coordinator"]
LOCAL = pb.DESCRIPTOR.services_by_name["Local"]
METHODS = [method.name for method in COORDINATOR.methods]
OTHERS = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


def call(channel, path):
    """Call a method with an empty request, whatever its shape; return the status it ends with."""
    streams = channel.stream_stream(path, lambda _: b"", lambda data: data)
    try:
        for _ in streams(iter([b""]), timeout=10):
            return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def path_of(method):
    return f"/{COORDINATOR.full_name}/{method}"


def test_every_service_of_the_protocol_is_known_here():
    assert {service.name for service in pb.DESCRIPTOR.services_by_name.values()} == {"Coordinator", "Local"}
    assert not any("Local" in name for name in ROLES)


@pytest.mark.parametrize("path", [path_of(method) for method in METHODS if method != "Enrol"] + OTHERS)
def test_a_join_file_opens_nothing_but_enrol(serving, path):
    code, details = call(serving.bootstrap("north").channel, path)
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "role bootstrap may not call this" in details


def test_a_join_file_opens_enrol_once(serving):
    caller, key = serving.bootstrap("north"), certificates.make_key()
    request = pb.CertificateRequest(protocol=wire.PROTOCOL, signing_request=certificates.make_csr(key))
    pem = caller.stub.Enrol(request, timeout=10).certificate
    assert certificates.identity(pem).role == "plant"
    other = pb.CertificateRequest(
        protocol=wire.PROTOCOL, signing_request=certificates.make_csr(certificates.make_key())
    )
    with pytest.raises(grpc.RpcError, match="was used on") as failed:
        caller.stub.Enrol(other, timeout=10)
    assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with serving.caller(certificates.key_pem(key), pem).watch():
        assert serving.service.exchange.online() == {"north"}


def test_a_plant_may_not_enrol(serving):
    code, details = call(serving.plant("north").channel, path_of("Enrol"))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "role plant may not call this" in details


def test_a_plant_may_ask_for_health_and_reflection(serving):
    channel = serving.plant("north").channel
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    (found,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    names = {service.name for service in found.list_services_response.service}
    assert COORDINATOR.full_name in names
    assert LOCAL.full_name not in names


@pytest.mark.parametrize("method", [method.name for method in LOCAL.methods])
def test_the_local_service_is_not_on_the_port(serving, method):
    code, _ = call(serving.plant("north").channel, f"/{LOCAL.full_name}/{method}")
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_without_a_certificate_nobody_gets_in(serving):
    credentials = grpc.ssl_channel_credentials(serving.authority_pem)
    with grpc.secure_channel(f"127.0.0.1:{serving.port}", credentials) as channel:
        for path in [*map(path_of, METHODS), *OTHERS]:
            assert call(channel, path)[0] == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        assert call(channel, path_of("Watch"))[0] == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_federation_is_refused(serving):
    serving.plant("north")
    stranger = certificates.make_authority("demo")
    key = certificates.make_key()
    pem = certificates.issue(
        stranger, key.public_key(), "plant", "north", lifetime=certificates.AUTHORITY_LIFETIME / 100
    )
    caller = serving.caller(certificates.key_pem(key), pem)
    for path in [*map(path_of, METHODS), *OTHERS]:
        assert call(caller.channel, path)[0] == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_the_registry_does_not_know_is_refused(serving):
    serving.plant("north")
    issuer = serving.service.authority.issuer
    key = certificates.make_key()
    pem = certificates.issue(
        issuer, key.public_key(), "plant", "north", lifetime=certificates.AUTHORITY_LIFETIME / 100
    )
    code, details = call(serving.caller(certificates.key_pem(key), pem).channel, path_of("Offer"))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "north is not enrolled in this federation" in details


def test_an_expired_certificate_is_refused_on_a_connection_that_is_open(serving, monkeypatch):
    caller = serving.plant("north")
    assert caller.offer(pb.Parcel(reply_to="a.1.2")).want == pb.Answer.DROP
    later = certificates.utc_now() + certificates.AUTHORITY_LIFETIME / 2
    monkeypatch.setattr(service, "utc_now", lambda: later)
    with pytest.raises(grpc.RpcError) as failed:
        caller.offer(pb.Parcel(reply_to="a.1.2"))
    assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", [path_of(method) for method in METHODS if method != "Enrol"] + OTHERS)
def test_a_revoked_plant_is_refused_from_the_next_message_on(serving, path):
    north, south = serving.plant("north"), serving.plant("south")
    for caller in (north, south):
        assert caller.offer(pb.Parcel(reply_to="a.1.2")).want == pb.Answer.DROP
    serving.revoke("north")
    code, details = call(north.channel, path)
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "it was revoked" in details
    assert south.offer(pb.Parcel(reply_to="a.1.2")).want == pb.Answer.DROP


def test_revocation_ends_the_open_stream_of_that_plant_alone(serving):
    north, south = serving.plant("north"), serving.plant("south")
    with north.watch() as stream, south.watch() as other:
        until(lambda: serving.service.exchange.online() == {"north", "south"})
        serving.revoke("north")
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() == grpc.StatusCode.ABORTED
        serving.push(serving.question("south"))
        assert next(other).work.destination == serving.node("south")
        assert serving.service.exchange.online() == {"south"}


def test_a_revoked_plant_does_not_come_back_when_another_joins(serving):
    serving.plant("north")
    serving.revoke("north")
    request = pb.CertificateRequest(
        protocol=wire.PROTOCOL, signing_request=certificates.make_csr(certificates.make_key())
    )
    serving.bootstrap("south").stub.Enrol(request, timeout=10)
    nodes = serving.local.Nodes(pb.Empty(), timeout=10).nodes
    assert [node.name for node in nodes] == ["south"]


def test_an_upload_under_way_counts_for_nothing_once_its_plant_is_revoked(serving, answer):
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    reply, body = answer(question)
    assert north.offer(reply).want == pb.Answer.SEND
    go = threading.Event()

    def pieces():
        yield pb.Piece(message_id=reply.reply_to, data=body[:5])
        go.wait(10)
        yield pb.Piece(data=body[5:])

    upload = north.stub.Upload.future(pieces(), timeout=20)
    time.sleep(0.1)
    serving.revoke("north")
    go.set()
    with pytest.raises(grpc.RpcError) as failed:
        upload.result()
    assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert serving.replies(question) == []
