"""Our grid against a real gRPC process, with plants that speak to it over TLS."""

import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from interplant.core import federation_pb2 as pb
from interplant.core import wire
from interplant.server.grid import GrpcGrid
from interplant.server.replies import RingingGrid

from ..waiting import until


@pytest.fixture
def grid(serving):
    grid = GrpcGrid(serving.directory, "run", 7)
    yield grid
    grid.close()


def content(value=1.0):
    arrays = ArrayRecord({"w": Array(np.full(64, value, np.float32))})
    return RecordDict({"weights": arrays, "task": ConfigRecord({"round": 1})})


def ask(grid, nodes, number=1, value=1.0):
    shared = content(value)
    return grid.push_messages([grid.create_message(shared, "train", node, str(number)) for node in nodes])


def spool_of(serving, kind):
    return sorted(path.name for path in (serving.directory.spool / kind).iterdir())


def test_it_rings(grid):
    assert isinstance(grid, RingingGrid)
    assert grid.run.run_id == 7


def test_who_is_enrolled_and_who_is_here(serving, grid):
    north = serving.plant("north")
    serving.plant("south")
    assert grid.names() == {serving.node(name): name for name in ("north", "south")}
    assert sorted(grid.get_node_ids()) == sorted(grid.names())
    assert grid.online() == set()
    with north.watch():
        until(lambda: grid.online() == {serving.node("north")})


@pytest.mark.parametrize("inline", [0, wire.INLINE])
def test_work_goes_out_whole_and_the_reply_comes_back(serving, grid, answer, monkeypatch, inline):
    """A small blob within its message, a larger one in pieces."""
    monkeypatch.setattr("interplant.core.wire.INLINE", inline)
    north = serving.plant("north")
    node = serving.node("north")
    with north.watch() as stream:
        ids = ask(grid, [node])
        assert ids == [f"run.1.{node}"]
        work = next(stream).work
        assert bool(work.inline) == bool(inline)
        asked = wire.from_parcel(work, wire.from_bytes(north.body_of(work)))
        np.testing.assert_array_equal(
            asked.content.array_records["weights"]["w"].numpy(), np.ones(64, np.float32)
        )
        assert dict(asked.content.config_records["task"]) == {"round": 1}
        assert grid.wait(ids, 0) is None
        north.deliver(*answer(work))
    reply = grid.wait(ids, 10)
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == (ids[0], node)
    np.testing.assert_array_equal(
        reply.content.array_records["update"]["w"].numpy(), np.full(64, 0.5, np.float32)
    )
    assert dict(reply.content.config_records["receipt"]) == {"plant": "north"}


def test_a_broadcast_is_written_once(serving, grid, monkeypatch):
    monkeypatch.setattr("interplant.core.wire.INLINE", 0)
    for name in ("north", "south", "west"):
        serving.plant(name)
    ask(grid, grid.get_node_ids())
    assert len(spool_of(serving, "blobs")) == 1


def test_waiting_wakes_with_the_reply(serving, grid, answer):
    north = serving.plant("north")
    ids = ask(grid, [serving.node("north")])
    question = pb.Parcel(message_id=ids[0], destination=serving.node("north"), run_id=7)
    later = threading.Timer(0.3, lambda: north.deliver(*answer(question)))
    later.start()
    begun = time.monotonic()
    assert grid.wait(ids, 200) is not None
    assert time.monotonic() - begun < 100
    later.join()


def test_waiting_in_vain_ends_in_time(serving, grid):
    serving.plant("north")
    ids = ask(grid, [serving.node("north")])
    begun = time.monotonic()
    assert grid.wait(ids, 0.4) is None
    assert time.monotonic() - begun > 0.35


HOSTILE = {
    "records": lambda reply, body: (setattr(reply, "records", b"\xff{"), body)[1],
    "deep": lambda reply, body: (setattr(reply, "records", b"[" * 300_000), body)[1],
    "type": lambda reply, body: (setattr(reply, "message_type", "os.system"), body)[1],
    "tensors": lambda reply, body: b"\x80\x04 a pickle, by the look of it",
    "empty": lambda reply, body: b"",
}


@pytest.mark.parametrize("kind", sorted(set(HOSTILE) - {"type", "empty"}))
def test_a_reply_that_cannot_be_read_is_that_plants_alone(serving, grid, answer, kind):
    callers = {name: serving.plant(name) for name in ("north", "south")}
    ids = ask(grid, [serving.node(name) for name in callers])
    for message_id, (name, caller) in zip(ids, callers.items(), strict=True):
        reply, body = answer(pb.Parcel(message_id=message_id, destination=serving.node(name), run_id=7))
        if name == "north":
            body = HOSTILE[kind](reply, body)
            reply.body.CopyFrom(wire.blob_of(body))
        caller.deliver(reply, body)
    found = {}
    while len(found) < 2:
        reply = grid.wait(set(ids) - set(found), 10)
        found[reply.metadata.reply_to_message_id] = reply
    assert found[ids[0]].error.reason == "unreadable"
    assert found[ids[0]].metadata.src_node_id == serving.node("north")
    assert "update" in found[ids[1]].content.array_records


