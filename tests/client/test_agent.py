"""The agent against a scripted coordinator, over real TLS: it pays once, and comes back by itself."""

import json
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.app import ConfigRecord

from interplant.client import agent as module
from interplant.client import champion as pointers
from interplant.client import connection, deployment, policy, proposals, receiving, verdicts
from interplant.client.agent import Agent
from interplant.client.directory import PlantDirectory
from interplant.client.outbox import Outbox
from interplant.client.trained import Trained
from interplant.core import blobs, certificates, processes, signing, wire
from interplant.core import federation_pb2 as pb
from interplant.core.compression import unpack
from interplant.core.files import write_atomic
from interplant.core.tensors import UPDATE, Tensors, in_record, of_record

from ..waiting import until
from .conftest import START, TASK, FakeTrainer, audited, edit, request
from .coordinator import Refusing, Scripted
from .federation import Federation, settle

RELEASE = {"card.md": b"a card", "weights.safetensors": b"weights"}


class Running:
    """An agent in a thread of its own."""

    def __init__(self, plant: PlantDirectory, trainer: FakeTrainer) -> None:
        self.agent = Agent(plant, trainer)
        self.codes: list[int] = []
        self.thread = threading.Thread(target=lambda: self.codes.append(self.agent.run()))
        self.thread.start()

    def stop(self) -> None:
        self.agent._stopping.set()
        self.join()

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def start(
    joined: PlantDirectory, fake: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Running]]:
    """Start an agent; the one before has ended."""
    monkeypatch.setattr(module, "_TICK", 0.02)
    started: list[Running] = []

    def begin() -> Running:
        for one in started:
            one.stop()
        started.append(Running(joined, fake))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


@pytest.fixture
def running(start: Callable[[], Running], coordinator: Scripted) -> Running:
    """An agent that is connected."""
    made = start()
    until(lambda: coordinator.connections)
    return made


def ring(coordinator: Scripted, number: int = 1, run: str = "run-1") -> str:
    """Send work; return its message's id."""
    message_id = f"{run}.{number}.7"
    coordinator.send(work=coordinator.work(request(TASK, START, number, run=run).content, message_id))
    return message_id


def kept(plant: PlantDirectory) -> list[str]:
    return sorted(path.stem for path in plant.outbox.glob("*.parcel"))


def rest(running: Running) -> None:
    """Wait until the agent has done what it was given."""
    done = threading.Event()
    running.agent._jobs.put(done.set)
    assert done.wait(20)


# --- a round ---------------------------------------------------------------------------------------


def test_work_is_answered_logged_and_kept_until_it_is_settled(
    running: Running, coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer
) -> None:
    message_id = ring(coordinator, 2)
    until(lambda: message_id in coordinator.bodies)
    rest(running)
    assert fake.trained == [("run-1", 2)]
    np.testing.assert_array_equal(coordinator.reply(message_id)["shift"], [2.0])
    assert [(line["what"], line["message"]) for line in audited(joined)] == [("update", message_id)]
    assert kept(joined) == [message_id]
    coordinator.send(settled=pb.Settled(run="run-1", round=1))
    coordinator.send(settled=pb.Settled(run="other", round=9))
    ring(coordinator, 3)
    until(lambda: len(kept(joined)) == 2)
    coordinator.send(settled=pb.Settled(run="run-1", round=2))
    until(lambda: kept(joined) == ["run-1.3.7"])


def test_a_reply_that_is_not_wanted_is_dropped(
    running: Running, coordinator: Scripted, joined: PlantDirectory
) -> None:
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.DROP)
    ring(coordinator)
    until(lambda: coordinator.offers)
    until(lambda: not any(joined.outbox.iterdir()))


def in_a_file(
    fake: FakeTrainer, plant: PlantDirectory, value: float, patch: pytest.MonkeyPatch, **notes: str
) -> None:
    """Have the trainer's updates lie in a file, as a trainer process leaves them."""
    train = fake.train

    def write(*words: Any) -> Trained:
        trained, path = train(*words), plant.fetched / "update.job"
        update = {name: np.full_like(array, value) for name, array in trained.update.items()}
        blobs.save(path, in_record(UPDATE, update), notes)
        return replace(trained, update=of_record(UPDATE, blobs.load(path)))

    patch.setattr(fake, "train", write)
    patch.setattr(wire, "INLINE", 0)


