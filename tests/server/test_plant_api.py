"""Replies on their way in, blobs on their way out, and who is turned away: over real TLS."""

import threading
import time
from datetime import timedelta

import grpc
import numpy as np
import pytest

from interplant.core import certificates, config, wire
from interplant.core import federation_pb2 as pb
from interplant.core.automation_config import Automation
from interplant.core.files import PIECE
from interplant.server import followed, plant_api
from interplant.server.pace import Pace
from interplant.server.records import node_id
from interplant.server.releases import offer_of

from ..waiting import until

SEND, KEEP, DROP = pb.Answer.SEND, pb.Answer.KEEP, pb.Answer.DROP


@pytest.fixture
def north(serving):
    return serving.plant("north")


@pytest.fixture
def question(serving, north):
    question = serving.question("north")
    serving.push(question)
    return question


def fails_with(code, call, *arguments, **more):
    with pytest.raises(grpc.RpcError) as failed:
        call(*arguments, **more)
    assert failed.value.code() == code, failed.value.details()
    return failed.value.details()


def break_off(serving, caller, reply, data):
    """Send some bytes and break the connection before the end, once the server has them."""
    gone = threading.Event()
    replies = serving.directory.spool / "replies"

    def pieces():
        yield pb.Piece(message_id=reply.reply_to, data=data)
        gone.wait(10)

    call = caller.stub.Upload.future(pieces(), timeout=20)
    until(lambda: sum(path.stat().st_size for path in replies.glob("*.part")) == len(data))
    call.cancel()
    gone.set()


# --- Watch ---------------------------------------------------------------------------------------------


def test_watch_says_which_federation_and_node(serving, north):
    hello = pb.Hello(protocol=wire.PROTOCOL, clock=time.time())
    stream = north.stub.Watch(hello, timeout=10)
    welcome = next(stream).welcome
    assert (welcome.federation, welcome.node_id) == ("demo", node_id("north"))
    until(lambda: serving.service.registry.plant("north").last_seen is not None)
    assert serving.service.registry.plant("north").protocol == wire.PROTOCOL
    stream.cancel()
    until(lambda: not serving.service.exchange.online())


@pytest.mark.parametrize(("found", "words"), [("1", "the plant 1"), ("", "the plant none")])
def test_another_protocol_is_refused_in_one_sentence(serving, north, found, words):
    hello = pb.Hello(protocol=found, clock=time.time())
    details = fails_with(grpc.StatusCode.FAILED_PRECONDITION, next, north.stub.Watch(hello, timeout=10))
    assert details == (
        f"the coordinator speaks protocol {wire.PROTOCOL}, {words}: "
        "install the same version of interplant on both sides"
    )
    request = pb.CertificateRequest(protocol=found)
    assert fails_with(grpc.StatusCode.FAILED_PRECONDITION, north.stub.Renew, request, timeout=10) == details
    bootstrap = serving.bootstrap("south")
    assert (
        fails_with(grpc.StatusCode.FAILED_PRECONDITION, bootstrap.stub.Enrol, request, timeout=10) == details
    )
    assert serving.service.exchange.online() == set()


