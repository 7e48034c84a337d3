"""What a coordinator that lies cannot do to a plant: over real TLS, with the plant's own code."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from interplant.client import policy, verdicts
from interplant.client.agent import Agent
from interplant.client.champion import Champion
from interplant.client.directory import PlantDirectory
from interplant.client.joining import read_join_file
from interplant.client.link import LARGEST, AwayError, Link
from interplant.client.participation import take_part
from interplant.client.verdicts import Verdict
from interplant.core import certificates, config, wire
from interplant.core import federation_pb2 as pb
from interplant.core import federation_pb2_grpc as rpc
from interplant.core.contract import Column, Condition
from interplant.core.errors import InterplantError, Refusal, UsageError
from interplant.core.flower import refusal
from interplant.core.schema import Plant, Task, Window
from interplant.privacy.ledger import Ledger

from .conftest import OPEN, START, TASK, FakeTrainer, edit, request

SECONDS = 20
BODY = wire.to_bytes({f"weights/{name}": array for name, array in START.items()})


class Liar(rpc.CoordinatorServicer):
    """Serves whatever a test wants, and keeps what it hears."""

    def __init__(self) -> None:
        self.notices: list[pb.Notice] = []
        self.pieces: Callable[[], Iterator[bytes]] = lambda: iter([BODY])
        self.heard: list[Any] = []
        self.told = threading.Event()

    def Watch(self, hello: pb.Hello, context: Any) -> Iterator[pb.Notice]:
        yield from self.notices
        while context.is_active():
            self.told.wait(0.1)

    def Fetch(self, asked: pb.FetchRequest, context: Any) -> Iterator[pb.Piece]:
        for data in self.pieces():
            yield pb.Piece(data=data)

    def Offer(self, parcel: pb.Parcel, context: Any) -> pb.Answer:
        self.heard.append(parcel)
        return pb.Answer(want=pb.Answer.KEEP)

    def Deployed(self, word: pb.Deployment, context: Any) -> pb.Empty:
        self.heard.append(word)
        return pb.Empty()


@pytest.fixture
def liar(
    bare: PlantDirectory, authority: certificates.Issuer, certify: Callable[..., None]
) -> Iterator[Liar]:
    """A coordinator with the federation's own certificate, which the plant trusts."""
    key = certificates.make_key()
    lifetime = timedelta(hours=1)
    pem = certificates.issue(
        authority, key.public_key(), "server", "test", lifetime=lifetime, hosts=["127.0.0.1"]
    )
    credentials = grpc.ssl_server_credentials(
        [(certificates.key_pem(key), pem)], authority.pem, require_client_auth=True
    )
    server, made = grpc.server(futures.ThreadPoolExecutor(8)), Liar()
    rpc.add_CoordinatorServicer_to_server(made, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    certify(bare)
    edit(bare, lambda plant: setattr(plant.connection, "coordinator", f"127.0.0.1:{port}"))
    yield made
    server.stop(None).wait(SECONDS)


@pytest.fixture
def link(bare: PlantDirectory, liar: Liar) -> Iterator[Link]:
    made = Link(bare)
    yield made
    made.close()


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- blobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../ledger.db", "../../elsewhere/cron", "/tmp/interplant-liar", "", "..", "A" * 64]
)
def test_a_blobs_name_cannot_lead_to_another_file(
    link: Link, bare: PlantDirectory, tmp_path: Path, name: str
) -> None:
    victim = bare.path / "ledger.db.part"
    victim.write_bytes(b"the plant's own")
    before = everything(tmp_path)
    with pytest.raises(InterplantError, match="expected a SHA-256"):
        link.fetch(pb.Blob(sha256=name, size=10), bare.fetched / name)
    assert everything(tmp_path) == before
    assert not Path("/tmp/interplant-liar.part").exists()


def test_a_stream_without_end_is_cut_where_the_blob_should_end(
    link: Link, liar: Liar, bare: PlantDirectory
) -> None:
    given = []

    def without_end() -> Iterator[bytes]:
        while True:
            given.append(1)
            yield b"x" * 1000

    liar.pieces = without_end
    blob = pb.Blob(sha256=hashlib.sha256(b"x").hexdigest(), size=5000)
    with pytest.raises(InterplantError, match="another digest"):
        link.fetch(blob, bare.fetched / blob.sha256)
    assert everything(bare.fetched) == {}


def test_a_blob_that_no_disk_should_take_is_not_asked_for(
    link: Link, liar: Liar, bare: PlantDirectory
) -> None:
    liar.pieces = lambda: pytest.fail("it was asked for")
    with pytest.raises(InterplantError, match="at most"):
        link.fetch(pb.Blob(sha256="a" * 64, size=LARGEST + 1), bare.fetched / ("a" * 64))


# --- the agent -------------------------------------------------------------------------------------


