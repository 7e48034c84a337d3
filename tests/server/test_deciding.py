"""The decision on a task's next run, over plain facts and a clock that the test sets."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interplant.core.automation_config import Automation
from interplant.server.deciding import NOTHING, PROPOSE, START, WAIT, Facts, decide

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)  # a Thursday
POLICY = Automation(task="turbofan", action="start", apart_hours=24.0)
FACTS = Facts(NOW, NOW - timedelta(days=30), {"north": ["drift"]}, plants=4, quorum=2)


def test_a_plants_proposal_starts_a_run_and_is_the_reason() -> None:
    decision = decide(POLICY, FACTS)
    assert (decision.kind, decision.why) == (START, "proposed by north (drift)")


def test_where_a_person_must_approve_it_is_proposed() -> None:
    policy = replace(POLICY, action="propose")
    assert decide(policy, FACTS).kind == PROPOSE
    approved = decide(policy, replace(FACTS, approved=True))
    assert approved.kind == START
    assert approved.why == "a person has approved it; proposed by north (drift)"


def test_without_a_reason_nothing_happens() -> None:
    assert decide(POLICY, replace(FACTS, proposals={})).kind == NOTHING
    assert decide(replace(POLICY, on=["error", "person"]), FACTS).kind == NOTHING


def test_reasons_that_are_not_heeded_are_left_out() -> None:
    facts = replace(FACTS, proposals={"north": ["new_data", "drift"], "south": ["error"]})
    assert decide(replace(POLICY, on=["drift"]), facts).why == "proposed by north (drift)"


def test_as_many_plants_as_are_wanted_must_propose() -> None:
    policy = replace(POLICY, proposals=2)
    few = decide(policy, FACTS)
    assert few.kind == NOTHING
    assert few.why == "proposed by north (drift); expected 2 plants, found 1"
    facts = replace(FACTS, proposals={"north": ["drift"], "south": ["new_data"]})
    assert decide(policy, facts).why == "proposed by north (drift), south (new_data)"


@pytest.mark.parametrize(("hours", "kind"), [(0.0, WAIT), (23.99, WAIT), (24.0, START), (99.0, START)])
def test_runs_are_apart(hours: float, kind: str) -> None:
    decision = decide(POLICY, replace(FACTS, last=NOW - timedelta(hours=hours)))
    assert decision.kind == kind
    assert kind == START or "runs are 24 h apart" in decision.why


def test_an_approval_does_not_wait_for_the_distance_but_for_the_rest() -> None:
    facts = replace(FACTS, approved=True, last=NOW)
    assert decide(POLICY, facts).kind == START
    assert decide(POLICY, replace(facts, busy="run r-1 is running")).kind == WAIT
    assert decide(replace(POLICY, quiet=["Thu"]), facts).kind == WAIT


def test_a_run_that_goes_on_is_waited_for() -> None:
    decision = decide(POLICY, replace(FACTS, busy="run r-1 is running"))
    assert (decision.kind, decision.why) == (WAIT, "proposed by north (drift); run r-1 is running")


def test_quiet_times_and_maintenance_windows_count_in_their_zone() -> None:
    quiet = replace(POLICY, quiet=["Mon-Fri 12:00-14:00"])
    assert "it is a quiet time (Mon-Fri 12:00-14:00, UTC)" in decide(quiet, FACTS).why
    assert decide(replace(quiet, zone="Asia/Tokyo"), FACTS).kind == START
    window = replace(POLICY, maintenance=["Sat-Sun", "Thu 13:00-14:00"])
    assert decide(window, FACTS).kind == WAIT
    assert decide(window, replace(FACTS, now=NOW + timedelta(hours=1))).kind == START


def test_a_moment_of_the_schedule_is_due_once() -> None:
    policy = replace(POLICY, schedule=["Thu 11:00"], apart_hours=0.0)
    facts = replace(FACTS, proposals={})
    decision = decide(policy, facts)
    assert (decision.kind, decision.why) == (START, "due by the schedule since 2026-11-26 11:00 UTC")
    assert decide(policy, replace(facts, settled=NOW)).kind == NOTHING
    assert decide(policy, replace(facts, last=NOW)).kind == START, "a run that failed has not answered it"
    assert decide(policy, replace(facts, begins=NOW - timedelta(minutes=1))).kind == NOTHING
    assert decide(replace(policy, on=["drift"]), facts).kind == NOTHING


def test_a_moment_before_a_decline_is_due_no_more() -> None:
    policy = replace(POLICY, schedule=["Thu 11:00"], apart_hours=0.0, action="propose")
    facts = replace(FACTS, proposals={})
    assert decide(policy, replace(facts, settled=NOW - timedelta(minutes=90))).kind == PROPOSE
    assert decide(policy, replace(facts, settled=NOW - timedelta(minutes=30))).kind == NOTHING


def test_after_a_start_that_failed_the_next_waits() -> None:
    later = replace(FACTS, retry=NOW + timedelta(minutes=5))
    assert decide(POLICY, later).kind == NOTHING
    assert decide(POLICY, replace(later, approved=True)).kind == NOTHING
    assert decide(POLICY, replace(later, now=NOW + timedelta(minutes=5))).kind == START


def test_spent_budgets_that_leave_no_quorum_are_told_with_the_ways_out() -> None:
    facts = replace(FACTS, runs={"north": 0, "south": 0, "east": 3})
    assert decide(POLICY, facts).kind == START, "two of four plants can pay"
    decision = decide(POLICY, replace(facts, quorum=3))
    assert decision.kind == WAIT
    assert "the budgets of north, south pay no further run" in decision.why
    assert "raise the budget, or serve on" in decision.why