def test_an_update_in_a_file_is_kept_and_sent_as_it_is(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_a_file(fake, joined, 4.5, monkeypatch)
    message_id = ring(coordinator)
    until(lambda: message_id in coordinator.bodies)
    rest(running)
    np.testing.assert_array_equal(coordinator.reply(message_id)["shift"], [4.5])
    assert (joined.outbox / f"{message_id}.body").read_bytes() == coordinator.bodies[message_id]
    assert [path.name for path in joined.fetched.iterdir()] == [coordinator.fetches[0][0]]


def test_notes_beside_an_update_do_not_leave_with_its_file(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the file that a trainer left, the gateway has seen the arrays."""
    in_a_file(fake, joined, 4.5, monkeypatch, rows="4711")
    message_id = ring(coordinator)
    until(lambda: message_id in coordinator.bodies)
    np.testing.assert_array_equal(coordinator.reply(message_id)["shift"], [4.5])
    assert b"4711" not in coordinator.bodies[message_id]


def test_an_update_that_the_gateway_holds_back_does_not_stay_in_its_file(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_a_file(fake, joined, math.nan, monkeypatch)
    ring(coordinator)
    until(lambda: coordinator.offers)
    rest(running)
    assert coordinator.offers[0].error == "gateway"
    assert [path.name for path in joined.fetched.iterdir()] == [coordinator.fetches[0][0]]


def test_the_same_work_rung_twice_trains_once(
    running: Running, coordinator: Scripted, fake: FakeTrainer
) -> None:
    go_on = threading.Event()
    fake.before = lambda: go_on.wait(20)
    message_id = ring(coordinator)
    ring(coordinator)
    coordinator.send(settled=pb.Settled(run="none", round=1))
    go_on.set()
    until(lambda: message_id in coordinator.bodies)
    rest(running)
    assert len(coordinator.offers) == 1
    ring(coordinator)
    until(lambda: len(coordinator.offers) == 2)
    rest(running)
    assert fake.trained == [("run-1", 1)]
    assert coordinator.offers[0].body == coordinator.offers[1].body


def test_a_packed_reply_is_kept_and_sent_again_as_it_is(
    start: Callable[[], Running], coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer
) -> None:
    """What packing left of it is added to the next update, once, however often the reply is sent."""
    model = {"w": np.zeros(50, np.float32)}
    offer = {"update": "top_k", "model": "none", "keep": 0.1, "codec": "none", "base": "", "digest": ""}

    def work(number: int) -> str:
        content, message_id = request(TASK, model, number).content, f"run-1.{number}.7"
        content["compression"] = ConfigRecord(offer)
        coordinator.send(work=coordinator.work(content, message_id))
        return message_id

    def update(message_id: str) -> Tensors:
        return unpack("top_k", coordinator.reply(message_id)["packed"].tobytes(), model, 0.1)

    first = start()
    until(lambda: coordinator.connections)
    message_id = work(1)
    until(lambda: message_id in coordinator.bodies)
    first.stop()
    second = start()
    until(lambda: len(coordinator.offers) == 2)
    work(1)
    until(lambda: len(coordinator.offers) == 3)
    rest(second)
    assert fake.trained == [("run-1", 1)]
    assert len({offer.body.sha256 for offer in coordinator.offers}) == 1
    np.testing.assert_array_equal(update(message_id)["w"], [1.0] * 5 + [0.0] * 45)
    last = work(2)
    until(lambda: last in coordinator.bodies)
    np.testing.assert_array_equal(update(last)["w"], [0.0] * 5 + [3.0] * 5 + [0.0] * 40)


def test_a_refusal_is_told_logged_and_not_kept(
    running: Running, coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer
) -> None:
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.DROP)
    policy.pause(joined)
    message_id = ring(coordinator)
    until(lambda: coordinator.offers)
    (offer,) = coordinator.offers
    assert (offer.reply_to, offer.error, offer.records) == (message_id, "paused", b"")
    assert [(line["what"], line["code"]) for line in audited(joined)] == [("refusal", "paused")]
    rest(running)
    assert not any(joined.outbox.iterdir())
    policy.resume(joined)
    coordinator.answer = lambda _: pb.Answer(want=pb.Answer.SEND)
    ring(coordinator)
    until(lambda: coordinator.bodies)
    assert fake.trained == [("run-1", 1)]


def test_work_that_cannot_be_had_does_not_stop_the_next(
    running: Running, coordinator: Scripted, fake: FakeTrainer
) -> None:
    other = {name: array + 9 for name, array in START.items()}
    lost = coordinator.work(request(TASK, other).content, "run-1.1.7")
    del coordinator.blobs[lost.body.sha256]
    coordinator.send(work=lost)
    odd = pb.Parcel(message_id="run-1.1.8", body=coordinator.blob(b"no tensors"), message_type="train")
    coordinator.send(work=odd)
    coordinator.send(settled=pb.Settled(run="run-1", round=0))
    message_id = ring(coordinator, 2)
    until(lambda: message_id in coordinator.bodies)
    assert fake.trained == [("run-1", 2)]
    assert len(coordinator.dialled) == 1
    refused = [(offer.reply_to, offer.error) for offer in coordinator.offers if offer.error]
    assert refused == [("run-1.1.8", "internal")], "who asked is not left waiting"


def test_blobs_do_not_pile_up(running: Running, coordinator: Scripted, joined: PlantDirectory) -> None:
    for number in (1, 2, 3):
        coordinator.send(
            work=coordinator.work(
                request(TASK, {name: array + number for name, array in START.items()}, number).content,
                f"run-1.{number}.7",
            )
        )
    until(lambda: len(coordinator.bodies) == 3)
    assert len(list(joined.fetched.iterdir())) == 1


# --- away and back ---------------------------------------------------------------------------------


def test_a_reply_made_while_the_coordinator_is_away_is_offered_on_return(
    running: Running, coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer
) -> None:
    go_on = threading.Event()
    fake.before = lambda: go_on.wait(20)
    message_id = ring(coordinator)
    until(lambda: coordinator.fetches)
    coordinator.stop()
    until(lambda: connection._noted(joined).state == connection.AWAY)  # type: ignore[union-attr]
    go_on.set()
    until(lambda: kept(joined) == [message_id])
    rest(running)
    coordinator.start(coordinator.port)
    until(lambda: message_id in coordinator.bodies)
    ring(coordinator)
    until(lambda: len(coordinator.offers) == 2)
    rest(running)
    assert fake.trained == [("run-1", 1)]
    assert connection._noted(joined).state == connection.CONNECTED  # type: ignore[union-attr]


def test_a_reply_kept_by_an_earlier_process_is_offered_and_not_trained_again(
    start: Callable[[], Running], coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer
) -> None:
    first = start()
    until(lambda: coordinator.connections)
    message_id = ring(coordinator)
    until(lambda: message_id in coordinator.bodies)
    first.stop()
    coordinator.offers.clear()
    coordinator.bodies.clear()
    second = start()
    until(lambda: message_id in coordinator.bodies)
    ring(coordinator)
    until(lambda: len(coordinator.offers) == 2)
    rest(second)
    assert fake.trained == [("run-1", 1)]
    assert Outbox(joined.outbox).find(message_id) is not None


class Waits(threading.Event):
    """Remembers how long it was waited for, and waits a little."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        if timeout != module._LOOK and timeout is not None:
            self.seconds.append(timeout)
            timeout = min(timeout, 0.005)
        return super().wait(timeout)


def pauses(start: Callable[[], Running], count: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, in units of the first."""
    waits = Waits()
    really = Agent.__init__

    def watched(self: Agent, plant: PlantDirectory, trainer: FakeTrainer) -> None:
        really(self, plant, trainer, waits)

    monkeypatch.setattr(Agent, "__init__", watched)
    start()
    until(lambda: len(waits.seconds) >= count)
    return [seconds / 0.5 for seconds in waits.seconds[:count]]


@pytest.fixture
def slowly(joined: PlantDirectory) -> None:
    edit(joined, lambda plant: setattr(plant.connection, "backoff_max_seconds", 3.0))
    edit(joined, lambda plant: setattr(plant.connection, "backoff_seconds", 0.5))


def test_tries_are_ever_further_apart_and_spread(
    start: Callable[[], Running], coordinator: Scripted, slowly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.refusing = Refusing()
    found = pauses(start, 8, monkeypatch)
    shares = [pause / full for pause, full in zip(found, [1, 2, 4, 6, 6, 6, 6, 6], strict=True)]
    assert all(0.5 <= share <= 1.0 for share in shares), found
    assert len(set(shares)) == len(shares)


def test_tries_that_take_long_are_no_good_connections(
    start: Callable[[], Running], coordinator: Scripted, slowly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a firewall swallows every packet, each try takes long; the pauses grow all the same."""
    monkeypatch.setattr(module, "_SETTLED_CONNECTION", 0.05)

    def swallowed(*_: Any) -> None:
        time.sleep(0.1)
        raise module.AwayError("nothing came back")

    monkeypatch.setattr(Agent, "_listen", swallowed)
    found = pauses(start, 4, monkeypatch)
    assert found[2] >= 2 and found[3] >= 3, found  # noqa: PT018


def test_after_a_good_connection_the_first_pause_is_short(
    start: Callable[[], Running], coordinator: Scripted, slowly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLED_CONNECTION", 0.05)

    def breaks(agent: Agent, _: Any) -> None:
        agent._heed(pb.Notice(welcome=pb.Welcome(federation="test")))
        time.sleep(0.1)
        raise module.AwayError("it broke")

    monkeypatch.setattr(Agent, "_listen", breaks)
    assert all(pause <= 1 for pause in pauses(start, 4, monkeypatch))


def test_the_reason_is_logged_once_however_long_it_lasts(
    start: Callable[[], Running], coordinator: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.refusing = Refusing()
    start()
    until(lambda: len(coordinator.dialled) >= 4)
    assert len([line for line in caplog.messages if "trying again" in line]) == 1


@pytest.mark.parametrize("run", ["odd", "", "run-1"])
def test_a_settlement_of_an_odd_run_does_not_end_the_stream(
    running: Running, coordinator: Scripted, joined: PlantDirectory, run: str
) -> None:
    outbox = Outbox(joined.outbox)
    for message_id in ("odd", "odd.x"):
        outbox.keep(pb.Parcel(reply_to=message_id), START)
    coordinator.send(settled=pb.Settled(run=run, round=2**63))
    message_id = ring(coordinator)
    until(lambda: message_id in coordinator.bodies)
    assert running.thread.is_alive()


# --- turned away -----------------------------------------------------------------------------------


def test_a_plant_that_is_turned_away_ends_and_says_why(
    start: Callable[[], Running],
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    coordinator.refusing = Refusing(grpc.StatusCode.PERMISSION_DENIED, "north is revoked")
    running = start()
    running.join()
    assert running.codes == [processes.HOPELESS]
    assert capsys.readouterr().out == f"{coordinator.address}: north is revoked\n"
    noted = connection._noted(joined)
    assert noted is not None
    assert (noted.state, noted.reason) == (connection.TURNED_AWAY, f"{coordinator.address}: north is revoked")
    assert fake.closed
    assert len(coordinator.dialled) == 1


def test_the_process_says_one_line_and_exits_with_3(coordinator: Scripted, joined: PlantDirectory) -> None:
    coordinator.refusing = Refusing(grpc.StatusCode.FAILED_PRECONDITION, "the plant's clock is 900 s behind")
    command = processes.python_module("interplant.client.agent", str(joined.path))
    environment = os.environ | {"INTERPLANT_PARENT": str(os.getpid())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 3
    assert done.stdout == f"{coordinator.address}: the plant's clock is 900 s behind\n"
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_none_is_words_that_are_wrong(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module.processes, "follow_parent", lambda: None)
    monkeypatch.setattr(module.processes.logs, "setup", lambda: None)
    monkeypatch.setattr(module.processes, "on_stop_signals", lambda _: None)
    assert module.main([str(tmp_path)]) == 2
    assert capsys.readouterr().out.count("\n") == 1


# --- releases --------------------------------------------------------------------------------------


@pytest.fixture
def trusting(joined: PlantDirectory) -> None:
    joined.release_public_key.write_bytes(signing.public_pem(signing.make_key().public_key()))


def offer(coordinator: Scripted, release: str = "r-1", **files: bytes) -> None:
    named = [pb.File(name=name, blob=coordinator.blob(data)) for name, data in (files or RELEASE).items()]
    coordinator.send(release=pb.Release(id=release, task="wear", files=named))


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch, joined: PlantDirectory, fake: FakeTrainer) -> dict[str, Any]:
    """Releases that are found good, with the files that were there to check."""
    found: dict[str, Any] = {}

    def accept(plant: PlantDirectory, release: str) -> None:
        found[release] = {
            path.name: path.read_bytes() for path in receiving.incoming(plant, release).iterdir()
        }
        (plant.releases / release).mkdir()

    def try_release(release: str) -> None:
        fake.tried.append(release)
        verdicts.record(
            joined, release, verdicts.Verdict("refused", "worse", "9 cycles worse", {"rmse": 9.0})
        )

    monkeypatch.setattr(receiving, "accept", accept)
    fake.try_release = try_release  # type: ignore[method-assign]
    return found


def test_a_release_is_fetched_checked_tried_and_reported_without_figures(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    accepted: dict[str, Any],
) -> None:
    offer(coordinator)
    until(lambda: coordinator.deployed)
    assert accepted == {"r-1": RELEASE}
    assert fake.tried == ["r-1"]
    assert coordinator.deployed == [("r-1", "received", "")], "the default tells no verdict"
    (line,) = audited(joined)
    assert (line["what"], line["state"], line["code"]) == ("deployment", "received", "")
    assert "9" not in json.dumps({key: value for key, value in line.items() if key != "time"})


def test_a_known_release_is_reported_again_and_not_fetched(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    accepted: dict[str, Any],
) -> None:
    edit(joined, lambda plant: setattr(plant.policy.release, "report", "verdict"))
    offer(coordinator)
    until(lambda: coordinator.deployed)
    fetched = len(coordinator.fetches)
    coordinator.hang_up()
    until(lambda: len(coordinator.connections) == 2)
    offer(coordinator)
    until(lambda: len(coordinator.deployed) == 2)
    assert coordinator.deployed == [("r-1", "refused", "worse")] * 2
    assert fake.tried == ["r-1"]
    assert len(coordinator.fetches) == fetched


def test_another_release_of_a_known_name_is_neither_fetched_nor_reported(
    running: Running, coordinator: Scripted, joined: PlantDirectory, accepted: dict[str, Any]
) -> None:
    offer(coordinator)
    until(lambda: coordinator.deployed)
    (joined.releases / "r-1" / "manifest.json").write_bytes(b"what came first")
    offer(coordinator, **{"manifest.json": b"another"})
    offer(coordinator, "r-2")
    until(lambda: len(coordinator.deployed) == 2)
    assert [release for release, *_ in coordinator.deployed] == ["r-1", "r-2"]
    assert set(accepted) == {"r-1", "r-2"}


def test_what_a_person_wants_tried_again_is_tried_and_told_only_if_it_may_be(
    running: Running,
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    accepted: dict[str, Any],
) -> None:
    offer(coordinator)
    until(lambda: coordinator.deployed)
    deployment.retry(joined, "r-1")
    until(lambda: len(fake.tried) == 2)
    until(lambda: verdicts.verdict_of(joined, "r-1"))
    shutil.rmtree(joined.releases / "r-1")
    edit(joined, lambda plant: setattr(plant.policy.release, "report", "verdict"))
    deployment.retry(joined, "r-1")
    until(lambda: len(coordinator.deployed) > 1)
    assert coordinator.deployed == [("r-1", "received", ""), ("r-1", "refused", "worse")]
    assert fake.tried == ["r-1"] * 3


def test_a_release_that_is_not_signed_is_refused_and_never_tried(
    running: Running, coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer, trusting: None
) -> None:
    offer(coordinator)
    until(lambda: coordinator.deployed)
    ((release, state, code),) = coordinator.deployed
    assert (release, state) == ("r-1", "refused")
    assert code in ("signature", "tampered")
    assert fake.tried == []
    assert not (joined.releases / "r-1").exists()
    assert pointers.champion(joined) is None


def test_names_of_a_release_cannot_leave_its_folder(
    running: Running, coordinator: Scripted, joined: PlantDirectory, fake: FakeTrainer, trusting: None
) -> None:
    before = joined.config.read_bytes()
    offer(coordinator, "r-1", **{"../../../plant.yaml": b"policy: {}", "/tmp/escaped": b"x"})
    until(lambda: coordinator.deployed)
    offer(coordinator, "../outbox", **RELEASE)
    message_id = ring(coordinator)
    until(lambda: message_id in coordinator.bodies)
    assert joined.config.read_bytes() == before
    assert not Path("/tmp/escaped").exists()
    assert fake.tried == []


def test_a_release_whose_fetch_broke_is_taken_up_again(
    running: Running, coordinator: Scripted, fake: FakeTrainer, accepted: dict[str, Any]
) -> None:
    def breaks(data: bytes) -> Iterator[bytes]:
        coordinator.sends = lambda data: iter([data])
        yield data[:3]
        context_is_gone = "on purpose"
        raise RuntimeError(context_is_gone)

    coordinator.sends = breaks
    offer(coordinator)
    until(lambda: coordinator.fetches)
    rest(running)
    assert accepted == {}
    offer(coordinator)
    until(lambda: coordinator.deployed)
    assert accepted == {"r-1": RELEASE}
    assert coordinator.fetches[1][1] == 3, "it went on where it had stopped"


def test_a_release_that_was_not_tried_before_a_death_is_tried_at_the_next_start(
    start: Callable[[], Running],
    coordinator: Scripted,
    joined: PlantDirectory,
    fake: FakeTrainer,
    accepted: Any,
) -> None:
    (joined.releases / "r-0").mkdir(parents=True)
    start()
    until(lambda: coordinator.deployed)
    assert fake.tried == ["r-0"]


def test_what_a_person_approves_is_told_if_verdicts_may_be_known(
    running: Running, coordinator: Scripted, joined: PlantDirectory
) -> None:
    edit(joined, lambda plant: setattr(plant.policy.release, "report", "verdict"))
    champion = json.dumps({"release": "r-1", "previous": None, "since": "now"})
    write_atomic(joined.champion, champion)
    verdicts.record(joined, "r-1", verdicts.Verdict("active", "", "approved"))
    until(lambda: coordinator.deployed)
    assert coordinator.deployed == [("r-1", "active", "")]


def test_the_federations_word_is_heeded_at_once_and_its_result_told(
    coordinator: Scripted,
    federation: Federation,
    certify: Callable[..., None],
    fake: FakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TICK", 0.02)
    plant = federation.plant
    certify(plant)
    edit(plant, lambda one: setattr(one.connection, "coordinator", coordinator.address))
    settle(plant, release__report="verdict", release__rollback="obey")
    for name, shift in (("r-0", 0.2), ("r-1", 0.1)):
        assert federation.try_out(federation.make(name, shift)).state == "active"
    agent = Running(plant, fake)
    try:
        until(lambda: len(coordinator.deployed) == 2)
        assert sorted(coordinator.deployed) == [("r-0", "superseded", ""), ("r-1", "active", "")]
        coordinator.send(rollback=pb.Rollback(release="r-1", to="r-0"))
        until(lambda: len(coordinator.deployed) == 4)
        assert sorted(coordinator.deployed[2:]) == [
            ("r-0", "active", ""),
            ("r-1", "rolled_back", "called_back"),
        ]
        coordinator.send(rollback=pb.Rollback(release="../x", to="r-0"))
        coordinator.send(rollback=pb.Rollback(release="r-0", to="../x"))
        coordinator.send(rollback=pb.Rollback(release="r-9", to=""))
        until(lambda: verdicts.verdict_of(plant, "r-9"))
        champion = pointers.champion(plant)
        assert champion is not None
        assert champion.release == "r-0"
        assert len(coordinator.connections) == 1, "a wrong word ends no connection"
    finally:
        agent.stop()


def test_a_plant_yaml_that_is_being_written_does_not_end_the_agent(
    running: Running, coordinator: Scripted, joined: PlantDirectory
) -> None:
    whole = joined.config.read_bytes()
    joined.config.write_bytes(b"")
    time.sleep(0.2)
    joined.config.write_bytes(whole)
    assert running.thread.is_alive()
    assert len(coordinator.connections) == 1


# --- chores ----------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_in_time_and_shown(
    start: Callable[[], Running],
    coordinator: Scripted,
    joined: PlantDirectory,
    authority: certificates.Issuer,
) -> None:
    key = certificates.read_key(joined.plant_key)
    earlier = certificates.utc_now() - timedelta(minutes=50)
    old = certificates.issue(
        authority, key.public_key(), "plant", "north", lifetime=timedelta(hours=1), now=earlier
    )
    joined.plant_certificate.write_bytes(old)
    start()
    until(lambda: len(coordinator.connections) >= 2)
    shown = certificates.identity(joined.plant_certificate.read_bytes()).serial
    assert coordinator.serials == [certificates.identity(old).serial, shown]
    time.sleep(0.1)
    assert coordinator.renewals == 1


def test_a_certificate_that_is_not_due_is_left_alone(running: Running, coordinator: Scripted) -> None:
    time.sleep(0.1)
    assert coordinator.renewals == 0


def test_the_trainer_is_warmed_looked_after_and_closed(running: Running, fake: FakeTrainer) -> None:
    until(lambda: fake.warmed == 1 and fake.idle_looks > 1)
    running.stop()
    assert fake.closed
    assert running.codes == [0]


def test_a_stop_does_not_wait_for_the_work(
    running: Running, coordinator: Scripted, fake: FakeTrainer
) -> None:
    go_on, busy = threading.Event(), threading.Event()

    def long() -> None:
        busy.set()
        go_on.wait(200)

    fake.before = long
    ring(coordinator)
    assert busy.wait(60)
    begun = time.monotonic()
    running.stop()
    assert time.monotonic() - begun < 100
    go_on.set()


# --- proposals ---------------------------------------------------------------------------------------


def test_what_the_monitor_proposes_is_told_once_connected_and_logged(
    joined: PlantDirectory, start: Callable[[], Running], coordinator: Scripted
) -> None:
    proposals.propose(joined, "wear", "person", None, datetime.now(UTC))
    start()
    until(lambda: coordinator.proposed)
    until(lambda: not proposals.waiting(joined))
    assert coordinator.proposed == [("wear", "person", None)]
    assert [one["reason"] for one in audited(joined) if one["what"] == "proposal"] == ["person"]
    assert proposals.noted(joined)[-1]["done"]


def test_a_proposal_that_comes_is_told_without_waiting_for_the_next_tick(
    start: Callable[[], Running],
    coordinator: Scripted,
    joined: PlantDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TICK", 3600.0)
    start()
    until(joined.connection.exists)
    proposals.propose(joined, "wear", "person", None, datetime.now(UTC))
    until(lambda: coordinator.proposed)


def test_a_proposal_waits_for_a_coordinator_that_is_away(
    joined: PlantDirectory, start: Callable[[], Running], coordinator: Scripted
) -> None:
    coordinator.stop()
    proposals.propose(joined, "wear", "person", None, datetime.now(UTC))
    start()
    until(lambda: connection.current(joined).reason or joined.connection.exists())
    assert proposals.waiting(joined)
    coordinator.start(coordinator.port)
    until(lambda: coordinator.proposed)
    until(lambda: not proposals.waiting(joined))


def test_a_typo_in_plant_yaml_ends_no_agent_and_is_said_once(
    joined: PlantDirectory,
    start: Callable[[], Running],
    coordinator: Scripted,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = start()
    until(lambda: running.agent._welcomed < math.inf)
    good = joined.config.read_text()
    write_atomic(joined.config, "nmae: north\n")
    until(lambda: "nothing is proposed until that is mended" in caplog.text)
    time.sleep(0.2)  # ten more looks
    write_atomic(joined.config, good)
    proposals.propose(joined, "wear", "person", None, datetime.now(UTC))
    until(lambda: coordinator.proposed)
    assert running.thread.is_alive()
    assert caplog.text.count("nothing is proposed until that is mended") == 1