@pytest.mark.parametrize(("skew", "words"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_that_is_off_is_refused_in_one_sentence(serving, north, skew, words):
    hello = pb.Hello(protocol=wire.PROTOCOL, clock=time.time() + skew)
    details = fails_with(grpc.StatusCode.FAILED_PRECONDITION, next, north.stub.Watch(hello, timeout=10))
    assert details.startswith("the plant's clock is 3")
    assert details.endswith(f"s {words} the coordinator's: set the clock of the machine that is wrong")
    assert serving.service.exchange.online() == set()


def test_a_clock_that_is_a_little_off_is_no_matter(serving, north):
    hello = pb.Hello(protocol=wire.PROTOCOL, clock=time.time() - plant_api.MAX_CLOCK_SKEW + 20)
    assert next(north.stub.Watch(hello, timeout=10)).HasField("welcome")


def test_a_second_watch_of_a_plant_ends_the_first(serving, north, question):
    with north.watch() as first:
        assert next(first).work == question
        with north.watch() as second:
            assert next(second).work == question
            fails_with(grpc.StatusCode.ABORTED, next, first)
            assert serving.service.exchange.online() == {"north"}
            later = serving.question("north", round=2)
            serving.push(later)
            assert next(second).work == later


# --- Fetch ---------------------------------------------------------------------------------------------


def test_a_broadcast_comes_in_pieces_and_from_any_byte(serving, north):
    body = np.random.default_rng(0).bytes(2 * PIECE + 5)
    blob = serving.spooled(body)
    pieces = [*north.stub.Fetch(pb.FetchRequest(sha256=blob.sha256), timeout=10)]
    assert [len(piece.data) for piece in pieces] == [PIECE, PIECE, 5]
    assert b"".join(piece.data for piece in pieces) == body
    assert north.fetch(blob.sha256, 2 * PIECE - 1) == body[-6:]
    assert north.fetch(blob.sha256, len(body)) == b""
    assert north.fetch(blob.sha256, len(body) + 99) == b""


@pytest.mark.parametrize(
    "sha256", ["0" * 64, "", ".", "..", "../replies", "/etc/passwd", "../../federation.yaml"]
)
def test_only_blobs_can_be_fetched(serving, north, sha256):
    fails_with(grpc.StatusCode.NOT_FOUND, north.fetch, sha256)


def test_the_files_of_an_announced_release_can_be_fetched(serving, north):
    folder = serving.directory.releases / "r-1"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"files": {"weights.safetensors": "x"}}')
    (folder / "manifest.sig").write_bytes(b"signature")
    (folder / "weights.safetensors").write_bytes(b"numbers")
    offer = offer_of(folder, "turbofan")
    digest = offer.files[0].blob.sha256
    fails_with(grpc.StatusCode.NOT_FOUND, north.fetch, digest)
    with north.watch() as stream:
        serving.announce(offer)
        assert next(stream).release == offer
    assert north.fetch(digest) == b"numbers"
    assert [north.fetch(file.blob.sha256) for file in offer.files[1:]] == [
        (folder / "manifest.json").read_bytes(),
        b"signature",
    ]


# --- Offer and Upload ----------------------------------------------------------------------------------


def test_a_reply_comes_whole(serving, north, question, answer):
    reply, body = answer(question)
    assert north.offer(reply) == pb.Answer(want=SEND, offset=0)
    assert serving.replies(question) == []
    assert north.upload(reply, body).want == KEEP
    (found,) = serving.replies(question)
    assert found.body == reply.body
    assert serving.service.exchange.spool.reply(question.message_id).read_bytes() == body


def test_an_upload_goes_on_where_it_broke(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, body[:100])
    until(lambda: north.offer(reply).offset == 100)
    assert serving.replies(question) == []
    assert north.upload(reply, body, offset=100).want == KEEP
    assert len(serving.replies(question)) == 1
    assert serving.service.exchange.spool.reply(question.message_id).read_bytes() == body


def test_an_upload_goes_on_after_a_restart_of_the_server(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, body[:100])
    until(lambda: north.offer(reply).offset == 100)
    serving.restart()
    serving.push(question)
    assert north.offer(reply) == pb.Answer(want=SEND, offset=100)
    assert north.upload(reply, body, offset=100).want == KEEP
    assert len(serving.replies(question)) == 1


def test_a_whole_reply_is_not_sent_again_after_a_restart(serving, north, question, answer):
    reply, body = answer(question)
    assert north.deliver(reply, body).want == KEEP
    serving.restart()
    serving.push(question)
    assert north.offer(reply).want == KEEP
    assert len(serving.replies(question)) == 1


def test_a_break_after_the_last_byte_loses_nothing(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, body)
    until(lambda: north.offer(reply).want == KEEP)
    assert len(serving.replies(question)) == 1
    assert serving.service.exchange.spool.reply(question.message_id).read_bytes() == body


def test_wrong_bytes_do_not_count_because_the_sender_hung_up(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, bytes(len(body)))
    assert north.offer(reply) == pb.Answer(want=SEND, offset=0)
    assert serving.replies(question) == []
    assert north.upload(reply, body).want == KEEP
    assert serving.service.exchange.spool.reply(question.message_id).read_bytes() == body


@pytest.mark.parametrize("offset", [1, 99, 101, 10**9, 2**63])
def test_an_upload_from_the_wrong_byte_is_refused_and_nothing_is_lost(
    serving, north, question, answer, offset
):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, body[:100])
    until(lambda: north.offer(reply).offset == 100)
    first = pb.Piece(message_id=reply.reply_to, offset=offset, data=body[:7])
    details = fails_with(grpc.StatusCode.DATA_LOSS, north.stub.Upload, iter([first]), timeout=10)
    assert details == f"expected a piece from byte 100, found one from byte {offset}"
    assert north.offer(reply).offset == 100
    assert north.upload(reply, body, offset=100).want == KEEP