@pytest.fixture
def agent(bare: PlantDirectory, liar: Liar, fake: FakeTrainer) -> Iterator[Agent]:
    """An agent with a link, whose work is called by hand."""
    made = Agent(bare, fake)
    made._link = Link(bare)
    yield made
    made._link.close()


def work(task: Task = TASK, message_id: str = "run-1.1.7", body: bytes = BODY, **words: Any) -> pb.Parcel:
    """Work as a coordinator sends it."""
    made = wire.to_parcel(request(task, START), wire.blob_of(body))
    made.message_id = message_id
    for name, value in words.items():
        setattr(made, name, value)
    return made


def test_a_reply_says_only_what_it_must(agent: Agent, liar: Liar) -> None:
    agent._do(work())
    (parcel,) = liar.heard
    assert {field.name for field, _ in parcel.ListFields()} == {
        "reply_to", "records", "body", "inline"
    }  # fmt: skip
    agent._do(work(replace(TASK, name="other"), "run-1.2.7"))
    assert {field.name for field, _ in liar.heard[1].ListFields()} == {"reply_to", "error"}


def test_a_message_sent_twice_is_trained_once_whatever_weights_it_brings(
    agent: Agent, liar: Liar, fake: FakeTrainer
) -> None:
    agent._do(work())
    other = wire.to_bytes({f"weights/{name}": array + 1 for name, array in START.items()})
    liar.pieces = lambda: iter([other])
    agent._do(work(body=other))
    assert len(fake.trained) == 1
    assert liar.heard[0] == liar.heard[1]


@pytest.mark.parametrize("kind", ["evaluate", "query", "train.more", "system", ""])
def test_only_training_can_be_asked_for(agent: Agent, liar: Liar, fake: FakeTrainer, kind: str) -> None:
    agent._do(work(message_type=kind))
    assert (fake.trained, [heard.error for heard in liar.heard]) == ([], ["internal"])


def test_pieces_of_other_blobs_do_not_pile_up(agent: Agent, liar: Liar, bare: PlantDirectory) -> None:
    """A stream that always breaks before its end leaves a part; the next message removes it."""

    def breaks() -> Iterator[bytes]:
        yield BODY[:-1]
        raise RuntimeError

    liar.pieces = breaks
    for number in range(1, 5):
        body = BODY + bytes([number])
        with pytest.raises(AwayError):
            agent._do(work(message_id=f"run-1.{number}.7", body=body))
    assert len(everything(bare.fetched)) == 1


@pytest.mark.parametrize(("report", "told"), [("nothing", 0), ("verdict", 1)])
def test_a_persons_approval_is_told_only_where_the_policy_says_so(
    agent: Agent, liar: Liar, bare: PlantDirectory, report: str, told: int
) -> None:
    """The second report of a release, coming when it is approved, would say that it is."""
    edit(bare, lambda plant: setattr(plant.policy.release, "report", report))
    verdicts.record(bare, "r-1", Verdict(verdicts.ACTIVE, "", "approved by a person"))
    bare.champion.write_text(json.dumps(vars(Champion("r-1", None, "2025"))))
    agent._releases.look()
    while not agent._jobs.empty():
        agent._jobs.get()()
    assert len(liar.heard) == told


# --- what is asked of the data ---------------------------------------------------------------------


def ranged(low: float, high: float, **words: Any) -> Task:
    sensors = {"health": Column("share", low, high)}
    return replace(TASK, contract=replace(TASK.contract, sensors=sensors), **words)


@pytest.mark.parametrize(
    "other",
    [
        ranged(-1.0, 1.001),
        replace(TASK, contract=replace(TASK.contract, label="hours")),
        replace(TASK, contract=replace(TASK.contract, conditions=[Condition("hot", {}, {"health": [0, 1]})])),
        replace(TASK, window=Window(1)),
        replace(TASK, window=Window(4, 2)),
        replace(TASK, target=replace(TASK.target, cap=21.0)),
        replace(TASK, split=replace(TASK.split, holdout=0.5)),
        replace(TASK, privacy=replace(TASK.privacy, unit="unit")),
    ],
)
def test_a_private_task_cannot_come_back_with_other_questions_about_the_data(
    bare: PlantDirectory, fake: FakeTrainer, other: Task
) -> None:
    """Each refusal of a contract is an exact answer about readings that no budget pays for."""
    edit(bare, allow_machines)
    assert not take_part(bare, fake, request(TASK, START)).has_error()
    answer = take_part(bare, fake, request(other, START, 2))
    assert answer.has_error()
    assert refusal(answer) == "policy_terms"
    assert not take_part(PlantDirectory(bare.path), fake, request(TASK, START, 3)).has_error()
    assert len(fake.trained) == 2


def allow_machines(plant: Plant) -> None:
    plant.policy.privacy.units, plant.data.declared_units = ["window", "unit"], 3


