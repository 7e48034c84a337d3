"""Work for plants and replies from them: over the local socket and the TLS port of a real service."""

import os
import stat
import threading
import time

import grpc
import pytest

from interplant.core import federation_pb2 as pb
from interplant.core.errors import InterplantError
from interplant.server import control, local_api

from ..waiting import until

REFUSAL = "paused"


def silent(stream, serving):
    """Nothing waits in a stream: a bell rung now is the next thing heard."""
    marker = pb.Release(id="marker", task=f"task-{time.monotonic_ns()}")
    serving.announce(marker)
    found = next(stream)
    return found.release == marker or found


def blobs(serving):
    return sorted(path.name for path in (serving.directory.spool / "blobs").iterdir())


def spooled_replies(serving):
    return sorted(path.name for path in (serving.directory.spool / "replies").iterdir())


# --- pushing -------------------------------------------------------------------------------------------


def test_work_for_a_plant_that_is_away_waits_for_its_return(serving):
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    for _ in range(2):  # it was not answered, so it waits again after the next return
        with north.watch() as stream:
            assert next(stream).work == question
        until(lambda: not serving.service.exchange.online())


def test_work_reaches_only_the_plant_it_is_for(serving):
    north, south = serving.plant("north"), serving.plant("south")
    with north.watch() as stream, south.watch() as other:
        until(lambda: len(serving.service.exchange.online()) == 2)
        question = serving.question("south")
        serving.push(question)
        assert next(other).work == question
        assert silent(stream, serving) is True


def test_a_message_that_is_pushed_again_rings_once(serving):
    north = serving.plant("north")
    question = serving.question("north")
    with north.watch() as stream:
        until(serving.service.exchange.online)
        serving.push(question)
        serving.push(question)
        assert next(stream).work == question
        assert silent(stream, serving) is True


def test_an_answered_message_does_not_ring_on_return(serving, answer):
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    north.deliver(*answer(question))
    with north.watch() as stream:
        assert silent(stream, serving) is True


def test_a_broadcast_lies_on_disk_once(serving):
    names = [f"plant-{number}" for number in range(5)]
    for name in names:
        serving.plant(name)
    questions = [serving.question(name) for name in names]
    serving.push(*questions)
    assert blobs(serving) == [questions[0].body.sha256]
    serving.close_messages(*questions[:4])
    assert blobs(serving) == [questions[0].body.sha256]
    serving.close_messages(questions[4])
    assert blobs(serving) == []


def test_many_messages_fit_in_one_push(serving):
    """A thousand plants and a task of some kilobytes: more than gRPC's default of 4 MB."""
    serving.plant("north")
    question = serving.question("north")
    questions = []
    for number in range(1000):
        each = pb.Parcel()
        each.CopyFrom(question)
        each.message_id, each.records = f"run.1.{number}", b" " * 10_000
        questions.append(each)
    serving.push(*questions)
    assert serving.replies(*questions) == []


# --- waiting -------------------------------------------------------------------------------------------


def test_waiting_ends_as_soon_as_there_is_a_reply(serving, answer):
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    found = []

    def wait():
        begun = time.monotonic()
        found.extend([*serving.replies(question, seconds=15), time.monotonic() - begun])

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    north.deliver(*answer(question))
    waiting.join(15)
    assert found[0].reply_to == question.message_id
    assert found[1] < 10


def test_waiting_in_vain_ends_in_time(serving):
    serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    begun = time.monotonic()
    assert serving.replies(question, seconds=0.3) == []
    assert time.monotonic() - begun > 0.25
    assert serving.replies(question) == []


def test_replies_are_handed_out_up_to_a_limit_and_stay_until_closed(serving, answer):
    callers = {name: serving.plant(name) for name in ("a", "b", "c")}
    questions = [serving.question(name) for name in callers]
    serving.push(*questions)
    for caller, question in zip(callers.values(), questions, strict=True):
        caller.deliver(*answer(question))
    assert len(serving.replies(*questions, limit=2)) == 2
    assert [found.reply_to for found in serving.replies(questions[2])] == [questions[2].message_id]
    assert len(serving.replies(*questions)) == 3
    assert len(spooled_replies(serving)) == 3
    serving.close_messages(*questions)
    assert spooled_replies(serving) == []


def test_a_refusal_is_handed_out_once_and_the_plant_can_be_asked_again(serving, answer):
    north = serving.plant("north")
    question = serving.question("north")
    with north.watch() as stream:
        until(serving.service.exchange.online)
        serving.push(question)
        assert next(stream).work == question
        north.offer(answer(question, error=REFUSAL)[0])
        assert [found.error for found in serving.replies(question)] == [REFUSAL]
        assert silent(stream, serving) is True
        serving.push(question)
        assert next(stream).work == question
        assert serving.replies(question) == []
        north.deliver(*answer(question))
        assert [found.error for found in serving.replies(question)] == [""]