def test_a_part_is_not_begun_anew_from_byte_zero(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    break_off(serving, north, reply, body[:100])
    until(lambda: north.offer(reply).offset == 100)
    fails_with(grpc.StatusCode.DATA_LOSS, north.upload, reply, body)
    assert north.offer(reply).offset == 100


def test_more_bytes_than_offered_are_refused(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    details = fails_with(grpc.StatusCode.DATA_LOSS, north.upload, reply, body + b"more than that")
    assert details == f"expected {len(body)} bytes, found more"
    assert serving.replies(question) == []
    assert north.deliver(reply, body).want == KEEP


def test_fewer_bytes_than_offered_can_be_completed(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    details = fails_with(grpc.StatusCode.DATA_LOSS, north.upload, reply, body[:-3])
    assert "send the rest" in details
    assert north.offer(reply) == pb.Answer(want=SEND, offset=len(body) - 3)
    assert north.upload(reply, body, offset=len(body) - 3).want == KEEP


def test_wrong_bytes_are_thrown_away_and_can_be_sent_again(serving, north, question, answer):
    reply, body = answer(question)
    north.offer(reply)
    details = fails_with(grpc.StatusCode.DATA_LOSS, north.upload, reply, bytes(len(body)))
    assert "do not have the digest that was offered" in details
    assert serving.replies(question) == []
    assert north.offer(reply) == pb.Answer(want=SEND, offset=0)
    assert north.upload(reply, body).want == KEEP
    assert len(serving.replies(question)) == 1


def test_a_small_reply_comes_within_its_offer(serving, north, question, answer):
    reply, body = answer(question)
    reply.inline = body
    assert north.offer(reply).want == KEEP
    (found,) = serving.replies(question)
    assert found.inline == body
    assert not list((serving.directory.spool / "replies").iterdir()), "it never was on the disk"


def test_a_reply_within_an_offer_is_what_it_names_and_small(serving, north, question, answer):
    reply, body = answer(question)
    reply.inline = body[:-1] + b"!"
    fails_with(grpc.StatusCode.DATA_LOSS, north.offer, reply)
    reply.inline = body + b"?"
    fails_with(grpc.StatusCode.DATA_LOSS, north.offer, reply)
    large = bytes(wire.INLINE + 1)
    reply.inline = large
    reply.body.CopyFrom(wire.blob_of(large))
    fails_with(grpc.StatusCode.DATA_LOSS, north.offer, reply)
    assert serving.replies(question) == []
    reply, body = answer(question)
    assert north.deliver(reply, body).want == KEEP, "in pieces it is still taken"


def test_a_refusal_brings_nothing_along(serving, north, question):
    north.offer(pb.Parcel(reply_to=question.message_id, error="paused", inline=b"x" * 1000))
    (found,) = serving.replies(question)
    assert (found.error, found.inline) == ("paused", b"")


def test_an_oversize_reply_is_refused_before_a_byte_of_it(serving, north, question, answer):
    reply, _ = answer(question)
    reply.body.size = 2 * question.body.size + PIECE
    assert north.offer(reply).want == SEND
    reply.body.size += 1
    details = fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, north.offer, reply)
    assert "too large" in details
    reply, _ = answer(question)
    reply.records = b" " * (wire.MAX_RECORDS + 1)
    fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, north.offer, reply)
    assert serving.replies(question) == []


def test_a_plant_answers_only_what_it_was_asked(serving, north, question, answer):
    south = serving.plant("south")
    reply, body = answer(question)
    details = fails_with(grpc.StatusCode.PERMISSION_DENIED, south.offer, reply)
    assert details == "this message was sent to another plant"
    north.offer(reply)
    fails_with(grpc.StatusCode.PERMISSION_DENIED, south.upload, reply, body)
    fails_with(grpc.StatusCode.PERMISSION_DENIED, south.offer, answer(question, error="paused")[0])
    assert serving.replies(question) == []


def test_a_reply_stands_for_its_sender_whatever_it_says(serving, north, question, answer):
    serving.plant("south")
    reply, body = answer(question)
    reply.source, reply.destination, reply.run_id = serving.node("south"), 5, 99
    reply.group_id, reply.message_type, reply.ttl = "7", "evaluate", float("nan")
    north.deliver(reply, body)
    (found,) = serving.replies(question)
    assert (found.source, found.destination, found.run_id) == (serving.node("north"), 0, 7)
    assert (found.group_id, found.message_type, found.ttl) == ("1", "train", question.ttl)


def test_an_upload_of_nothing_that_was_offered_changes_nothing(serving, north, question, answer):
    reply, body = answer(question)
    assert north.upload(reply, body).want == KEEP
    assert north.stub.Upload(iter([]), timeout=10).want == KEEP
    assert north.stub.Upload(iter([pb.Piece(message_id="no.1.2", data=b"x")]), timeout=10).want == KEEP
    assert serving.replies(question) == []
    assert north.deliver(reply, body).want == KEEP


def test_a_reply_without_tensors_is_whole_at_once(serving, north, question):
    assert north.offer(pb.Parcel(reply_to=question.message_id, records=b"{}")).want == KEEP
    assert len(serving.replies(question)) == 1


def test_a_refusal_is_told_in_our_own_words(serving, north, question, answer):
    assert north.offer(answer(question, error="budget_spent")[0]).want == DROP
    assert [found.error for found in serving.replies(question)] == ["budget_spent"]
    serving.push(question)
    assert north.offer(answer(question, error="row 7 of line 3 reads 21.5 bar")[0]).want == DROP
    assert [found.error for found in serving.replies(question)] == ["internal"]


# --- turns ---------------------------------------------------------------------------------------------


def test_the_more_plants_fetch_the_smaller_are_the_pieces(serving, monkeypatch):
    """What waits to go out stays the same in all."""
    monkeypatch.setattr(plant_api, "_UNDER_WAY", PIECE)
    blob = serving.spooled(np.random.default_rng(0).bytes(16 * PIECE))
    asked = pb.FetchRequest(sha256=blob.sha256)
    first, second = (serving.plant(name).stub.Fetch(asked, timeout=20) for name in ("north", "south"))
    assert len(next(first).data) == PIECE
    assert len(next(second).data) == PIECE // 2
    first.cancel()
    assert PIECE in [len(piece.data) for piece in second]


def test_uploads_take_turns(change, serve, answer):
    change("upload_turns", 1)
    serving = serve()
    callers = [serving.plant(name) for name in ("north", "south")]
    questions = [serving.question(name, body=bytes(12 * PIECE)) for name in ("north", "south")]
    serving.push(*questions)
    big = np.random.default_rng(0).bytes(24 * PIECE)
    replies = [answer(question, big)[0] for question in questions]
    for caller, reply in zip(callers, replies, strict=True):
        assert caller.offer(reply).want == SEND
    go, taken = threading.Event(), []

    def slowly():
        yield pb.Piece(message_id=replies[0].reply_to, data=big[:PIECE])
        go.wait(60)
        for at in range(PIECE, len(big), PIECE):
            yield pb.Piece(data=big[at : at + PIECE])

    def counted():
        for at in range(0, len(big), PIECE):
            taken.append(at)
            yield pb.Piece(message_id=replies[1].reply_to if not at else "", data=big[at : at + PIECE])

    spool = serving.service.exchange.spool
    first = callers[0].stub.Upload.future(slowly(), timeout=100)
    until(lambda: spool.arrived(replies[0].reply_to, replies[0].body))
    second = callers[1].stub.Upload.future(counted(), timeout=100)
    until(lambda: taken)
    time.sleep(0.5)
    assert not second.done()
    assert spool.arrived(replies[1].reply_to, replies[1].body) == 0
    # What fills HTTP/2's window has left the plant, and no more: the rest is held there.
    assert 0 < len(taken) <= 4
    go.set()
    assert first.result().want == second.result().want == KEEP
    assert len(taken) == 24
    assert len(serving.replies(*questions)) == 2


def test_a_plant_that_stalls_loses_its_turn(change, serve, answer, monkeypatch):
    monkeypatch.setattr(plant_api, "_PATIENCE", 0.3)
    change("upload_turns", 1)
    serving = serve()
    stalling, other = serving.plant("north"), serving.plant("south")
    questions = [serving.question(name) for name in ("north", "south")]
    serving.push(*questions)
    never = threading.Event()

    def silence():
        never.wait(10)
        yield pb.Piece()

    stalled = stalling.stub.Upload.future(silence(), timeout=20)
    time.sleep(0.1)
    reply, body = answer(questions[1])
    assert other.deliver(reply, body).want == KEEP
    with pytest.raises(grpc.RpcError) as failed:
        stalled.result()
    assert failed.value.code() == grpc.StatusCode.DATA_LOSS
    assert "expected a piece within" in failed.value.details()
    never.set()
    reply, body = answer(questions[0])
    stalling.offer(reply)
    gone = threading.Event()

    def half():
        yield pb.Piece(message_id=reply.reply_to, data=body[:9])
        gone.wait(10)

    fails_with(grpc.StatusCode.DATA_LOSS, stalling.stub.Upload, half(), timeout=20)
    gone.set()
    assert stalling.offer(reply).offset == 9


# --- replies to nothing that is open ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "done", "number", "want"),
    [
        ("running", 1, "2", KEEP),
        ("running", 2, "2", DROP),
        ("running", 3, "2", DROP),
        ("paused", 1, "2", KEEP),
        ("waiting", 1, "2", KEEP),
        ("queued", 0, "1", KEEP),
        ("finished", 1, "2", DROP),
        ("failed", 1, "2", KEEP),
        ("stopped", 1, "2", KEEP),
        ("running", 1, "two", DROP),
        ("running", 1, "²", DROP),
        ("running", 1, "", DROP),
    ],
)
def test_a_reply_to_no_open_message_is_kept_as_long_as_its_round_may_come(
    serving, north, state, done, number, want
):
    run = serving.service.registry.create_run("turbofan", {}, 5, run_id="r")
    serving.service.registry.update_run(run.id, state=state, round=done)
    parcel = pb.Parcel(reply_to=f"r.{number}.{serving.node('north')}", body=wire.blob_of(b"x"))
    assert north.offer(parcel).want == want


