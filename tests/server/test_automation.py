"""Runs that start without a command: over a real registry, with a clock and a starter of the test's."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from interplant.core import config
from interplant.core.automation_config import Automation as Policy
from interplant.core.certificates import utc_now
from interplant.core.errors import InterplantError, UsageError
from interplant.core.schema import Rounds, Task
from interplant.server import automation, followed, run_records, setup, starting, store
from interplant.server.automation import Automation
from interplant.server.database import writing
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Dropped, Issued, no_quorum
from interplant.server.registry import Registry
from interplant.server.run_folder import RunFolder, make_order
from interplant.server.runs import stop_run
from interplant.server.standings import standings
from interplant.server.starting import start_in_child


@pytest.fixture
def directory(tmp_path):
    setup.init(tmp_path / "coordinator", "demo", "127.0.0.1:1", "127.0.0.1:1")
    return CoordinatorDirectory(tmp_path / "coordinator")


@pytest.fixture
def registry(directory):
    opened = Registry.open(directory)
    for name in ("north", "south"):
        enrol(opened, name)
    yield opened
    opened.close()


def enrol(registry, name):
    registry.enrol(name, Issued(name, datetime(2036, 1, 1, tzinfo=UTC), "certificate", name))


def follow(directory, **words):
    settings = directory.load()
    settings.automation = [Policy(**{"task": "turbofan", "action": "start", "apart_hours": 0.0} | words)]
    directory.config.write_text(config.to_yaml(settings))


class Starter:
    """Queues runs in the registry alone."""

    def __init__(self, registry):
        self.registry, self.asked, self.fails = registry, [], ""

    def __call__(self, directory, task, start_from, because):
        self.asked.append((task, start_from, because))
        if self.fails:
            raise InterplantError(self.fails)
        run = self.registry.create_run(task, {}, 3)
        order = make_order(run.id, tiny(), Rounds(quorum=2), "grpc", True)
        RunFolder(directory.runs / run.id).create(order)
        return run.id


@pytest.fixture
def starter(registry):
    return Starter(registry)


def step(directory, registry, starter):
    Automation(directory, registry, starter).step(datetime.now(UTC))


def kinds(registry):
    return [one.kind for one in reversed(registry.events("turbofan"))]


def end_runs(registry):
    for run in registry.runs():
        registry.update_run(run.id, state="finished")


def test_a_proposal_starts_one_run_from_the_release_that_is_on_offer(directory, registry, starter):
    follow(directory)
    for name, task in (("a-1", "turbofan"), ("a-2", "turbofan"), ("a-3", "turbofan"), ("other", "wear")):
        registry.create_release(name, None, task, "00")
        decide = registry.reject_release if name == "a-3" else registry.approve_release
        decide(name, "")
    assert followed.hear(registry, "north", "turbofan", "drift", None)
    step(directory, registry, starter)
    assert starter.asked == [("turbofan", "a-2", "proposed by north (drift)")]
    end_runs(registry)
    step(directory, registry, starter)
    assert len(starter.asked) == 1, "what was proposed before the run counts no more"
    assert kinds(registry) == ["proposal.drift", "automation.begins", "automation.started"]
    assert registry.events("turbofan")[0].text.endswith(" from a-2: proposed by north (drift)")


def test_what_is_proposed_while_a_run_goes_on_counts_after_it(directory, registry, starter):
    follow(directory)
    followed.hear(registry, "north", "turbofan", "drift", None)
    step(directory, registry, starter)
    followed.hear(registry, "south", "turbofan", "new_data", None)
    step(directory, registry, starter)
    step(directory, registry, starter)
    assert len(starter.asked) == 1
    assert kinds(registry).count("automation.waits") == 1, "a reason to wait is told once"
    end_runs(registry)
    step(directory, registry, starter)
    assert [asked[2] for asked in starter.asked][1:] == ["proposed by south (new_data)"]


def test_a_person_approves_or_declines(directory, registry, starter):
    follow(directory, action="propose")
    with pytest.raises(UsageError, match="expected a proposed run, found none"):
        automation.approve(directory, "turbofan")
    followed.hear(registry, "north", "turbofan", "drift", None)
    for _ in range(2):
        step(directory, registry, starter)
    assert starter.asked == []
    assert kinds(registry).count("automation.proposed") == 1
    automation.decline(directory, "turbofan", "the line stands still")
    step(directory, registry, starter)
    assert starter.asked == []
    with pytest.raises(UsageError, match="found none"):
        automation.approve(directory, "turbofan")

    followed.hear(registry, "north", "turbofan", "drift", None)
    step(directory, registry, starter)
    automation.approve(directory, "turbofan")
    step(directory, registry, starter)
    (asked,) = starter.asked
    assert asked[2] == "a person has approved it; proposed by north (drift)"
    (standing,) = standings(directory, registry)
    assert (standing.state, standing.proposals) == ("started", {})


def test_an_approval_is_taken_back_before_the_run_starts(directory, registry, starter):
    follow(directory, action="propose", quiet=["Mon-Sun"])
    with pytest.raises(UsageError, match="expected a proposed or approved run, found none"):
        automation.decline(directory, "turbofan")
    followed.hear(registry, "north", "turbofan", "drift", None)
    registry.add_event(followed.PROPOSED, "turbofan", "proposed by north (drift)")
    automation.approve(directory, "turbofan")
    step(directory, registry, starter)
    assert kinds(registry)[-1] == "automation.waits"
    automation.decline(directory, "turbofan", "the line stands still")
    follow(directory, action="propose")
    step(directory, registry, starter)
    assert starter.asked == []
    (standing,) = standings(directory, registry)
    assert (standing.state, standing.proposals) == ("declined", {})


def test_rules_that_are_changed_while_it_goes_on_are_followed(directory, registry, starter):
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    follow(directory, task="own.yaml")
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "tiny", "drift", None)
    for words in ({"quiet": ["Mon-Sun"]}, {"on": ["error"]}, {"action": "propose"}):
        follow(directory, task="own.yaml", **words)
        own.step(datetime.now(UTC))
    follow(directory)
    own.step(datetime.now(UTC))
    assert starter.asked == []
    follow(directory, task="own.yaml")
    task = tiny()
    task.name = "other"
    (directory.path / "own.yaml").write_text(config.to_yaml(task))
    own.step(datetime.now(UTC))
    assert starter.asked == [], "the task's file has another task now"
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    own.step(datetime.now(UTC))
    assert len(starter.asked) == 1


def test_a_quorum_that_is_changed_counts(directory, registry, starter):
    follow(directory)
    own = Automation(directory, registry, starter)
    settings = directory.load()
    settings.rounds.quorum = 2
    directory.config.write_text(config.to_yaml(settings))
    followed.hear(registry, "north", "turbofan", "drift", 1)
    followed.hear(registry, "south", "turbofan", "", 0)
    own.step(datetime.now(UTC))
    assert starter.asked == []


@pytest.mark.parametrize("spoilt", ["federation.yaml", "own.yaml"])
def test_while_a_file_is_wrong_nothing_starts_and_that_is_said_once(
    directory, registry, starter, spoilt, caplog
):
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    follow(directory, task="own.yaml")
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "tiny", "drift", None)
    file = directory.path / spoilt
    right = file.read_text()
    file.write_text(right + "whim: 1\n")
    for _ in range(3):
        own.step(datetime.now(UTC))
    assert starter.asked == []
    (waits,) = registry.events("tiny", kinds=[followed.WAITS])
    assert f"{file}:" in waits.text
    assert "unknown key 'whim'" in waits.text
    assert waits.text.endswith("; no run starts by itself until that is mended")
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [waits.text]
    file.write_text(right)
    own.step(datetime.now(UTC))
    assert len(starter.asked) == 1


def test_a_run_that_lay_before_a_person_does_so_again_when_a_file_is_mended(directory, registry, starter):
    follow(directory, action="propose")
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "drift", None)
    own.step(datetime.now(UTC))
    right = directory.config.read_text()
    directory.config.write_text("whim: 1\n")
    own.step(datetime.now(UTC))
    directory.config.write_text(right)
    for _ in range(2):
        own.step(datetime.now(UTC))
    (standing,) = standings(directory, registry)
    assert standing.state == "proposed"
    assert kinds(registry).count("automation.proposed") == 2
    automation.approve(directory, "turbofan")
    own.step(datetime.now(UTC))
    assert len(starter.asked) == 1


def test_a_file_that_was_mended_is_not_said_to_be_wrong(directory, registry, starter):
    follow(directory)
    own = Automation(directory, registry, starter)
    right = directory.config.read_text()
    directory.config.write_text("whim: 1\n")
    own.step(datetime.now(UTC))
    directory.config.write_text(right)
    for _ in range(2):
        step(directory, registry, starter)  # also after a restart
    assert kinds(registry) == ["automation.waits", "automation.begins", "automation.waits"]
    assert registry.events("turbofan")[0].text == "the files are right again, and followed"


def test_a_run_that_cannot_start_is_told_and_not_tried_again_and_again(directory, registry, starter):
    follow(directory)
    starter.fails = "model.name: 'x' cannot be imported"
    followed.hear(registry, "north", "turbofan", "drift", None)
    for _ in range(3):
        step(directory, registry, starter)
    assert len(starter.asked) == 1
    (standing,) = standings(directory, registry)
    assert standing.state == "failed"
    assert "cannot be imported" in standing.why


@pytest.fixture
def clock(monkeypatch):
    """The time that lines of the history get; the test sets it."""
    now = [datetime(2026, 11, 26, 12, tzinfo=UTC)]  # a Thursday
    for module in (store, followed, run_records):
        monkeypatch.setattr(module, "utc_now", lambda: now[0])
    return now


def test_a_scheduled_start_that_fails_is_tried_again_with_growing_pauses(directory, registry, starter, clock):
    follow(directory, schedule=["Thu 13:00"])
    own = Automation(directory, registry, starter)
    starter.fails = "the disk is full"
    tried = []
    while clock[0].hour < 15:
        before = len(starter.asked)
        own.step(clock[0])
        tried += [f"{clock[0]:%H:%M}"] * (len(starter.asked) - before)
        clock[0] += timedelta(minutes=1)
    assert tried == ["13:00", "13:05", "13:15", "13:35", "14:15"]
    assert registry.events("turbofan")[0].text.endswith("the disk is full; tried again in 80 minutes")
    starter.fails = ""
    clock[0] = clock[0].replace(hour=15, minute=35)
    own.step(clock[0])
    (run,) = registry.runs()
    registry.update_run(run.id, state="finished")
    asked = len(starter.asked)
    clock[0] += timedelta(days=6)
    own.step(clock[0])
    assert len(starter.asked) == asked, "the moment has had its run"


def test_a_scheduled_run_that_was_declined_is_not_proposed_again(directory, registry, starter, clock):
    follow(directory, schedule=["Thu 13:00"], action="propose")
    own = Automation(directory, registry, starter)
    own.step(clock[0])
    for day in (0, 7):
        clock[0] = datetime(2026, 11, 26, 13, 1, tzinfo=UTC) + timedelta(days=day)
        own.step(clock[0])
        clock[0] += timedelta(minutes=1)
        automation.decline(directory, "turbofan")
        for _ in range(3):
            clock[0] += timedelta(minutes=1)
            own.step(clock[0])
    assert kinds(registry).count("automation.proposed") == 2


def test_a_plant_that_flips_its_budget_hides_nothing_of_the_others(directory, registry, starter):
    follow(directory, action="propose", schedule=["02:00"])
    step(directory, registry, starter)
    begins = followed.said(registry, "turbofan").begins
    followed.hear(registry, "north", "turbofan", "drift", 5)
    with writing(registry.engine) as session:
        for number in range(2005):
            store.add_event(session, followed.BUDGET, "turbofan", f"south {number % 2}")
    said = followed.said(registry, "turbofan")
    assert said.begins == begins
    assert said.proposals == {"north": ["drift"]}
    assert said.runs == {"north": 5, "south": 0}


def test_a_budget_is_told_a_few_times_a_day(registry, clock):
    for runs in range(24):
        assert followed.hear(registry, "north", "turbofan", "", runs)
    with pytest.raises(followed.TooOftenError):
        followed.hear(registry, "north", "turbofan", "", 99)
    assert followed.hear(registry, "north", "turbofan", "drift", 99), "what it proposes is heard"
    assert followed.hear(registry, "south", "turbofan", "", 3)
    assert followed.said(registry, "turbofan").runs == {"north": 23, "south": 3}
    clock[0] += timedelta(days=1)
    assert followed.hear(registry, "north", "turbofan", "", 99)


def test_a_plants_word_is_noted_once(registry):
    assert followed.hear(registry, "north", "turbofan", "drift", 3)
    assert not followed.hear(registry, "north", "turbofan", "drift", 3)
    assert followed.hear(registry, "north", "turbofan", "", 2)
    assert followed.hear(registry, "south", "turbofan", "drift", None)
    said = followed.said(registry, "turbofan")
    assert said.proposals == {"north": ["drift"], "south": ["drift"]}
    assert said.runs == {"north": 2}


def test_what_plants_said_that_are_gone_does_not_count(directory, registry, starter):
    follow(directory, proposals=3)
    enrol(registry, "east")
    for name in ("north", "south", "east"):
        followed.hear(registry, name, "turbofan", "drift", 3 * (name != "east"))
    registry.revoke("east")
    step(directory, registry, starter)
    assert starter.asked == []
    (standing,) = standings(directory, registry)
    assert standing.proposals == {"north": ["drift"], "south": ["drift"]}
    assert standing.why == "proposed by north (drift), south (drift); expected 3 plants, found 2"
    follow(directory, proposals=2)
    step(directory, registry, starter)
    assert len(starter.asked) == 1, "the two that are left are a quorum, and both can pay"


def test_a_schedule_begins_with_the_automation(directory, registry, starter):
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    follow(directory, schedule=["Thu 11:00", "Thu 13:00"])
    own = Automation(directory, registry, starter)
    own.step(now)
    assert starter.asked == [], "11:00 was before anybody followed the task"
    later = utc_now() + timedelta(days=8)
    own.step(later)
    assert starter.asked[0][2].startswith("due by the schedule since ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"task": "turbine"}, "task 'turbine': expected one of"),
        ({"task": "none.yaml"}, "none.yaml: expected a file here, found none"),
        ({"overrides": ["rounds=0"]}, "rounds: expected 1 or more, found 0"),
        ({"on": ["whim"]}, r"automation.0.on: expected one of new_data, drift"),
        ({"action": "run"}, "automation.0.action: expected one of propose, start"),
        ({"quiet": ["night"]}, "automation.0.quiet: expected such as"),
        ({"apart_hours": -1.0}, "automation.0.apart_hours: expected 0 to"),
    ],
)
def test_rules_that_cannot_be_are_told(directory, words, sentence):
    follow(directory, **words)
    with pytest.raises(UsageError, match=sentence):
        followed.followed(directory)


def test_a_run_is_queued_in_a_process_of_its_own_with_its_reasons(directory, registry):
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    follow(directory, task="own.yaml", overrides=["rounds=2"])
    run = registry.run(start_in_child(directory, "tiny", "", "because of north"))
    assert (run.state, run.rounds, run.config["because"]) == ("queued", 2, "because of north")
    assert RunFolder(directory.runs / run.id).order().parent == ""
    with pytest.raises(InterplantError, match="release 'r-9' is not in"):
        start_in_child(directory, "tiny", "r-9", "")


def test_a_run_of_a_model_that_is_known_is_queued_here(directory, registry, monkeypatch):
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    follow(directory, task="own.yaml")
    monkeypatch.setattr(starting, "start_in_child", lambda *words: f"child: {words[3]}")
    assert starting.start(directory, "tiny", "", "because") == "child: because"
    for known, queued in (({}, "here"), (None, "child: why")):
        monkeypatch.setattr(starting, "known_weights", lambda *_, known=known: known)
        monkeypatch.setattr(starting, "start_run", lambda *_, **__: SimpleNamespace(id="here"))
        assert starting.start(directory, "tiny", "r-1", "why") == queued


# --- Runs that do not come to their end ---------------------------------------------------------------


def too_few(registry, number=1, **codes):
    """Pause the newest run in a round for which these plants had these codes; none: it took part."""
    run = registry.runs()[0]
    out = [Dropped(name, code, f"because of {code}") for name, code in codes.items() if code]
    part = [name for name, code in codes.items() if not code]
    registry.record_round(run.id, number, 1, part, dropped=out)
    registry.update_run(run.id, state="paused", reason=f"{no_quorum(number, len(part), 2)}: {out}")


def times_of(own, clock, registry, hours, carry_out):
    """Step each minute; return when the newest run was queued again, and have it carried out."""
    found = []
    for _ in range(60 * hours):
        own.step(clock[0])
        if registry.runs()[0].state == "queued":
            found.append(f"{clock[0]:%H:%M}")
            carry_out()
        clock[0] += timedelta(minutes=1)
    return found


@pytest.mark.parametrize("action", ["start", "propose"])
def test_a_run_that_waits_for_plants_goes_on_by_itself(directory, registry, starter, clock, action):
    follow(directory)
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    too_few(registry, north="quiet", south="paused")
    follow(directory, action=action, quiet=["Thu 13:00-14:00"])
    clock[0] += timedelta(minutes=1)
    followed.hear(registry, "south", "turbofan", "drift", None)
    tried = times_of(own, clock, registry, 4, lambda: too_few(registry, north="away", south=""))
    assert tried == ["12:05", "12:15", "12:35", "14:00", "15:20"], "a quiet time of ours is kept too"
    assert len(starter.asked) == 1
    last = registry.events("turbofan", 1, [followed.RESUMED])[0].text
    assert last == f"run {registry.runs()[0].id} goes on, try 5: it waited for north (because of away)"
    (standing,) = standings(directory, registry)
    assert standing.why.endswith(
        "waits for north (because of away); it is tried again at 2026-11-26 18:00 UTC"
    )
    assert standing.proposals == {"south": ["drift"]}, "it counts when the run is over"


def test_a_run_that_got_on_is_tried_again_soon(directory, registry, starter, clock):
    follow(directory)
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    too_few(registry, north="quiet", south="quiet")
    times_of(own, clock, registry, 2, lambda: too_few(registry, north="quiet", south="quiet"))
    run = registry.runs()[0]
    registry.record_round(run.id, 1, 1, ["north", "south"])
    registry.update_run(run.id, state="running", round=1)
    too_few(registry, 2, north="late", south="")
    tried = times_of(own, clock, registry, 1, lambda: too_few(registry, 2, north="late", south=""))
    assert tried == ["14:05", "14:15", "14:35"]


@pytest.mark.parametrize(
    ("codes", "goes_on"),
    [
        ({"north": "budget_spent", "south": "quiet"}, False),
        ({"north": "", "south": "budget_spent"}, False),
        ({"north": "model_unfit", "south": "model_unfit"}, False),
        ({"north": "", "ghost": "quiet"}, False),
        ({"north": "", "south": "quiet", "ghost": "budget_spent"}, True),
    ],
)
def test_a_run_goes_on_where_the_plants_that_come_back_are_enough(
    directory, registry, starter, clock, codes, goes_on
):
    follow(directory)
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    too_few(registry, **codes)
    clock[0] += timedelta(days=2)
    for _ in range(2):
        own.step(clock[0])
    (run,) = registry.runs()
    assert run.state == ("queued" if goes_on else "paused")
    if not goes_on:
        waits = registry.events("turbofan", kinds=[followed.WAITS])
        assert [f"`interplant run show {run.id}` says why" in one.text for one in waits] == [True]


def test_what_rests_after_a_quiet_answer_is_waited_for(directory, registry, starter, clock):
    follow(directory)
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    run = registry.runs()[0]
    registry.record_round(run.id, 1, 1, ["north"], dropped=[Dropped("south", "quiet", "at this time")])
    registry.record_round(run.id, 1, 2, ["north"], dropped=[Dropped("south", "resting", "not asked")])
    registry.update_run(run.id, state="paused", reason=f"{no_quorum(1, 1, 2)}: south: not asked")
    clock[0] += timedelta(minutes=5)
    own.step(clock[0])
    assert registry.run(run.id).state == "queued"


def test_a_run_that_met_a_fault_or_that_a_person_has_started_waits_for_a_person(
    directory, registry, starter, clock
):
    follow(directory)
    own = Automation(directory, registry, starter)
    by_hand = starter(directory, "turbofan", "", "")
    too_few(registry, north="quiet", south="quiet")
    clock[0] += timedelta(minutes=1)
    followed.hear(registry, "north", "turbofan", "person", None)
    clock[0] += timedelta(hours=2)
    own.step(clock[0])
    assert registry.run(by_hand).state == "paused"
    assert "`interplant run resume` goes on with it" in registry.events("turbofan")[0].text
    registry.update_run(by_hand, state="finished")
    own.step(clock[0])
    too_few(registry, north="quiet", south="quiet")
    run = registry.runs()[0]
    registry.update_run(run.id, state="paused", reason="a fault: ZeroDivisionError: division by zero")
    clock[0] += timedelta(hours=2)
    own.step(clock[0])
    assert registry.run(run.id).state == "paused"


def test_a_paused_run_holds_up_no_other_task(directory, registry, starter, clock):
    (directory.path / "own.yaml").write_text(config.to_yaml(tiny()))
    settings = directory.load()
    words = {"action": "start", "apart_hours": 0.0}
    settings.automation = [Policy(task="turbofan", **words), Policy(task="own.yaml", **words)]
    directory.config.write_text(config.to_yaml(settings))
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    too_few(registry, north="quiet", south="quiet")
    clock[0] += timedelta(minutes=5, seconds=-1)
    followed.hear(registry, "north", "tiny", "person", None)
    own.step(clock[0])
    assert [asked[0] for asked in starter.asked] == ["turbofan", "tiny"]
    clock[0] += timedelta(hours=1)
    own.step(clock[0])
    tiny_run, turbofan_run = registry.runs()
    assert turbofan_run.state == "paused", "one run at a time"
    registry.update_run(tiny_run.id, state="finished")
    own.step(clock[0])
    assert registry.run(turbofan_run.id).state == "queued"


def test_a_run_that_a_person_stops_is_declined(directory, registry, starter, clock):
    follow(directory, schedule=["Thu 12:10"])
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    clock[0] += timedelta(minutes=20)
    followed.hear(registry, "south", "turbofan", "drift", None)
    clock[0] += timedelta(minutes=1)
    stop_run(directory, registry.runs()[0].id)
    clock[0] += timedelta(minutes=1)
    own.step(clock[0])
    assert len(starter.asked) == 1, "what came before the stop counts no more, nor does the schedule's moment"
    assert followed.hear(registry, "south", "turbofan", "drift", None)
    own.step(clock[0])
    assert [asked[2] for asked in starter.asked][1:] == ["proposed by south (drift)"]


def test_a_run_that_fails_by_itself_is_tried_again_a_few_times(directory, registry, starter, clock):
    follow(directory, schedule=["Thu 12:00"])
    own = Automation(directory, registry, starter)
    clock[0] -= timedelta(minutes=5)
    own.step(clock[0])
    clock[0] += timedelta(minutes=5)
    followed.hear(registry, "north", "turbofan", "person", None)
    clock[0] += timedelta(minutes=1)

    def fail():
        registry.update_run(registry.runs()[0].id, state="failed", reason="the disk is full")

    assert times_of(own, clock, registry, 4, fail) == ["12:01", "12:07", "12:18"]
    why = "proposed by north (person); due by the schedule since 2026-11-26 12:00 UTC"
    assert [asked[2] for asked in starter.asked] == [why] * 3
    assert kinds(registry).count("automation.failed") == 2
    gave_up = registry.events("turbofan")[0]
    assert gave_up.kind == followed.GAVE_UP
    assert gave_up.text == (
        f"run {registry.runs()[0].id} failed: the disk is full; 3 have failed in a row: "
        "what was proposed or due until now counts no more"
    )
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    assert len(starter.asked) == 4


def test_a_run_that_failed_lies_before_a_person_again(directory, registry, starter, clock):
    follow(directory, action="propose", apart_hours=24.0)
    own = Automation(directory, registry, starter)
    followed.hear(registry, "north", "turbofan", "person", None)
    own.step(clock[0])
    automation.approve(directory, "turbofan")
    own.step(clock[0])
    clock[0] += timedelta(minutes=1)
    registry.update_run(registry.runs()[0].id, state="failed", reason="the disk is full")
    for hours, state in ((0, "failed"), (1, "waits"), (24, "proposed")):
        clock[0] += timedelta(hours=hours)
        own.step(clock[0])
        assert standings(directory, registry)[0].state == state
    assert len(starter.asked) == 1


def tiny():
    task = config.load(__import__("pathlib").Path(__file__).parents[2] / "data" / "turbofan.yaml", Task)
    task.name = "tiny"
    return task