@pytest.mark.parametrize("kind", ["type", "empty"])
def test_what_a_plant_says_of_itself_cannot_stop_the_round_loop(serving, grid, answer, kind):
    north, (message_id,) = serving.plant("north"), ask(grid, [serving.node("north")])
    reply, body = answer(pb.Parcel(message_id=message_id, destination=serving.node("north"), run_id=7))
    body = HOSTILE[kind](reply, body)
    reply.body.CopyFrom(wire.blob_of(body))
    north.deliver(reply, body)
    found = grid.wait([message_id], 10)
    assert found.metadata.src_node_id == serving.node("north")
    assert len(found.content.array_records) == (0 if kind == "empty" else 1)


def test_a_refusal_comes_once_and_the_plant_can_be_asked_again(serving, grid, answer):
    north, node = serving.plant("north"), serving.node("north")
    ids = ask(grid, [node])
    question = pb.Parcel(message_id=ids[0], destination=node, run_id=7)
    north.offer(answer(question, error="paused")[0])
    assert grid.wait(ids, 10).error.reason == "paused"
    assert grid.pull_messages(ids) == []
    with north.watch() as stream:
        ask(grid, [node])
        assert next(stream).work.message_id == ids[0]
    north.deliver(*answer(question))
    assert grid.wait(ids, 10).has_content()


def test_finishing_forgets_and_settles(serving, grid, answer):
    north, node = serving.plant("north"), serving.node("north")
    with north.watch() as stream:
        until(grid.online)
        ids = ask(grid, [node])
        work = next(stream).work
        north.deliver(*answer(work))
        assert grid.wait(ids, 10)
        grid.finish(ids, 1)
        assert next(stream).settled == pb.Settled(run="run", round=1)
    assert spool_of(serving, "replies") == spool_of(serving, "blobs") == []
    assert grid.pull_messages(ids) == []


def test_closing_the_grid_forgets_what_is_open(serving, answer):
    north = serving.plant("north")
    grid = GrpcGrid(serving.directory, "run", 7)
    ids = ask(grid, [serving.node("north")])
    grid.close()
    assert spool_of(serving, "blobs") == []
    assert north.offer(answer(pb.Parcel(message_id=ids[0]))[0]).want == pb.Answer.DROP


def test_sending_and_receiving_at_once(serving, grid, answer):
    callers = {name: serving.plant(name) for name in ("north", "south")}

    def work(caller):
        with caller.watch() as stream:
            caller.deliver(*answer(next(stream).work))

    threads = [threading.Thread(target=work, args=[caller]) for caller in callers.values()]
    for thread in threads:
        thread.start()
    shared = content()
    messages = [grid.create_message(shared, "train", node, "1") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=15)
    assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids())
    for thread in threads:
        thread.join(15)


@pytest.mark.parametrize("answered", [True, False])
def test_a_restart_of_the_grpc_process_between_two_calls_loses_nothing(serving, grid, answer, answered):
    """The new process knows nothing; if the grid did not notice, the round would wait for ever."""
    north, node = serving.plant("north"), serving.node("north")
    ids = ask(grid, [node])
    reply, body = answer(pb.Parcel(message_id=ids[0], destination=node, run_id=7))
    if answered:
        north.deliver(reply, body)
    serving.restart()
    assert grid.wait(ids, 0.5) is None
    with north.watch() as stream:
        work = next(stream).work
        assert work.message_id == ids[0]
        assert wire.from_bytes(north.body_of(work))
        north.deliver(reply, body)
    assert grid.wait(ids, 10).has_content()


def test_a_restart_of_the_grpc_process_during_a_wait_loses_nothing(serving, grid, answer):
    north, node = serving.plant("north"), serving.node("north")
    ids = ask(grid, [node])
    found = []
    waiting = threading.Thread(target=lambda: found.append(grid.wait(ids, 20)))
    waiting.start()
    time.sleep(0.2)
    serving.restart()
    with north.watch() as stream:
        north.deliver(*answer(next(stream).work))
    waiting.join(20)
    assert found[0].has_content()


def test_which_messages_are_answered_without_taking_the_replies(serving, grid, answer):
    north, south, west = (serving.plant(name) for name in ("north", "south", "west"))
    nodes = [serving.node(name) for name in ("north", "south", "west")]
    ids = ask(grid, nodes)
    assert grid.answered(ids) == {}
    for plant, refusal in ((north, ""), (south, "paused")):
        with plant.watch() as stream:
            work = next(stream).work
            if refusal:
                plant.offer(pb.Parcel(reply_to=work.message_id, error=refusal))
            else:
                plant.deliver(*answer(work))
    for _ in range(2):
        assert grid.answered(ids) == {ids[0]: True, ids[1]: False}
    assert grid.answered(ids[2:]) == {}
    assert grid.wait(ids[1:2], 5).has_error()
    assert grid.wait(ids[:1], 5).has_content()
    with west.watch() as stream:
        assert next(stream).work.message_id == ids[2]
