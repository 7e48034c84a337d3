"""What an enrolled plant that means harm cannot do to the others: over real TLS."""

import threading
import time

import grpc
import pytest

from interplant.core import federation_pb2 as pb
from interplant.core import wire
from interplant.server import plant_api

KEEP, SEND = pb.Answer.KEEP, pb.Answer.SEND


def drip(message_id, body, stop, pause=0.05):
    """Send a byte at a time, for ever."""
    yield pb.Piece(message_id=message_id, data=body[:1])
    for at in range(1, len(body)):
        if stop.wait(pause):
            return
        yield pb.Piece(data=body[at : at + 1])


@pytest.fixture
def stop():
    event = threading.Event()
    yield event
    event.set()


def test_drops_do_not_keep_a_turn(change, serve, answer, stop, monkeypatch):
    """Each drop comes in time; together they would hold every other upload up until the deadline."""
    monkeypatch.setattr(plant_api, "_PATIENCE", 0.5)
    change("upload_turns", 1)
    serving = serve()
    dripping, other = serving.plant("north"), serving.plant("south")
    questions = [serving.question(name) for name in ("north", "south")]
    serving.push(*questions)
    reply, body = answer(questions[0])
    assert dripping.offer(reply).want == SEND
    call = dripping.stub.Upload.future(drip(reply.reply_to, body, stop), timeout=100)
    time.sleep(0.2)
    reply, body = answer(questions[1])
    begun = time.monotonic()
    assert other.deliver(reply, body).want == KEEP
    assert time.monotonic() - begun < 20
    with pytest.raises(grpc.RpcError) as failed:
        call.result()
    assert failed.value.code() == grpc.StatusCode.DATA_LOSS


def test_time_is_not_saved_up(change, serve, answer, monkeypatch):
    """A quick beginning does not buy a long silence."""
    monkeypatch.setattr(plant_api, "_PATIENCE", 0.3)
    serving = serve()
    north, question = serving.plant("north"), None
    question = serving.question("north", body=bytes(4 << 20))
    serving.push(question)
    reply, body = answer(question, bytes(4 << 20))
    north.offer(reply)
    gone = threading.Event()

    def quick_then_silent():
        yield pb.Piece(message_id=reply.reply_to, data=body[: 1 << 20])
        yield pb.Piece(data=body[1 << 20 : 3 << 20])
        gone.wait(100)

    begun = time.monotonic()
    with pytest.raises(grpc.RpcError):
        north.stub.Upload(quick_then_silent(), timeout=100)
    assert time.monotonic() - begun < 50
    gone.set()


def test_a_plant_takes_one_turn_at_a_time(change, serve, answer, stop):
    change("upload_turns", 2)
    serving = serve()
    greedy, other = serving.plant("north"), serving.plant("south")
    questions = [serving.question("north", round=number) for number in (1, 2, 3)]
    honest = serving.question("south")
    serving.push(*questions, honest)
    calls = []
    for question in questions:
        reply, body = answer(question)
        greedy.offer(reply)
        calls.append(greedy.stub.Upload.future(drip(reply.reply_to, body, stop, 1.0), timeout=30))
    time.sleep(0.3)
    reply, body = answer(honest)
    other.offer(reply)
    assert other.stub.Upload(iter([pb.Piece(message_id=reply.reply_to, data=body)]), timeout=25).want == KEEP
    for call in calls:
        call.cancel()


def test_beginnings_do_not_pile_up(serving, answer):
    """A plant may offer another reply as often as it likes; one beginning is kept."""
    north, question = serving.plant("north"), serving.question("north")
    serving.push(question)
    for number in range(5):
        reply, body = answer(question, wire.to_bytes({}) + bytes([number]) * 100)
        assert north.offer(reply).want == SEND
        with pytest.raises(grpc.RpcError):
            north.stub.Upload(iter([pb.Piece(message_id=reply.reply_to, data=body[:50])]), timeout=10)
    assert len(list((serving.directory.spool / "replies").iterdir())) == 1


@pytest.mark.parametrize("code", ["\x1b[2Jfine", "mean 21.5 bar", "worse ", "x" * 30])
def test_a_release_is_spoken_of_in_our_own_codes(serving, code):
    """What a plant says stands in tables and on terminals."""
    north = serving.plant("north")
    serving.service.registry.create_release("r-1", None, "turbofan", "0" * 64)
    with pytest.raises(grpc.RpcError) as failed:
        north.stub.Deployed(pb.Deployment(release="r-1", state="refused", code=code), timeout=10)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert serving.service.registry.deployments() == []
