"""What the coordinator remembers of plants, invitations and runs, in SQLite and in PostgreSQL."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from interplant.core import config
from interplant.core.errors import InterplantError
from interplant.core.release import task_digest
from interplant.core.schema import Task
from interplant.data.tasks import builtin
from interplant.server import enrolments
from interplant.server.records import Dropped, Issued, node_id

SOON = datetime.now(UTC) + timedelta(hours=1)
LATER = SOON + timedelta(hours=1)


def issued(serial="aa", key="k1"):
    return Issued(serial, SOON, f"certificate {serial}", key)


def kinds(registry, subject):
    return [event.kind for event in reversed(registry.events(subject))]


# --- plants ----------------------------------------------------------------------------------------


def test_enrolled_plant_is_allowed_under_its_serial_alone(registry):
    registry.enrol("plant-1", issued("aa"))
    registry.enrol("plant-2", issued("bb"))
    assert registry.is_allowed("plant-1", "aa")
    assert not registry.is_allowed("plant-1", "bb")
    assert not registry.is_allowed("plant-1", "cc")
    assert not registry.is_allowed("plant-3", "aa")


def test_certificate_counts_until_it_expires(registry):
    registry.enrol("plant-1", issued("aa"))
    assert registry.is_allowed("plant-1", "aa", now=SOON - timedelta(seconds=1))
    assert not registry.is_allowed("plant-1", "aa", now=SOON)


def test_old_certificate_stays_good_after_a_renewal(registry):
    registry.enrol("plant-1", issued("aa"))
    registry.add_certificate("plant-1", issued("bb"))
    assert registry.is_allowed("plant-1", "aa")
    assert registry.is_allowed("plant-1", "bb")


def test_revoked_plant_loses_all_certificates_for_good(registry):
    registry.enrol("plant-1", issued("aa"))
    registry.add_certificate("plant-1", issued("bb"))
    registry.enrol("plant-2", issued("cc"))
    registry.revoke("plant-1", "stolen")
    registry.revoke("plant-1")
    assert not registry.is_allowed("plant-1", "aa")
    assert not registry.is_allowed("plant-1", "bb")
    assert registry.is_allowed("plant-2", "cc")
    with pytest.raises(InterplantError, match="not enrolled"):
        registry.add_certificate("plant-1", issued("dd"))
    registry.enrol("plant-1", issued("ee"))
    assert [registry.is_allowed("plant-1", serial) for serial in ("aa", "bb", "ee")] == [False, False, True]


def test_plant_keeps_its_number_for_ever(registry):
    first = registry.enrol("plant-1", issued("aa"))
    registry.revoke("plant-1")
    again = registry.enrol("plant-1", issued("bb"))
    assert first.node_id == again.node_id == node_id("plant-1")
    assert 0 < first.node_id < 2**63
    assert node_id("plant-2") != first.node_id


def test_active_plant_is_not_enrolled_twice(registry):
    registry.enrol("plant-1", issued("aa"))
    with pytest.raises(InterplantError, match="coordinator revoke plant-1"):
        registry.enrol("plant-1", issued("bb"))
    assert not registry.is_allowed("plant-1", "bb")


def test_plants_are_listed_by_name_with_state(registry):
    registry.enrol("b", issued("bb"))
    registry.enrol("a", issued("aa"))
    registry.revoke("b")
    assert [(plant.name, plant.state, plant.is_enrolled) for plant in registry.plants()] == [
        ("a", "enrolled", True),
        ("b", "revoked", False),
    ]
    assert registry.plant("c") is None


def test_seen_keeps_the_time_and_the_protocol(registry):
    registry.enrol("plant-1", issued())
    assert registry.plant("plant-1").last_seen is None
    registry.seen("plant-1", "1")
    registry.seen("plant-1")
    plant = registry.plant("plant-1")
    assert abs(plant.last_seen - datetime.now(UTC)) < timedelta(seconds=10)
    assert plant.protocol == "1"


def test_unknown_plant_cannot_be_revoked(registry):
    with pytest.raises(InterplantError, match="no plant 'plant-9'"):
        registry.revoke("plant-9")
    assert registry.events() == []


# --- invitations -----------------------------------------------------------------------------------


def test_invitation_enrols_once(registry):
    registry.invite("plant-1", "f0", SOON)
    assert registry.use_invitation("f0", issued("aa", "k1")) == "certificate aa"
    assert registry.plant("plant-1").is_enrolled
    assert registry.invitation("f0").used_at is not None
    with pytest.raises(InterplantError, match="was used on"):
        registry.use_invitation("f0", issued("bb", "k2"))
    assert not registry.is_allowed("plant-1", "bb")
    assert kinds(registry, "plant-1") == ["plant.invited", "plant.enrolled"]


def test_lost_answer_is_given_again_to_the_same_key(registry):
    registry.invite("plant-1", "f0", SOON)
    registry.use_invitation("f0", issued("aa", "k1"))
    assert registry.use_invitation("f0", issued("bb", "k1")) == "certificate aa"
    assert not registry.is_allowed("plant-1", "bb")
    assert kinds(registry, "plant-1").count("plant.enrolled") == 1


def test_lost_answer_is_not_given_after_revocation_or_expiry(registry):
    registry.invite("plant-1", "f0", SOON)
    registry.use_invitation("f0", issued("aa", "k1"))
    with pytest.raises(InterplantError, match="was used on"):
        registry.use_invitation("f0", issued("bb", "k1"), now=SOON)
    registry.revoke("plant-1")
    with pytest.raises(InterplantError, match="was used on"):
        registry.use_invitation("f0", issued("bb", "k1"))


def test_expired_invitation_is_worth_nothing(registry):
    registry.invite("plant-1", "f0", SOON)
    with pytest.raises(InterplantError, match=r"expired on .* enrol plant-1"):
        registry.use_invitation("f0", issued(), now=SOON)
    assert registry.plants() == []
    assert registry.invitation("f0").used_at is None


def test_newer_invitation_withdraws_the_older(registry):
    registry.invite("plant-1", "f0", SOON)
    registry.invite("plant-2", "f1", SOON)
    registry.invite("plant-1", "f2", SOON)
    with pytest.raises(InterplantError, match="withdrawn"):
        registry.use_invitation("f0", issued())
    registry.use_invitation("f1", issued("bb"))
    registry.use_invitation("f2", issued("cc"))


def test_revoking_withdraws_the_join_file(registry):
    registry.invite("plant-1", "f0", SOON)
    registry.revoke("plant-1")
    with pytest.raises(InterplantError, match="withdrawn"):
        registry.use_invitation("f0", issued())


def test_unknown_join_file_is_refused(registry):
    with pytest.raises(InterplantError, match="not written this join file"):
        registry.use_invitation("f9", issued())


def test_enrolled_plant_is_not_invited_until_revoked(registry):
    registry.enrol("plant-1", issued())
    with pytest.raises(InterplantError, match="enrolled already"):
        registry.invite("plant-1", "f0", SOON)
    assert registry.invitations() == []
    registry.revoke("plant-1")
    registry.invite("plant-1", "f0", SOON)


def test_failed_enrolment_leaves_the_invitation_unused(registry):
    registry.enrol("plant-2", issued("aa"))
    registry.invite("plant-1", "f0", SOON)
    with pytest.raises(InterplantError):
        registry.use_invitation("f0", issued("aa"))  # a serial that is taken: the whole is undone
    assert registry.invitation("f0").used_at is None
    assert registry.plant("plant-1") is None


def test_of_many_threads_one_uses_the_invitation(registry):
    registry.invite("plant-1", "f0", SOON)

    def use(number):
        try:
            return registry.use_invitation("f0", issued(f"s{number}", f"k{number}"))
        except InterplantError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(use, range(16)))
    won = [answer for answer in answers if answer.startswith("certificate")]
    assert len([answer for answer in answers if "was used on" in answer]) == 15
    allowed = [number for number in range(16) if registry.is_allowed("plant-1", f"s{number}")]
    assert won == [f"certificate s{allowed[0]}"]
    assert len(allowed) == 1


def test_who_asks_again_meanwhile_gets_the_same_certificate(registry, monkeypatch):
    registry.invite("plant-1", "f0", SOON)
    enrol, begun, go_on = enrolments._enrol, threading.Event(), threading.Event()

    def slowly(*words):
        begun.set()
        assert go_on.wait(30)
        return enrol(*words)

    monkeypatch.setattr(enrolments, "_enrol", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.use_invitation, "f0", issued("s1", "k1"))
        assert begun.wait(30)
        again = pool.submit(registry.use_invitation, "f0", issued("s2", "k1"))
        time.sleep(0.3)  # it waits for the first by now
        go_on.set()
        assert (first.result(30), again.result(30)) == ("certificate s1", "certificate s1")


PROCESS = """
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from interplant.core import config
from interplant.core.errors import InterplantError
from interplant.server.records import Issued
from interplant.server.registry import Registry
registry, number = Registry.open(sys.argv[1]), sys.argv[2]
print("ready", flush=True); sys.stdin.readline()
expires = datetime.now(UTC) + timedelta(hours=1)
for turn in range(30):
    registry.add_event("work", number, str(turn))
    registry.seen("plant-0")