def test_a_process_that_was_restarted_asks_for_its_messages_again(serving, answer):
    """Waiting for what this process never heard of would be waiting for ever."""
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    north.deliver(*answer(question))
    serving.restart()
    until(lambda: control.reload(serving.directory))
    with pytest.raises(grpc.RpcError) as failed:
        serving.replies(question)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    serving.push(question)
    with north.watch() as stream:
        assert next(stream).work == question
    north.deliver(*answer(question))
    assert len(serving.replies(question)) == 1


# --- closing -------------------------------------------------------------------------------------------


def test_closing_forgets_the_reply_and_what_came_of_it(serving, answer):
    north = serving.plant("north")
    question = serving.question("north")
    serving.push(question)
    reply, body = answer(question)
    north.offer(reply)
    with pytest.raises(grpc.RpcError):
        north.upload(reply, body[:-1])
    assert len(spooled_replies(serving)) == 1
    serving.close_messages(question)
    assert spooled_replies(serving) == []
    assert blobs(serving) == []
    assert north.offer(reply).want == pb.Answer.DROP
    with north.watch() as stream:
        assert silent(stream, serving) is True


def test_closing_one_message_leaves_the_others(serving, answer):
    north, south = serving.plant("north"), serving.plant("south")
    one, two = serving.question("north"), serving.question("south")
    serving.push(one, two)
    north.deliver(*answer(one))
    south.deliver(*answer(two))
    serving.close_messages(one)
    assert len(serving.replies(two)) == 1
    assert spooled_replies(serving) == [f"{two.message_id}.body"]
    assert blobs(serving) == [two.body.sha256]


def test_plants_hear_that_a_round_is_settled(serving):
    north = serving.plant("north")
    question = serving.question("north")
    with north.watch() as stream:
        until(serving.service.exchange.online)
        serving.push(question)
        assert next(stream).HasField("work")
        serving.close_messages(question, settled=pb.Settled(run="run", round=1))
        assert next(stream).settled == pb.Settled(run="run", round=1)


def test_settling_closes_what_a_killed_round_loop_left_open(serving):
    """Else a plant that returns would train, and pay, for a round that is long over."""
    north = serving.plant("north")
    old, new = serving.question("north"), serving.question("north", round=12)
    other = serving.question("north", run="other")
    serving.push(old, new, other)
    serving.close_messages(settled=pb.Settled(run="run", round=11))
    with north.watch() as stream:
        assert [next(stream).work.message_id for _ in range(2)] == [new.message_id, other.message_id]
        assert silent(stream, serving) is True


# --- releases, the bell, the socket ---------------------------------------------------------------------


def test_a_release_reaches_plants_now_or_on_return_and_only_the_newest_of_a_task(serving):
    north, south = serving.plant("north"), serving.plant("south")
    first, second = pb.Release(id="r-1", task="wear"), pb.Release(id="r-2", task="wear")
    with north.watch() as stream:
        until(serving.service.exchange.online)
        for release in (first, second):
            serving.announce(release)
            assert next(stream).release == release
    with south.watch() as stream:
        assert next(stream).release == second
        assert silent(stream, serving) is True


def test_the_bell_rings_at_once_and_when_it_is_rung(serving):
    bell = serving.local.Bell(pb.Empty(), timeout=15)
    next(bell)
    for _ in range(2):
        control.ring(serving.directory)
        next(bell)
    bell.cancel()


def test_who_is_enrolled_and_who_is_here(serving):
    north = serving.plant("north")
    serving.plant("south")
    with north.watch():
        until(serving.service.exchange.online)
        assert control.online(serving.directory) == {"north": True, "south": False}
    until(lambda: not control.online(serving.directory)["north"])


def test_nobody_serves_is_told_apart_from_an_answer(coordinator):
    assert not control.reload(coordinator)
    assert control.online(coordinator) == {}


def test_only_the_user_can_open_the_socket(serving):
    path = local_api.socket_path(serving.directory.path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_deep_directory_has_its_socket_in_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(local_api.tempfile, "gettempdir", lambda: str(tmp_path))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    path, other = local_api.socket_path(deep), local_api.socket_path(deep.parent / ("f" * 60))
    assert len(os.fsencode(path)) - len(os.fsencode(tmp_path)) < 50
    assert path != other
    assert path == local_api.socket_path(deep)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_api.socket_path(tmp_path / "x") == tmp_path.resolve() / "x" / "control.sock"


@pytest.mark.parametrize("trap", ["open", "link"])
def test_a_folder_that_others_can_open_is_not_used_for_the_socket(tmp_path, monkeypatch, trap):
    monkeypatch.setattr(local_api.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"interplant-{os.getuid()}"
    if trap == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(InterplantError, match="expected a folder that only this user can open"):
        local_api.socket_path(tmp_path / ("d" * 120))
