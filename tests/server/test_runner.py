"""The round process's work on a run: a real gRPC process, a real registry, plants over TLS."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from interplant.core import federation_pb2 as pb
from interplant.core import wire
from interplant.core.contract import Column, Contract
from interplant.core.schema import Model, Rounds, Strategy, Task
from interplant.server import replies, runner, runs
from interplant.server.replies import StoppedError
from interplant.server.resuming import waiting
from interplant.server.run_folder import RunFolder
from interplant.server.runner import Runner
from interplant.server.selection import Failures
from interplant.strategies.fedavg import FedAvg
from interplant.strategies.registry import REGISTERED

from ..waiting import until
from .conftest import receipt_of

RULES = Rounds(quorum=2, deadline_seconds=20.0, retries=0, retry_seconds=0.01)


def a_task():
    return Task(
        name="wear",
        rounds=3,
        contract=Contract(sensors={"s1": Column("bar", 0.0, 1.0)}),
        model=Model(args={"width": 4, "hidden": 4}),
    )


class Trained:
    """A plant that answers what it is asked: its update is a constant."""

    def __init__(self, caller, name, value=1.0, garble=lambda reply, body: body):
        self.caller, self.name, self.value, self.garble = caller, name, value, garble
        self.seen, self.settled, self.ready = [], [], threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def _work(self):
        try:
            with self.caller.watch() as stream:
                self.ready.set()
                for notice in stream:
                    if notice.HasField("work"):
                        self._answer(notice.work)
                    elif notice.HasField("settled"):
                        self.settled.append(notice.settled.round)
        except (grpc.RpcError, ValueError):
            return

    def _answer(self, work):
        weights = wire.from_bytes(self.caller.body_of(work))
        self.seen.append(work.message_id)
        update = {
            name.replace("weights/", "update/"): np.full_like(array, self.value)
            for name, array in weights.items()
        }
        asked = json.loads(work.records)["config"]["task"]
        receipt = receipt_of(self.name, run=asked["run"], round=asked["round"])
        body = wire.to_bytes(update)
        reply = pb.Parcel(reply_to=work.message_id, message_type="train")
        reply.records = json.dumps({"config": {"receipt": receipt}, "metrics": {}}).encode()
        body = self.garble(reply, body)
        reply.body.CopyFrom(wire.blob_of(body))
        self.caller.deliver(reply, body)


@pytest.fixture
def work(serving, monkeypatch):
    monkeypatch.setattr(replies, "_GRACE", 0.2)
    runner_ = Runner(serving.directory)
    yield runner_
    runner_._channel.close()
    runner_._registry.close()


@pytest.fixture
def registry(serving):
    return serving.service.registry


def next_of(work):
    run = work._next()
    assert run is not None
    return run


def test_a_run_is_carried_out_and_recorded(serving, work, registry):
    plants = [Trained(serving.plant(name), name, value) for name, value in (("north", 1.0), ("south", 2.0))]
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    folder = RunFolder(serving.directory.runs / run.id)
    first = load_file(folder.path / folder.order().start_from)
    work._carry_out(next_of(work))
    found = registry.run(run.id)
    assert (found.state, found.round, found.reason) == ("finished", 3, "")
    for name, array in folder.restore().weights.items():
        np.testing.assert_allclose(array, first[name] + 3 * 1.5, rtol=1e-5)
    recorded = registry.rounds(run.id)
    assert [(one.round, one.attempt, one.participants) for one in recorded] == [
        (number, 1, ("north", "south")) for number in (1, 2, 3)
    ]
    assert all(one.seconds["total"] > 0 and one.dropped == () for one in recorded)
    for plant in plants:
        until(lambda plant=plant: plant.settled[-1:] == [3])
        assert [one.split(".")[1] for one in plant.seen] == ["1", "2", "3"]
    assert not any((serving.directory.spool / "replies").iterdir())
    assert not any((serving.directory.spool / "blobs").iterdir())


@pytest.mark.parametrize(
    ("garble", "code"),
    [
        (lambda reply, body: b"\x80\x04 not tensors", "unreadable"),
        (lambda reply, body: (setattr(reply, "records", b"["), body)[1], "unreadable"),
        (lambda reply, body: (setattr(reply, "records", b"{}"), body)[1], "bad_receipt"),
        (lambda reply, body: b"", "bad_names"),
        (lambda reply, body: wire.to_bytes({"update/w": np.ones(3)}), "bad_names"),
        (lambda reply, body: (setattr(reply, "source", 1), body)[1], None),
    ],
)
def test_a_hostile_plant_is_named_and_the_run_goes_on_without_it(serving, work, registry, garble, code):
    for name, value in (("north", 1.0), ("south", 2.0)):
        Trained(serving.plant(name), name, value)
    Trained(serving.plant("west"), "west", 50.0, garble)
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    started = RunFolder(serving.directory.runs / run.id)
    first = load_file(started.path / started.order().start_from)
    work._carry_out(next_of(work))
    assert registry.run(run.id).state == "finished"
    state = RunFolder(serving.directory.runs / run.id).restore()
    if code is None:  # what it says of itself is not heard: it counts as who its certificate says
        assert set(state.plants) == {"north", "south", "west"}
        return
    for one in registry.rounds(run.id):
        assert one.participants == ("north", "south")
        named = code if one.round < 3 else "resting"  # it failed twice in a row
        assert [(dropped.plant, dropped.code) for dropped in one.dropped] == [("west", named)]
        assert one.dropped[0].sentence
    for name, array in state.weights.items():
        np.testing.assert_allclose(array, first[name] + 3 * 1.5, rtol=1e-5)


def test_a_run_without_quorum_is_paused_with_the_reason_and_resumes(serving, work, registry):
    Trained(serving.plant("north"), "north")
    south = serving.plant("south")
    rules = Rounds(quorum=2, deadline_seconds=0.5, retries=1, retry_seconds=0.01)
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=rules)
    work._carry_out(next_of(work))
    found = registry.run(run.id)
    assert (found.state, found.round) == ("paused", 0)
    assert found.reason.startswith("round 1 found 1 good updates, expected 2: south: ")
    assert found.reason.endswith("; mend it, then `interplant run resume`")
    assert [one.attempt for one in registry.rounds(run.id)] == [1, 2]
    assert list(waiting(serving.directory, registry, "wear", found).plants) == ["south"]
    assert RunFolder(serving.directory.runs / run.id).restore() is None
    Trained(south, "south")
    runs.resume_run(serving.directory, run.id)
    work._carry_out(next_of(work))
    assert registry.run(run.id).state == "finished"


def test_only_a_persons_resume_ends_a_plants_rest(serving, work, registry):
    """South fails twice and rests in round 3: after a kill still, after a stop and `run resume` no more."""
    for name in ("north", "west"):
        Trained(serving.plant(name), name)
    south = Trained(serving.plant("south"), "south", garble=lambda reply, body: b"no tensors")
    run = runs.start_run(serving.directory, replace(a_task(), rounds=4), release=False, rounds=RULES)
    tell = work._tell

    def stop(folder, record):
        tell(folder, record)
        if record["round"] == 2:
            runs.stop_run(serving.directory, run.id)
            raise StoppedError("the run was stopped")

    work._tell = stop
    work._carry_out(next_of(work))
    folder = RunFolder(serving.directory.runs / run.id)
    assert (registry.run(run.id).state, folder.restore().round) == ("stopped", 2)
    registry.update_run(run.id, state="running")
    assert next_of(work).id == run.id, "as after a kill"
    assert Failures.of(folder.records(), folder.forgiven()).resting("south", 3)
    registry.update_run(run.id, state="stopped")
    runs.resume_run(serving.directory, run.id)
    south.garble = lambda reply, body: body
    work._tell = tell
    work._carry_out(next_of(work))
    assert [one.participants for one in registry.rounds(run.id)][2:] == [("north", "south", "west")] * 2


def test_a_stopped_run_stays_stopped(serving, work, registry):
    serving.plant("north")
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    claimed = next_of(work)
    threading.Thread(target=work._listen, daemon=True).start()
    later = threading.Timer(0.5, lambda: runs.stop_run(serving.directory, run.id))
    later.start()
    work._carry_out(claimed)
    assert registry.run(run.id).state == "stopped"
    assert registry.run(run.id).reason == "stopped by a person"
    work._stopping.set()


def test_a_stop_that_comes_while_the_release_is_made_is_not_a_failure(serving, work, registry, monkeypatch):
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    run = runs.start_run(serving.directory, a_task(), rounds=RULES)

    def release(directory, *_):
        runs.stop_run(directory, run.id)

    monkeypatch.setattr(runner, "release_run", release)
    work._carry_out(next_of(work))
    found = registry.run(run.id)
    assert (found.state, found.reason, found.round) == ("stopped", "stopped by a person", 3)


def test_the_release_is_announced(serving, work, registry, monkeypatch):
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    run = runs.start_run(serving.directory, a_task(), rounds=RULES)
    monkeypatch.setattr(runner, "release_run", lambda *_: serving.offer("r-1", "wear"))
    work._carry_out(next_of(work))
    assert registry.run(run.id).state == "finished"
    with serving.plant("west").watch() as stream:
        assert next(stream).release.id == "r-1"


@pytest.mark.parametrize("damage", ["order", "folder", "first"])
def test_a_damaged_run_does_not_hold_up_the_next(serving, work, registry, damage):
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    folder = serving.directory.runs / run.id
    if damage == "order":
        (folder / "order.json").write_text("{")
    elif damage == "folder":
        folder.rename(folder.with_name("elsewhere"))
    else:
        (folder / "first.safetensors").write_bytes(b"nonsense")
    other = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    while (found := work._next()) is not None:
        work._carry_out(found)
    assert registry.run(run.id).state == "failed"
    assert registry.run(run.id).reason
    assert registry.run(other.id).state == "finished"


def test_a_fault_of_ours_pauses_the_run(serving, work, registry, monkeypatch):
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)

    def fault(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(runner, "carry_out", fault)
    work._carry_out(next_of(work))
    found = registry.run(run.id)
    assert (found.state, found.reason) == ("paused", "a fault: ZeroDivisionError: division by zero")


def test_a_strategy_that_fails_pauses_the_run_which_goes_on_when_it_is_mended(
    serving, work, registry, monkeypatch
):
    class Own(FedAvg):
        def finish(self, merge, weights, state):
            raise SystemExit(0)

    monkeypatch.setitem(REGISTERED, "own", Own)
    plants = [Trained(serving.plant(name), name) for name in ("north", "south")]
    task = replace(a_task(), strategy=Strategy("own"))
    run = runs.start_run(serving.directory, task, release=False, rounds=RULES)
    work._carry_out(next_of(work))
    found = registry.run(run.id)
    assert (found.state, found.round) == ("paused", 0)
    assert found.reason == (
        "strategy Own: finish failed with SystemExit: 0; mend the strategy, then `interplant run resume`"
    )
    monkeypatch.setitem(REGISTERED, "own", FedAvg)
    runs.resume_run(serving.directory, run.id)
    work._carry_out(next_of(work))
    assert registry.run(run.id).state == "finished"
    for plant in plants:
        until(lambda plant=plant: plant.settled[-1:] == [3])


def test_an_interrupted_run_comes_before_a_queued_one(serving, work, registry):
    first = runs.start_run(serving.directory, a_task(), rounds=RULES)
    registry.update_run(first.id, state="running", round=1)
    runs.start_run(serving.directory, a_task(), rounds=RULES)
    assert next_of(work).id == first.id


def test_a_killed_run_ends_with_the_registry_telling_the_truth(serving, work, registry, monkeypatch):
    """Killed between the last checkpoint and the registry: the rounds are done, so they are said done."""
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    told = []

    class KilledError(BaseException):
        pass

    def tell(run_id, record):
        told.append(record["round"])
        if record["round"] == 3:
            raise KilledError
        Runner._tell(work, run_id, record)

    monkeypatch.setattr(work, "_tell", tell)
    with pytest.raises(KilledError):
        work._carry_out(next_of(work))
    assert (registry.run(run.id).state, registry.run(run.id).round) == ("running", 2)
    monkeypatch.undo()
    work._carry_out(next_of(work))
    assert (registry.run(run.id).state, registry.run(run.id).round) == ("finished", 3)


# --- the process ---------------------------------------------------------------------------------------


def run_process(path):
    return subprocess.Popen(
        [sys.executable, "-m", "interplant.server.runner", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_hears_the_bell_and_ends_politely(serving, registry):
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    process = run_process(serving.directory.path)
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    until(lambda: registry.run(run.id).state == "finished")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_killed_process_goes_on_where_it_was(serving, registry):
    for name in ("north", "south"):
        Trained(serving.plant(name), name)
    run = runs.start_run(serving.directory, a_task(), release=False, rounds=RULES)
    registry.update_run(run.id, state="running")
    process = run_process(serving.directory.path)
    until(lambda: registry.run(run.id).round >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=15)
    again = run_process(serving.directory.path)
    until(lambda: registry.run(run.id).state == "finished")
    again.terminate()
    again.communicate(timeout=15)
    started = RunFolder(serving.directory.runs / run.id)
    first = load_file(started.path / started.order().start_from)
    for name, array in RunFolder(serving.directory.runs / run.id).restore().weights.items():
        np.testing.assert_allclose(array, first[name] + 3, rtol=1e-5)


def test_a_directory_that_is_none_is_told_in_one_sentence(tmp_path):
    process = run_process(tmp_path)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said.startswith(f"{tmp_path}: expected a coordinator directory")
    assert "Traceback" not in errors