try:
    registry.use_invitation("f0", Issued("s" + number, expires, "pem", "k" + number))
    print("won")
except InterplantError as error:
    assert "was used on" in str(error), error
"""


def test_several_processes_share_it(registry, registry_url):
    registry.invite("plant-1", "f0", SOON)
    registry.enrol("plant-0", issued())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, registry_url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(said) == ["", "", "won\n"]
    assert len([event for event in registry.events(limit=1000) if event.kind == "work"]) == 90


# --- runs and rounds -------------------------------------------------------------------------------


def test_a_task_is_kept_once_however_many_runs_have_it(registry):
    task = {"name": "turbofan", "contract": {"version": "2"}}
    runs = [registry.create_run("turbofan", task, 3) for _ in range(2)]
    changed = registry.create_run("turbofan", task | {"rounds": 4}, 4)
    assert runs[0].task_digest == runs[1].task_digest != changed.task_digest
    assert [(one.name, one.contract, one.digest) for one in registry.tasks()] == [
        ("turbofan", "2", changed.task_digest),
        ("turbofan", "2", runs[0].task_digest),
    ]
    assert registry.run(changed.id).task == registry.tasks()[0].content == task | {"rounds": 4}


def test_a_tasks_digest_is_that_of_its_lineage(registry):
    task = config.load(builtin("turbofan"), Task)
    run = registry.create_run(task.name, config.dump(task), 3)
    assert run.task_digest == task_digest(task)
    assert config.parse(registry.run(run.id).task, Task, "task") == task  # columns keep their order


def test_run_lives_from_queue_to_end(registry):
    run = registry.create_run("turbofan", {"name": "turbofan", "rounds": 3}, 3, {"engine": "grpc"})
    assert (run.state, run.round, run.started, run.finished) == ("queued", 0, None, None)
    assert registry.run(run.id) == run
    started = registry.update_run(run.id, state="running").started
    registry.update_run(run.id, round=2)
    registry.update_run(run.id, state="waiting", reason="quorum")
    ended = registry.update_run(run.id, state="finished", round=3)
    assert (ended.round, ended.started, ended.reason, ended.is_over) == (3, started, "", True)
    assert ended.finished >= ended.started >= ended.created
    assert ended.task == {"name": "turbofan", "rounds": 3}
    assert kinds(registry, run.id) == ["run.queued", "run.running", "run.waiting", "run.finished"]


def test_resumed_run_is_not_finished(registry):
    run = registry.create_run("turbofan", {}, 3)
    registry.update_run(run.id, state="failed", reason="no quorum")
    again = registry.update_run(run.id, state="queued")
    assert (again.finished, again.reason, again.is_over) == (None, "", False)


def test_change_that_came_too_late_is_refused(registry):
    run = registry.create_run("turbofan", {}, 3)
    registry.update_run(run.id, state="stopped")
    with pytest.raises(InterplantError, match="is stopped; expected queued or running"):
        registry.update_run(run.id, state="finished", expected=("running", "queued"))
    assert registry.run(run.id).state == "stopped"


def test_unknown_runs_and_states_are_refused(registry):
    with pytest.raises(InterplantError, match="no run 'x'"):
        registry.run("x")
    with pytest.raises(InterplantError, match="no run 'x'"):
        registry.update_run("x", round=1)
    assert registry.find_run("x") is None
    run = registry.create_run("turbofan", {}, 3)
    with pytest.raises(InterplantError, match="expected a state"):
        registry.update_run(run.id, state="done")


def test_oldest_queued_run_is_claimed_once(registry):
    ids = [registry.create_run("turbofan", {}, 1, run_id=name).id for name in ("b", "a", "c")]
    with ThreadPoolExecutor(4) as pool:
        claimed = [run.id for run in pool.map(lambda _: registry.claim_run(), range(3))]
    assert sorted(claimed) == sorted(ids)
    assert registry.claim_run() is None
    assert {run.state for run in registry.runs()} == {"running"}
    assert [run.id for run in registry.runs()] == ["c", "a", "b"]
    assert registry.runs(states=("queued",)) == []


def test_round_recorded_again_replaces_itself(registry):
    run = registry.create_run("turbofan", {}, 3)
    late = Dropped("plant-2", "deadline", "it did not answer in time")
    registry.record_round(run.id, 1, 1, ["plant-1"], dropped=[late])
    registry.record_round(run.id, 1, 2, ["plant-1"])
    registry.record_round(run.id, 1, 2, ["plant-1", "plant-2"], seconds={"train": 1.5})
    first, second = registry.rounds(run.id)
    assert (first.attempt, first.participants, first.dropped) == (1, ("plant-1",), (late,))
    assert (second.attempt, second.participants, second.dropped) == (2, ("plant-1", "plant-2"), ())
    assert second.seconds == {"train": 1.5}
    with pytest.raises(InterplantError, match="no run 'x'"):
        registry.record_round("x", 1, 1, [])
