"""Everything that a plant sends, seen from the wire: the declared words and numbers, and nothing else.

A relay with the coordinator's own certificate stands between plant and coordinator and writes down
each call. Canaries lie wherever a plant keeps something of its own: in cells, machine names, paths,
commit messages, ``plant.yaml`` and the environment.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import grpc
import psutil
import pytest
from cryptography import x509

from interplant.client import receipts
from interplant.client.directory import PlantDirectory
from interplant.client.joining import read_join_file
from interplant.core import certificates, config, models
from interplant.core import federation_pb2 as pb
from interplant.core import receipt as core_receipt
from interplant.core.compression import digest_of, largest, moved, unpack
from interplant.core.files import write_atomic
from interplant.core.schema import Compression, Federation, Plant, Rounds
from interplant.core.wire import PROTOCOL, from_bytes
from interplant.data.frames import Dataset
from interplant.data.repository import Repository
from interplant.data.simulator import simulate
from interplant.data.snapshots import keyed_digest
from interplant.lab.federation import LocalFederation, free_port
from interplant.privacy.ledger import Ledger
from interplant.server.authority import Authority

from .conftest import turbofan

pytestmark = pytest.mark.system

CANARY = "Kanarienvogel7351"
MACHINE = 734_091_826_543_108
"""Number of the first machine; the others follow it."""

METRIC = "{mechanism: noised, bound: 1.0, noise: 8.0}"
TASK = turbofan(
    "rounds=2", "training.steps=8", "training.batch=64", f"metrics.loss={METRIC}", f"metrics.units={METRIC}"
)
LARGE = replace(TASK, rounds=1, model=replace(TASK.model, args=TASK.model.args | {"hidden": 300}))
"""Its update is too large for a message: it goes in pieces."""

ONCE = Rounds(quorum=1, deadline_seconds=60.0, retries=0)
LIGHT = replace(ONCE, compression=Compression("int8", "int8"))
"""Two rounds of `TASK` with these: updates and the second model travel packed."""

MESSAGES: dict[str, Any] = {
    "Enrol": pb.CertificateRequest,
    "Renew": pb.CertificateRequest,
    "Watch": pb.Hello,
    "Fetch": pb.FetchRequest,
    "Offer": pb.Parcel,
    "Upload": pb.Piece,
    "Deployed": pb.Deployment,
}
"""What a plant may say, by method; the tests below say what may stand in each."""


@dataclass
class Call:
    """One call of the plant: method, metadata, and every message of it as it came."""

    method: str
    metadata: dict[str, str | bytes]
    raw: list[bytes] = field(default_factory=list)

    @property
    def messages(self) -> list[Any]:
        """The messages, read; a field that the protocol does not know fails the test."""
        read = [MESSAGES[self.method].FromString(raw) for raw in self.raw]
        for message, raw in zip(read, self.raw, strict=True):
            message.DiscardUnknownFields()
            assert len(message.SerializeToString()) == len(raw), f"{self.method} holds unknown fields"
        return read


class Relay(grpc.GenericRpcHandler):
    """Ends the plant's TLS, writes down what it says, and says the same to the coordinator."""

    def __init__(self, federation: "Watched") -> None:
        self._federation = federation
        self.calls: list[Call] = []

    def service(self, details: Any) -> Any:
        call = Call(details.method.rpartition("/")[2], dict(details.invocation_metadata))
        self.calls.append(call)
        return grpc.stream_stream_rpc_method_handler(
            lambda requests, context: self._relay(call, details.method, requests, context)
        )

    def _relay(self, call: Call, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        def heard() -> Iterator[bytes]:
            for message in requests:
                call.raw.append(message)
                yield message

        with self._upstream(call.method) as channel:
            answer = channel.stream_stream(method)(heard())
            context.add_callback(answer.cancel)
            try:
                yield from answer
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

    def _upstream(self, method: str) -> grpc.Channel:
        federation = self._federation
        if method == "Enrol":
            join = read_join_file(federation.path / "north.join")
            words = (join.authority, join.key, join.certificate)
        else:
            files = federation.plant("north").tls_files
            words = tuple(path.read_bytes() for path in (files.authority, files.key, files.certificate))
        return grpc.secure_channel(federation.coordinator.load().listen, grpc.ssl_channel_credentials(*words))


class Watched(LocalFederation):
    """A federation whose plants dial the relay, and whose plant lies at a path with a canary."""

    def plant(self, name: str) -> PlantDirectory:
        return PlantDirectory(self.path.parent / f"hall-{CANARY}" / name)


def canaries() -> Dataset:
    """Simulated readings with canaries in the machines' names and in a column that nobody asked for."""
    made = simulate(0, 6, seed=0)

    def mark(frame: Any) -> Any:
        return frame.assign(machine=frame["machine"].to_numpy() + MACHINE, remark=CANARY)

    return replace(made, train=mark(made.train), holdout=mark(made.holdout))


def cautious(plant: Plant) -> None:
    """What a real plant might offer; of a gate's result nothing is told."""
    plant.policy.tasks = ["turbofan", "broken", f"{CANARY}-other"]
    plant.policy.metrics = ["loss"]
    plant.policy.privacy.epsilon = 50.0
    plant.policy.release.approval = "auto"
    plant.data.repository = f"data-{CANARY}"
    plant.data.declared_windows = 2000


@dataclass(frozen=True)
class Heard:
    """What was seen of a plant's whole life."""

    federation: Watched
    calls: list[Call]
    remotes: set[tuple[str, int]]
    """Every address that a process of the plant was connected to."""
    release: str

    @property
    def plant(self) -> PlantDirectory:
        return self.federation.plant("north")

    def messages(self, method: str) -> list[Any]:
        return [message for call in self.calls if call.method == method for message in call.messages]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    """Live through it all: join, private rounds, a release, refusals of several kinds, a renewal."""
    path = tmp_path_factory.mktemp("traffic") / "federation"
    federation, port = Watched(path), free_port()
    relay, remotes = Relay(federation), set[tuple[str, int]]()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((relay,))

    def dial_relay(settings: Federation) -> None:
        settings.address = f"127.0.0.1:{port}"

    def look(_: Any = None) -> None:
        for process in tree(federation.children["north"].pid):
            remotes.update(tuple(found.raddr) for found in connections(process) if found.raddr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERPLANT_CANARY", CANARY)
        try:
            federation.create("test", dial_relay)
            federation.start_coordinator()
            keys = federation.coordinator
            pair = (keys.server_key.read_bytes(), keys.server_certificate.read_bytes())
            authority = keys.ca_certificate.read_bytes()
            assert server.add_secure_port(
                f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair], authority, require_client_auth=True)
            )
            server.start()
            plant = federation.join("north", cautious)
            plant.config.write_text(f"# {CANARY}\n" + plant.config.read_text())
            repository = Repository.create(plant.path / plant.load().data.repository, plant.remote)
            repository.snapshot(canaries(), message=f"Readings of {CANARY}")
            federation.start_plant("north")
            federation.until_online(["north"])

            run = federation.until_over(federation.start_run(TASK, rounds=ONCE).id, watch=look)
            assert (run.state, run.round) == ("finished", 2), run.reason
            (release,) = federation.registry.releases()
            federation.until(lambda: bool(federation.registry.deployments(release.id)), 60, "a verdict")
            run = federation.until_over(federation.start_run(LARGE, False, rounds=ONCE).id, watch=look)
            assert (run.state, run.round) == ("finished", 1), run.reason
            run = federation.until_over(federation.start_run(TASK, False, rounds=LIGHT).id, watch=look)
            assert (run.state, run.round) == ("finished", 2), run.reason
            refuse(federation, look)
            renew(federation, plant)
            yield Heard(federation, relay.calls, remotes, release.id)
        finally:
            federation.close()
            server.stop(None).wait(10)