@pytest.mark.parametrize("message_id", ["", "other.1.2", "...", "a" * 1000, "r.1"])
def test_a_reply_to_a_run_that_nobody_knows_is_dropped(north, message_id):
    assert north.offer(pb.Parcel(reply_to=message_id)).want == DROP


# --- certificates and deployments ------------------------------------------------------------------------


def test_a_plant_renews_its_certificate(serving, north):
    key = certificates.make_key()
    request = pb.CertificateRequest(protocol=wire.PROTOCOL, signing_request=certificates.make_csr(key))
    pem = north.stub.Renew(request, timeout=10).certificate
    assert certificates.identity(pem).name == "north"
    with serving.caller(certificates.key_pem(key), pem).watch():
        assert serving.service.exchange.online() == {"north"}
    bad = pb.CertificateRequest(protocol=wire.PROTOCOL, signing_request=b"nonsense")
    assert "expected a certificate request" in fails_with(
        grpc.StatusCode.PERMISSION_DENIED, north.stub.Renew, bad, timeout=10
    )


def test_what_became_of_a_release_is_recorded_under_the_callers_name(serving, north):
    serving.service.registry.create_release("r-1", None, "turbofan", "0" * 64)
    north.stub.Deployed(pb.Deployment(release="r-1", state="refused", code="worse"), timeout=10)
    (found,) = serving.service.registry.deployments("r-1")
    assert (found.plant, found.state, found.reason) == ("north", "refused", "worse")


