"""The life of a release in the registry, in SQLite and in PostgreSQL."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from interplant.core.errors import InterplantError
from interplant.server.records import RELEASE_MOVES, Issued


@pytest.fixture
def enrol(registry):
    def work(*names):
        for name in names:
            soon = datetime.now(UTC) + timedelta(hours=1)
            registry.enrol(name, Issued(f"serial of {name}", soon, "pem", name))

    return work


@pytest.fixture
def offer(registry):
    """Bring a new release of a task to where plants are told of it."""

    def work(name, task="turbofan"):
        registry.create_release(name, None, task, "00")
        registry.approve_release(name, "by a person")
        return registry.roll_out_release(name)

    return work


def states(registry):
    return {release.id: release.state for release in registry.releases()}


def story(registry, release):
    return [event.kind.removeprefix("release.") for event in reversed(registry.events(release))]


def test_a_release_is_recorded_once(registry):
    run = registry.create_run("turbofan", {}, 3)
    made = registry.create_release("r1", run.id, "turbofan", "00")
    assert made.state == "candidate"
    registry.approve_release("r1", "by a person")
    assert registry.create_release("r1", run.id, "turbofan", "00").state == "approved"
    with pytest.raises(InterplantError, match="other content"):
        registry.create_release("r1", run.id, "turbofan", "11")
    with pytest.raises(InterplantError, match="no run"):
        registry.create_release("r2", "x", "turbofan", "00")
    assert [release.id for release in registry.releases()] == ["r1"]


def test_a_release_lives_from_candidate_to_superseded(registry, enrol, offer):
    enrol("north")
    offer("r1")
    registry.record_deployment("r1", "north", "active")
    offer("r2")
    assert states(registry) == {"r1": "superseded", "r2": "rolling_out"}
    assert story(registry, "r1") == ["candidate", "approved", "rolling_out", "active", "superseded"]
    assert registry.events("r1")[0].text == "by r2"


@pytest.mark.parametrize(("state", "wanted"), [*itertools.product(RELEASE_MOVES, RELEASE_MOVES)])
def test_only_the_moves_of_the_table_are_made(registry, enrol, offer, state, wanted):
    enrol("north")
    registry.create_release("r1", None, "turbofan", "00")
    for step in {
        "candidate": [],
        "approved": ["approved"],
        "rolling_out": ["approved", "rolling_out"],
        "active": ["approved", "rolling_out", "active"],
        "superseded": ["approved", "rolling_out", "superseded"],
        "rejected": ["rejected"],
        "rolled_back": ["approved", "rolling_out", "rolled_back"],
    }[state]:
        registry._move("r1", step, "")
    if wanted in RELEASE_MOVES[state]:
        registry._move("r1", wanted, "")
    else:
        with pytest.raises(InterplantError, match=f"release r1 is {state}; expected .*to be {wanted}"):
            registry._move("r1", wanted, "")
    assert states(registry) == {"r1": wanted if wanted in RELEASE_MOVES[state] else state}


def test_of_each_task_one_release_is_offered(registry, offer):
    offer("r1", "wear")
    offer("r2", "wear")
    offer("r3", "heat")
    registry.create_release("r4", None, "heat", "00")
    assert [release.id for release in registry.offered_releases()] == ["r3", "r2"]
    registry.reject_release("r4", "by a person: too few plants")
    assert [release.id for release in registry.offered_releases()] == ["r3", "r2"]


def test_an_older_candidate_is_superseded_and_a_newer_one_waits_on(registry, offer):
    registry.create_release("r1", None, "turbofan", "00")
    registry.create_release("r2", None, "turbofan", "00")
    registry.create_release("r3", None, "turbofan", "00")
    registry.approve_release("r2", "by a person")
    registry.roll_out_release("r2")
    assert states(registry) == {"r1": "superseded", "r2": "rolling_out", "r3": "candidate"}
    with pytest.raises(InterplantError, match="r1 is superseded; expected candidate"):
        registry.approve_release("r1", "by a person")


def test_a_release_is_active_when_all_have_answered_and_one_serves_it(registry, enrol, offer):
    enrol("north", "south", "west")
    registry.revoke("west")  # nobody waits for it
    offer("r1")
    registry.record_deployment("r1", "north", "active")
    assert states(registry) == {"r1": "rolling_out"}
    registry.record_deployment("r1", "south", "refused", "worse")
    assert states(registry) == {"r1": "active"}


def test_what_no_plant_tells_is_not_known(registry, enrol, offer):
    enrol("north", "south")
    offer("r1")
    for plant in ("north", "south"):
        registry.record_deployment("r1", plant, "received")
    assert states(registry) == {"r1": "rolling_out"}


def test_a_rollback_offers_the_release_before(registry, offer):
    for name in ("r1", "r2"):
        offer(name)
    registry.create_release("never", None, "turbofan", "00")
    registry.approve_release("never", "")
    offer("r3")
    assert states(registry)["never"] == "superseded"
    gone, back = registry.roll_back_release("r3", None, "by a person: it alarms at night")
    assert (gone.state, gone.back_to, back.id, back.state) == ("rolled_back", "r2", "r2", "rolling_out")
    assert [release.id for release in registry.offered_releases()] == ["r2"]
    assert registry.events("r3")[0].text == "by a person: it alarms at night"
    assert registry.rollbacks() == [("r3", "r2")]


def test_who_missed_two_rollbacks_is_told_where_they_lead(registry, offer):
    for name in ("r1", "r2", "r3"):
        offer(name)
    registry.roll_back_release("r3", None, "")
    registry.roll_back_release("r2", None, "")
    assert dict(registry.rollbacks()) == {"r3": "r1", "r2": "r1"}
    registry.roll_back_release("r1", None, "")
    assert dict(registry.rollbacks()) == {"r3": "", "r2": "", "r1": ""}
    assert registry.offered_releases() == []


def test_a_rollback_may_name_its_aim(registry, offer):
    for name in ("r1", "r2", "r3"):
        offer(name)
    offer("h1", "heat")
    for wrong in ("h1", "r3"):
        with pytest.raises(InterplantError, match="expected a superseded one of turbofan"):
            registry.roll_back_release("r3", wrong, "")
    assert states(registry)["r3"] == "rolling_out"
    registry.roll_back_release("r3", "r1", "")
    assert states(registry) == {
        "r1": "rolling_out",
        "r2": "superseded",
        "r3": "rolled_back",
        "h1": "rolling_out",
    }
    with pytest.raises(InterplantError, match="r3 is rolled_back"):
        registry.roll_back_release("r3", None, "")
    with pytest.raises(InterplantError, match="no release 'r9'"):
        registry.roll_back_release("r9", None, "")


def test_what_is_passed_over_is_not_gone_back_to_by_default(registry, offer):
    for name in ("r1", "r2", "r3"):
        offer(name)
    offer("h1", "heat")
    assert [one.id for one in registry.earlier_releases("r3")] == ["r2", "r1"]
    assert registry.earlier_releases("r1") == []
    assert registry.roll_back_release("r3", None, "", ["r2"])[0].back_to == "r1"
    assert registry.roll_back_release("r1", None, "", ["r2"])[0].back_to is None


def test_a_newer_release_may_follow_a_rollback(registry, offer):
    for name in ("r1", "r2"):
        offer(name)
    registry.roll_back_release("r2", None, "")
    offer("r3")
    assert states(registry) == {"r1": "superseded", "r2": "rolled_back", "r3": "rolling_out"}


def test_the_latest_word_on_a_deployment_stands_and_all_are_kept(registry, enrol):
    enrol("north")
    registry.create_release("r1", None, "turbofan", "00")
    registry.record_deployment("r1", "north", "received")
    registry.record_deployment("r1", "north", "refused", "worse than the present model")
    (one,) = registry.deployments("r1")
    assert (one.plant, one.state, one.reason) == ("north", "refused", "worse than the present model")
    assert [one.state for one in registry.deployment_history("r1")] == ["received", "refused"]
    texts = [event.text for event in registry.events("north") if event.kind == "deployment"]
    assert texts == ["r1 refused: worse than the present model", "r1 received"]
    with pytest.raises(InterplantError, match="no release 'r9'"):
        registry.record_deployment("r9", "north", "active")
    with pytest.raises(InterplantError, match="no plant 'east'"):
        registry.record_deployment("r1", "east", "active")