def test_a_first_refusal_holds_a_task_to_its_terms_too(ready: PlantDirectory, fake: FakeTrainer) -> None:
    fake.fail = Refusal("contract")
    assert refusal(take_part(ready, fake, request(ranged(5.0, 6.0), START))) == "contract"
    fake.fail = None
    assert refusal(take_part(ready, fake, request(TASK, START))) == "policy_terms"


def test_training_may_change_and_other_tasks_have_their_own_terms(bare: PlantDirectory) -> None:
    edit(bare, lambda plant: plant.policy.tasks.append("other"))
    policy.hold_to_terms(bare, TASK)
    policy.hold_to_terms(bare, replace(TASK, rounds=99, seed=3, training=replace(TASK.training, steps=1)))
    policy.hold_to_terms(bare, ranged(0.0, 2.0, name="other"))
    policy.hold_to_terms(bare, TASK)


def test_the_plants_people_agree_to_new_terms_by_hand(bare: PlantDirectory) -> None:
    policy.hold_to_terms(bare, TASK)
    with pytest.raises(Refusal, match="remove 'wear' from"):
        policy.hold_to_terms(bare, ranged(0.0, 2.0))
    known = json.loads(bare.terms.read_text())
    del known["wear"]
    bare.terms.write_text(json.dumps(known))
    policy.hold_to_terms(bare, ranged(0.0, 2.0))
    bare.terms.write_text("[")
    with pytest.raises(Refusal, match="damaged"):
        policy.hold_to_terms(bare, TASK)


def test_without_privacy_nothing_is_held_back(bare: PlantDirectory) -> None:
    policy.hold_to_terms(bare, OPEN)
    policy.hold_to_terms(bare, replace(OPEN, window=Window(1)))
    assert not bare.terms.exists()


# --- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["x" * 5000, "../run", "", "a\nb", "a b"])
def test_a_run_has_a_short_plain_name_in_the_ledger(
    bare: PlantDirectory, fake: FakeTrainer, run: str
) -> None:
    assert refusal(take_part(bare, fake, request(TASK, START, run=run))) == "task_invalid"
    assert fake.trained == []


def test_the_environment_does_not_leave_by_a_task(
    bare: PlantDirectory, fake: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epsilon is told, and follows from the noise: noise read from the environment would tell that."""
    monkeypatch.setenv("INTERPLANT_PIN", "1.7351")
    content = json.loads(config.to_json(TASK))
    content["privacy"]["noise"] = "${oc.env:INTERPLANT_PIN}"
    reply = take_part(bare, fake, request(TASK, START, text=json.dumps(content)))
    assert refusal(reply) == "task_invalid"
    assert fake.trained == []


@pytest.mark.parametrize(
    "privacy", [{"noise": 1e6}, {"noise": 1e-300}, {"clip": 1e-40}, {"noise": float("inf")}]
)
def test_numbers_without_digits_left_are_refused_before_the_accountant(
    bare: PlantDirectory, fake: FakeTrainer, privacy: dict[str, float]
) -> None:
    content = json.loads(config.to_json(TASK))
    content["privacy"] |= privacy
    reply = take_part(bare, fake, request(TASK, START, text=json.dumps(content)))
    assert refusal(reply) == "task_invalid"


def test_steps_without_end_are_refused(bare: PlantDirectory, fake: FakeTrainer) -> None:
    content = json.loads(config.to_json(TASK))
    content["training"]["steps"] = 10**9
    assert refusal(take_part(bare, fake, request(TASK, START, text=json.dumps(content)))) == "task_invalid"


def test_a_join_file_cannot_have_the_plant_look_anything_up(
    tmp_path: Path, authority: certificates.Issuer
) -> None:
    """Its address is dialled later: a name made of the environment would be asked of the resolver."""
    path = tmp_path / "north.join"
    words = {name: "x" for name in ("federation", "plant", "authority", "release-key", "certificate", "key")}
    path.write_text(json.dumps({"interplant-join": 1, "coordinator": "${oc.env:HOME}.example:7443"} | words))
    with pytest.raises(UsageError, match="no plain 'coordinator'"):
        read_join_file(path)


def test_weights_that_are_not_finite_give_no_update(ready: PlantDirectory) -> None:
    from interplant.client.trainer import InlineTrainer

    start = {name: np.full_like(array, np.nan) for name, array in START.items()}
    reply = take_part(ready, InlineTrainer(ready), request(TASK, start))
    assert refusal(reply) == "model_unfit"
    assert not Ledger(ready.ledger).entries()


def test_plant_policy_is_never_written_by_a_round(bare: PlantDirectory, fake: FakeTrainer) -> None:
    before = bare.config.read_bytes()
    take_part(bare, fake, request(TASK, START))
    settings: Plant = bare.load()
    assert bare.config.read_bytes() == before
    assert settings.policy.tasks == ["wear"]