@pytest.mark.parametrize(
    ("deployment", "code"),
    [
        (pb.Deployment(release="r-2", state="active"), grpc.StatusCode.NOT_FOUND),
        (pb.Deployment(release="r-1", state="mean 21.5 bar"), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.Deployment(release="r-1", state="refused", code="x" * 41), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.Deployment(release="r-1"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_strange_deployment_is_refused(serving, north, deployment, code):
    serving.service.registry.create_release("r-1", None, "turbofan", "0" * 64)
    fails_with(code, north.stub.Deployed, deployment, timeout=10)
    assert serving.service.registry.deployments() == []


def test_an_open_stream_ends_with_the_certificate_it_was_opened_under(serving, north, monkeypatch):
    later = certificates.utc_now() + timedelta(days=40)
    monkeypatch.setattr(plant_api, "utc_now", lambda: later)
    with north.watch() as stream:
        assert "certificate's end" in fails_with(grpc.StatusCode.ABORTED, next, stream)
    until(lambda: not serving.service.exchange.online())


# --- Propose -------------------------------------------------------------------------------------------


@pytest.fixture
def follows(serving, monkeypatch):
    """The service follows one task."""
    monkeypatch.setattr(plant_api, "_WORD_SECONDS", 0.0)
    settings = serving.directory.load()
    settings.automation = [Automation(task="turbofan", on=["drift"])]
    serving.directory.config.write_text(config.to_yaml(settings))
    serving.restart()


def test_a_proposal_is_in_the_history_and_rings_the_bell(serving, follows):
    north = serving.plant("north")
    bell = serving.local.Bell(pb.Empty(), timeout=10)
    next(bell)
    proposal = pb.Proposal(task="turbofan", reason="drift", runs=3)
    assert north.stub.Propose(proposal, timeout=10).heeded
    next(bell)
    bell.cancel()
    assert north.stub.Propose(proposal, timeout=10).heeded, "said again it does no harm"
    said = followed.said(serving.service.registry, "turbofan")
    assert (said.proposals, said.runs) == ({"north": ["drift"]}, {"north": 3})
    assert len(serving.service.registry.events("turbofan")) == 2


def test_what_nobody_follows_is_not_heeded_and_leaves_no_trace(serving, follows):
    north = serving.plant("north")
    assert not north.stub.Propose(pb.Proposal(task="wear", reason="drift"), timeout=10).heeded
    assert not north.stub.Propose(pb.Proposal(task="turbofan", reason="error"), timeout=10).heeded
    assert serving.service.registry.events("wear") == []


def test_rules_that_are_changed_while_it_serves_are_heeded(serving, follows):
    north = serving.plant("north")
    settings = serving.directory.load()
    right = config.to_yaml(settings)
    settings.automation = [Automation(task="turbofan", on=["error"])]
    serving.directory.config.write_text(config.to_yaml(settings))
    assert north.stub.Propose(pb.Proposal(task="turbofan", reason="error"), timeout=10).heeded
    serving.directory.config.write_text("whim: 1\n")
    assert north.stub.Propose(pb.Proposal(task="turbofan", reason="error"), timeout=10).heeded, (
        "while the file is wrong, what was right last is heard"
    )
    serving.directory.config.write_text(right)
    assert not north.stub.Propose(pb.Proposal(task="turbofan", reason="error"), timeout=10).heeded


def test_a_word_that_is_none_is_refused(serving, follows):
    north = serving.plant("north")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    fails_with(invalid, north.stub.Propose, pb.Proposal(task="turbofan", reason="rmse 17.3"), timeout=10)
    fails_with(invalid, north.stub.Propose, pb.Proposal(task="turbofan", runs=2**31), timeout=10)


def test_a_plant_cannot_fill_the_history(serving, follows, monkeypatch):
    north = serving.plant("north")
    monkeypatch.setattr(plant_api, "_WORD_SECONDS", 60.0)
    north.stub.Propose(pb.Proposal(task="turbofan", reason="drift", runs=1), timeout=10)
    again = pb.Proposal(task="turbofan", runs=2)
    fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, north.stub.Propose, again, timeout=10)
    assert serving.plant("south").stub.Propose(again, timeout=10) == pb.Heard(heeded=False)


def test_words_side_by_side_are_one_word(serving, follows, monkeypatch):
    north = serving.plant("north")
    monkeypatch.setattr(plant_api, "_WORD_SECONDS", 60.0)
    words = [pb.Proposal(task="turbofan", runs=runs) for runs in range(8)]
    calls = [north.stub.Propose.future(word, timeout=10) for word in words]
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == 1
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 7
    assert len(serving.service.registry.events("turbofan")) == 1


def test_a_plant_that_reports_again_and_again_is_slowed(serving, monkeypatch):
    monkeypatch.setattr(plant_api, "Pace", lambda: Pace(deep=2))
    serving.restart()
    north = serving.plant("north")
    serving.service.registry.create_release("r-1", None, "turbofan", "0" * 64)
    for state in ("received", "active"):
        north.stub.Deployed(pb.Deployment(release="r-1", state=state), timeout=10)
    again = pb.Deployment(release="r-1", state="received")
    fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, north.stub.Deployed, again, timeout=10)
    assert len(serving.service.registry.deployment_history("r-1")) == 2
    serving.plant("south").stub.Deployed(pb.Deployment(release="r-1", state="received"), timeout=10)


def test_a_pace_grows_back():
    now = [0.0]
    pace = Pace(deep=2, seconds=60.0, clock=lambda: now[0])
    assert [pace.take("north") for _ in range(3)] == [True, True, False]
    now[0] = 60.0
    assert [pace.take("north") for _ in range(2)] == [True, False]
    now[0] = 1e6
    assert [pace.take("north") for _ in range(3)] == [True, True, False]