def refuse(federation: Watched, look: Callable[..., None]) -> None:
    """Have the plant refuse a foreign task, a contract that its data breaks, and meet a fault of its own."""
    codes = []
    strange = turbofan("rounds=1", "name=foreign")
    broken = turbofan("rounds=1", "name=broken", "contract.label=remark")
    for task in (strange, broken):
        codes.append(refusal(federation, federation.start_run(task, False, rounds=ONCE).id, look))
    repository = federation.plant("north").path / f"data-{CANARY}"
    repository.rename(repository.with_name("moved"))
    codes.append(refusal(federation, federation.start_run(TASK, False, rounds=ONCE).id, look))
    repository.with_name("moved").rename(repository)
    assert codes == ["policy_task", "contract", "internal"]


def refusal(federation: Watched, run: str, look: Callable[..., None]) -> str:
    federation.until_over(run, watch=look)
    (attempt,) = federation.registry.rounds(run)
    return attempt.dropped[0].code


def renew(federation: Watched, plant: PlantDirectory) -> None:
    """Put a certificate in place that is soon over; the agent asks for another by itself."""
    authority = Authority.open(federation.coordinator)
    caller = certificates.identity(plant.plant_certificate.read_bytes())
    request = certificates.make_csr(certificates.read_key(plant.plant_key))
    old = authority.renew(caller, request, now=certificates.utc_now() - timedelta(days=25))
    write_atomic(plant.plant_certificate, old)
    federation.until(lambda: plant.plant_certificate.read_bytes() != old, 30, "a fresh certificate")
    federation.until_online(["north"])


def tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("inet"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def fields(message: Any) -> set[str]:
    return {found.name for found, _ in message.ListFields()}


# --- the kinds of message --------------------------------------------------------------------------


def test_a_plant_calls_what_it_may_and_every_kind_was_heard(heard: Heard) -> None:
    assert {call.method for call in heard.calls} == set(MESSAGES)
    for call in heard.calls:
        assert set(call.metadata) == {"user-agent"}
        assert re.fullmatch(
            r"grpc-python/[\d.]+ grpc-c/[\d.]+ \(\w+; chttp2\)", str(call.metadata["user-agent"])
        )
        assert len(call.messages) == len(call.raw)
    # One that a new connection has cut off may have said nothing.
    assert {call.method for call in heard.calls if call.raw} == set(MESSAGES)


def test_no_process_of_a_plant_has_another_connection(heard: Heard) -> None:
    host, _, port = heard.federation.coordinator.load().address.rpartition(":")
    found = {(address.removeprefix("::ffff:"), number) for address, number in heard.remotes}
    assert found == {(host, int(port))}


def test_a_certificate_request_names_a_key_and_nothing_else(heard: Heard) -> None:
    key = certificates.read_key(heard.plant.plant_key).public_key()
    for method in ("Enrol", "Renew"):
        for request in heard.messages(method):
            assert fields(request) == {"protocol", "signing_request"}
            assert request.protocol == PROTOCOL
            csr = x509.load_pem_x509_csr(request.signing_request)
            assert not list(csr.subject)
            assert not list(csr.extensions)
            assert not list(csr.attributes)
            assert csr.public_key() == key


def test_a_hello_is_a_version_and_a_clock(heard: Heard) -> None:
    for hello in heard.messages("Watch"):
        assert fields(hello) == {"protocol", "clock"}


def test_only_what_was_announced_is_fetched(heard: Heard) -> None:
    for asked in heard.messages("Fetch"):
        assert fields(asked) <= {"sha256", "offset"}
        assert re.fullmatch("[0-9a-f]{64}", asked.sha256)


def test_of_a_release_only_its_arrival_is_told(heard: Heard) -> None:
    """The policy says ``report: nothing``, whatever the gate found."""
    words = heard.messages("Deployed")
    assert words
    assert {(word.release, word.state, word.code) for word in words} == {(heard.release, "received", "")}
    assert {(word.state, word.reason) for word in heard.federation.registry.deployments()} == {
        ("received", "")
    }


# --- replies ---------------------------------------------------------------------------------------


def test_a_refusal_is_a_code(heard: Heard) -> None:
    refusals = [parcel for parcel in heard.messages("Offer") if parcel.error]
    assert [parcel.error for parcel in refusals] == ["policy_task", "contract", "internal"]
    assert all(fields(parcel) == {"reply_to", "error"} for parcel in refusals)


def test_a_receipt_holds_its_seven_words(heard: Heard) -> None:
    plant = heard.plant
    ledger, repository = Ledger(plant.ledger), plant.load().data.repository
    snapshot = Repository(plant.path / repository).open()
    offers = [parcel for parcel in heard.messages("Offer") if not parcel.error]
    assert len({parcel.reply_to for parcel in offers}) == len(offers) == 5
    for number, parcel in enumerate(offers, start=1):
        assert fields(parcel) - {"inline"} == {"reply_to", "records", "body"}
        assert fields(parcel.body) == {"sha256", "size"}
        records = json.loads(parcel.records)
        receipt = records["config"].pop("receipt")
        (metrics,) = records.pop("metrics").values()
        words = records["config"].pop("compression", None)
        assert records == {"config": {}}
        assert (words is None) == (number < 4)
        if words:
            assert words.keys() == {"update", "holds"}
            assert words["update"] == "int8"
            assert re.fullmatch("[0-9a-f]{64}", words["holds"])
        assert list(metrics) == ["loss"], "units is asked for, but not let out by the policy"
        assert math.isfinite(metrics["loss"])
        epsilon = receipt.pop("epsilon")
        assert 0 < epsilon <= ledger.spent(None, 1e-5).epsilon
        signed = core_receipt.from_json(json.dumps(receipt | {"epsilon": epsilon}))
        lineage = receipts.keyed(plant, Repository(plant.path / repository).lineage)
        assert list(signed.charges()) == [lineage], "a keyed name, and charges that follow from plans"
        assert (signed.run, signed.entries) == (parcel.reply_to.partition(".")[0], 2 * number)
        for key in ("run", "round", "entries", "head", "trail", "account", "signer", "signature"):
            receipt.pop(key, None)
        assert receipt == {
            "plant": "north",
            "snapshot": keyed_digest(snapshot.digest, plant.snapshot_key.read_bytes()),
            "mechanism": "dp-sgd",
            "unit": "window",
            "delta": 1e-5,
            "simulated": True,
        }


def plain_and_light(heard: Heard) -> tuple[list[Any], list[Any]]:
    """Offers with an update within them: as it is, and packed."""
    offers = [parcel for parcel in heard.messages("Offer") if parcel.inline]
    light = [parcel for parcel in offers if "compression" in json.loads(parcel.records)["config"]]
    return [parcel for parcel in offers if parcel not in light], light


def test_a_packed_update_is_a_stream_of_the_models_values_and_nothing_else(heard: Heard) -> None:
    """Inflated it is as long as the model says to the byte; and what the model held is told by its digest."""
    shapes = models.parameters(models.build(TASK))
    _, light = plain_and_light(heard)
    assert len(light) == 2
    for parcel in light:
        (length,) = struct.unpack("<Q", parcel.inline[:8])
        header = json.loads(parcel.inline[8 : 8 + length])
        assert list(header) == ["update/packed"]
        assert header["update/packed"].keys() == {"dtype", "shape", "data_offsets"}
        packed = from_bytes(parcel.inline)["update/packed"]
        assert len(parcel.inline) == 8 + length + packed.nbytes
        assert (
            packed.nbytes < largest("int8", shapes, 0.01) < sum(array.nbytes for array in shapes.values()) / 3
        )
        update = unpack("int8", packed.tobytes(), shapes, 0.01)
        assert digest_of(moved(shapes, update)) != digest_of(shapes)
    holds = [json.loads(parcel.records)["config"]["compression"]["holds"] for parcel in light]
    assert holds[0] == digest_of(shapes), "what the coordinator itself had sent"
    assert holds[1] != holds[0]


def test_an_update_is_the_models_parameters_to_the_last_byte(heard: Heard) -> None:
    uploads = [call.messages for call in heard.calls if call.method == "Upload"]
    for first, *rest in uploads:
        assert fields(first) <= {"message_id", "offset", "data"}
        assert all(fields(piece) == {"data"} for piece in rest)
    small = [(TASK, parcel.inline) for parcel in plain_and_light(heard)[0]]
    large = [(LARGE, b"".join(piece.data for piece in pieces)) for pieces in uploads]
    assert (len(small), len(large)) == (2, 1)
    for task, body in small + large:
        shapes = models.parameters(models.build(task))
        expected = {f"update/{name}": value.shape for name, value in shapes.items()}
        (length,) = struct.unpack("<Q", body[:8])
        header = json.loads(body[8 : 8 + length])
        assert {name: tuple(entry["shape"]) for name, entry in header.items()} == expected
        assert {entry["dtype"] for entry in header.values()} == {"F32"}
        assert all(set(entry) == {"dtype", "shape", "data_offsets"} for entry in header.values())
        assert len(body) == 8 + length + 4 * sum(math.prod(shape) for shape in expected.values())


# --- canaries --------------------------------------------------------------------------------------


def secrets(heard: Heard) -> list[bytes]:
    """What must not be found, in the forms in which it could travel."""
    plant = heard.plant
    snapshot = Repository(plant.path / plant.load().data.repository).open()
    words = [
        CANARY,
        CANARY.lower(),
        str(MACHINE)[:10],
        snapshot.digest,
        snapshot.commit,
        *snapshot.files.values(),
    ]
    found = [word.encode() for word in words] + [CANARY.encode("utf-16-le"), CANARY.encode().hex().encode()]
    # Base64 has three ways to write a text, by where it begins.
    found += [base64.b64encode(bytes(skip) + CANARY.encode())[skip + 2 : -6] for skip in range(3)]
    found += [
        struct.pack("<q", MACHINE + 1)[:5],
        plant.snapshot_key.read_bytes(),
        bytes.fromhex(snapshot.digest),
    ]
    secret_lines = plant.plant_key.read_text().splitlines()[1:-1]
    return [*found, *(line.encode() for line in secret_lines)]


def test_the_canaries_are_where_a_plant_keeps_its_own(heard: Heard) -> None:
    """Or else not finding them would say nothing."""
    plant = heard.plant
    assert CANARY in str(plant.path)
    assert CANARY in plant.config.read_text()
    dataset = next((plant.path / f"data-{CANARY}").rglob("train.parquet"))
    import pandas as pd

    frame = pd.read_parquet(dataset)
    assert set(frame["remark"]) == {CANARY}
    assert str(frame["machine"].min()).startswith(str(MACHINE)[:10])
    assert struct.pack("<q", int(frame["machine"].min())).startswith(struct.pack("<q", MACHINE + 1)[:5])
    for process in tree(heard.federation.children["north"].pid):
        assert process.environ()["INTERPLANT_CANARY"] == CANARY
    log = heard.federation.log_of("north").read_text()
    assert CANARY in log, "the plant's own log has the detail of its refusals"


def test_nothing_of_the_plants_own_is_in_the_traffic(heard: Heard) -> None:
    sent = [raw for call in heard.calls for raw in (*call.raw, repr(call.metadata).encode())]
    assert sum(map(len, sent)) > 100_000
    for secret in secrets(heard):
        assert not any(secret in raw for raw in sent), secret


def test_nothing_of_the_plants_own_is_at_the_coordinator(heard: Heard) -> None:
    files = [path for path in heard.federation.coordinator.path.rglob("*") if path.is_file()]
    assert any(path.name == "registry.db" for path in files)
    for path in [*files, heard.federation.log_of("coordinator")]:
        content = path.read_bytes()
        for secret in secrets(heard):
            assert secret not in content, f"{path}: {secret!r}"


def test_what_left_stands_in_the_plants_audit_log(heard: Heard) -> None:
    lines = [json.loads(line) for line in heard.plant.audit.read_text().splitlines()]
    told = [(line["what"], line.get("code", "")) for line in lines]
    assert told.count(("update", "")) == 5
    assert [code for what, code in told if what == "refusal"] == ["policy_task", "contract", "internal"]
    assert ("deployment", "") in told
    updates = [line for line in lines if line["what"] == "update"]
    offers = {parcel.reply_to: parcel for parcel in heard.messages("Offer") if not parcel.error}
    for line in updates:
        said = json.loads(offers[line["message"]].records)["config"]
        assert said["receipt"] == line["receipt"]
        assert said.get("compression") == line.get("compression")
    assert config.to_json(TASK) not in heard.plant.audit.read_text()
