"""What the commands show and do, in a federation on disk."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from interplant.client import champion as pointers
from interplant.client import connection, policy, receipts
from interplant.client.directory import PlantDirectory
from interplant.core import config
from interplant.core.errors import Refusal
from interplant.core.receipt import Receipt
from interplant.core.schema import PlantData, Task
from interplant.data.simulator import simulate
from interplant.data.tasks import builtin
from interplant.privacy.ledger import Ledger
from interplant.privacy.plan import Plan
from interplant.server import followed, release_keys
from interplant.server.directory import CoordinatorDirectory
from interplant.server.records import Dropped
from interplant.server.registry import Registry

from .conftest import edit, sign_release

Call = Callable[..., Any]
RUN = "20260101-120000-ab12"
RELEASE = f"turbofan-{RUN}-c0ffee"


@pytest.fixture
def charged(plant: PlantDirectory) -> PlantDirectory:
    """A plant that has taken part in two rounds."""
    task = config.load(builtin("turbofan"), Task)
    plan, ledger = Plan.of(task, PlantData(declared_windows=10_000)), Ledger(plant.ledger)
    for number in (1, 2):
        ledger.commit(ledger.reserve(plan, run=RUN, round=number, task="turbofan", lineage="data"))
    return plant


def test_the_version(interplant: Call) -> None:
    assert interplant("--version").out.startswith("interplant 0.")


def test_help_lists_only_what_is_there(interplant: Call) -> None:
    listed = interplant("coordinator", "--help").out
    assert "serve" in listed


@pytest.mark.parametrize("group", ["coordinator", "plant", "run", "data", "privacy", "release"])
def test_a_group_alone_explains_itself(group: str, interplant: Call) -> None:
    done = interplant(group)
    assert done.code == 2
    assert "Commands:" in done.err


KEY = "coordinator/keys/release.pub"
FOLDER = f"coordinator/releases/{RELEASE}"


@pytest.mark.parametrize(
    "words",
    [
        *(f"release {verb} nope" for verb in ("show", "approve", "reject", "rollback", "card")),
        "release rollback --from nope",
        f"release rollback nope --from {RELEASE}",
        *(f"release {verb} nope --plant north" for verb in ("show", "approve", "rollback", "card")),
        f"release verify nope --key {KEY}",
        *(f"release verify {FOLDER} --key {key}" for key in ("nope", "north.join")),
        *(f"release card {RELEASE} --key {key}" for key in ("nope", "north.join")),
        "lineage nope",
        "lineage nope --plant north",
        f"lineage {RELEASE} --key nope",
        *(f"run {verb} nope" for verb in ("show", "stop", "resume", "approve", "decline", "start")),
        "run start turbofan --start-from nope",
        "coordinator revoke nope",
        "coordinator rotate-key --revoke-key nope",
        "coordinator restore nope --dir restored",
        "plant join nope --dir south",
        "plant propose nope --dir north",
        "plant propose --dir nope",
        "data log --dir nope",
        "data diff nope nope --dir north",
        "data drift --snapshot nope --from nope --dir north",
        "privacy plan nope",
        "simulate --task nope",
    ],
)
@pytest.mark.usefixtures("place")
def test_what_is_not_there_is_a_wrong_word_wherever_it_is_named(words: str, interplant: Call) -> None:
    done = interplant(*words.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "nope" in done.err or "north" in done.err


def test_coordinator_status_without_and_with_a_plant(place: Path, interplant: Call) -> None:
    done = interplant("coordinator", "status")
    assert "Federation acme at 127.0.0.1:7443 is not serving." in done.out
    assert "north" in done.out
    found = interplant("coordinator", "status", "--json").json
    assert found["serving"] is False
    assert [(one["name"], one["state"], one["online"]) for one in found["plants"]] == [
        ("north", "enrolled", False)
    ]
    assert found["releases"] == [RELEASE]


AUTOMATION = """
automation:
- task: turbofan
  on: [error, schedule]
  schedule: ["Sun 02:00"]
  quiet: ["Mon-Fri 06:00-22:00"]
  zone: Europe/Vienna
  apart_hours: 24
"""


def test_coordinator_status_shows_what_starts_without_a_command(place: Path, interplant: Call) -> None:
    done = interplant("coordinator", "status")
    assert "No task is followed: federation.yaml has no automation." in done.out
    config = place / "coordinator" / "federation.yaml"
    text = "".join(line for line in config.read_text().splitlines(True) if not line.startswith("automation:"))
    config.write_text(text + AUTOMATION)
    registry = Registry.open(CoordinatorDirectory(place / "coordinator"))
    followed.hear(registry, "north", "turbofan", "error", 1)
    registry.add_event("automation.waits", "turbofan", "proposed by north (error); it is a quiet time")
    registry.close()
    (found,) = interplant("coordinator", "status", "--json").json["automation"]
    assert (found["task"], found["state"], found["why"]) == (
        "turbofan",
        "waits",
        "proposed by north (error); it is a quiet time",
    )
    assert found["proposals"] == {"north": ["error"]}
    assert (found["policy"]["on"], found["policy"]["apart_hours"]) == (["error", "schedule"], 24.0)
    due = datetime.fromisoformat(found["next_scheduled"])
    assert due.astimezone(ZoneInfo("Europe/Vienna")).strftime("%a %H:%M") == "Sun 02:00"
    assert timedelta() < due - datetime.now(UTC) <= timedelta(days=7)
    assert datetime.fromisoformat(found["not_before"]) > datetime.now(UTC)
    assert found["runs"] == {"north": 1}
    assert "raise the budget" in found["ways_out"]
    for words in (("coordinator", "status"), ("run", "proposals")):
        said = interplant(*words).out
        assert "turbofan  propose  north (error)  waits" in said
        assert "on error, schedule, from one plant; runs 24 h apart" in said
        assert "next by schedule" in said
        assert "Mon-Fri 06:00-22:00 (Europe/Vienna)" in said
        assert "budget of north    pays one more run; then wait for new machines' data" in said


def test_the_budget_says_how_many_runs_are_left_and_the_ways_out_before_none_is(
    waiting: PlantDirectory, interplant: Call
) -> None:
    waiting.champion.write_text(json.dumps({"release": RELEASE, "previous": None, "since": ""}))
    plain = waiting.config.read_text()
    runs = {}
    for epsilon in ("40.0", "1.1", "0.01"):
        edit(waiting.config, "declared_windows: 0", "declared_windows: 10000")
        edit(waiting.config, "epsilon: 1.0", f"epsilon: {epsilon}")
        (account,) = interplant("privacy", "budget", "--dir", waiting.path, "--json").json
        left = interplant("plant", "status", "--dir", waiting.path, "--json").json["runway"]
        assert account["runway"] == left
        said = interplant("privacy", "budget", "--dir", waiting.path).out
        assert f"runs of turbofan left  the budget pays {left['runs']} more" in said
        assert bool(left["ways_out"]) == ("policy.privacy.epsilon" in said) == (left["runs"] <= 1)
        runs[epsilon] = left["runs"]
        waiting.config.write_text(plain)
    assert runs["40.0"] > 1 == runs["1.1"]
    assert runs["0.01"] == 0


def test_revoke_and_enrol_anew(place: Path, interplant: Call) -> None:
    before = (place / "north.join").read_text()
    done = interplant("coordinator", "enrol", "north")
    assert done.code == 1
    assert "is enrolled already" in done.err
    assert (place / "north.join").read_text() == before
    assert interplant("coordinator", "revoke", "north", "--json").json["state"] == "revoked"
    done = interplant("coordinator", "enrol", "north", "--out", place / "new.join")
    assert done.code == 0
    assert (place / "new.join").stat().st_mode & 0o777 == 0o600


def test_a_plants_status_before_anything_happened(plant: PlantDirectory, interplant: Call) -> None:
    found = interplant("plant", "status", "--dir", plant.path, "--json").json
    assert found["connection"]["state"] == "not serving"
    assert found["champion"] is None
    assert (found["waiting"], found["kept_replies"], found["paused"]) == ([], 0, False)
    (budget,) = found["budgets"]
    assert (budget["epsilon"], budget["budget"], budget["left"]) == (0.0, 1.0, 1.0)
    assert not plant.ledger.exists()


def test_a_plants_status_names_the_unit_and_what_it_means_for_a_machine(
    charged: PlantDirectory, waiting: PlantDirectory, interplant: Call
) -> None:
    interplant("data", "snapshot", "--dir", charged.path, "--simulate", "0", "--machines", "2")
    (charged.outbox / "one.parcel").write_bytes(b"")
    done = interplant("plant", "status", "--dir", charged.path)
    assert "counted per window, at delta 1e-05; a machine with" in done.out
    assert "waiting for approval  " + RELEASE in done.out
    found = interplant("plant", "status", "--dir", charged.path, "--json").json
    assert found["kept_replies"] == 1
    (budget,) = found["budgets"]
    expected = Ledger(charged.ledger).spent("data", 1e-5).epsilon
    assert budget["epsilon"] == pytest.approx(expected)
    assert budget["rounds"] == 2
    assert budget["left"] == pytest.approx(1.0 - expected)


def test_figures_are_computed_anew_when_the_ledger_grows(charged: PlantDirectory, interplant: Call) -> None:
    first = interplant("privacy", "budget", "--dir", charged.path, "--json").json[0]
    kept = charged.spending.read_text()
    assert interplant("privacy", "budget", "--dir", charged.path, "--json").json[0] == first
    assert charged.spending.read_text() == kept
    plan = Plan.of(config.load(builtin("turbofan"), Task), PlantData(declared_windows=10_000))
    Ledger(charged.ledger).reserve(plan, run=RUN, round=3, task="turbofan", lineage="data")
    second = interplant("privacy", "budget", "--dir", charged.path, "--json").json[0]
    assert second["epsilon"] > first["epsilon"]
    charged.spending.write_text("damaged")
    assert interplant("privacy", "budget", "--dir", charged.path, "--json").json[0] == second


def test_the_connection_that_the_agent_noted(plant: PlantDirectory) -> None:
    from interplant.core.files import only_one

    connection.note(plant, connection.AWAY, "nobody there")
    assert connection.current(plant).state == connection.NOT_SERVING
    with only_one(plant.serve_lock, "this plant"):
        assert connection.current(plant).reason == "nobody there"
        since = connection.current(plant).since
        connection.note(plant, connection.AWAY, "nobody there")
        assert connection.current(plant).since == since
        connection.note(plant, connection.CONNECTED)
        assert connection.current(plant).state == connection.CONNECTED
        connection.forget(plant)
        assert connection.current(plant).state == connection.STARTING
    connection.note(plant, connection.TURNED_AWAY, "revoked")
    connection.forget(plant)
    assert connection.current(plant).reason == "revoked"


def test_pause_refuses_rounds_until_resume(plant: PlantDirectory, interplant: Call) -> None:
    assert interplant("plant", "pause", "--dir", plant.path, "--json").json == {
        "paused": True,
        "changed": True,
    }
    assert interplant("plant", "pause", "--dir", plant.path, "--json").json["changed"] is False
    with pytest.raises(Refusal) as refused:
        policy.check_not_paused(plant)
    assert refused.value.code == "paused"
    assert "paused" in interplant("plant", "status", "--dir", plant.path).out
    assert interplant("plant", "resume", "--dir", plant.path, "--json").json["changed"] is True
    policy.check_not_paused(plant)
    plant.config.write_text("broken")
    assert interplant("plant", "pause", "--dir", plant.path).code == 0


def test_a_paused_plant_answers_a_round_with_its_code(plant: PlantDirectory) -> None:
    from flwr.app import RecordDict

    from interplant.client.participation import take_part
    from interplant.core.flower import Envelope, message, refusal

    envelope = Envelope("m.1.2", 7, 0, 2, "train", "1", "", 0.0, 60.0)
    request = message(envelope, RecordDict())
    trainer: Any = None
    assert refusal(take_part(plant, trainer, request)) == "task_invalid"
    policy.pause(plant)
    assert refusal(take_part(plant, trainer, request)) == "paused"


def test_runs_are_started_shown_stopped_and_resumed(place: Path, interplant: Call) -> None:
    started = interplant("run", "start", "turbofan", "rounds=2", "--no-release", "--json").json
    assert (started["state"], started["rounds"]) == ("queued", 2)
    assert started["config"] == {"release": False, "start_from": ""}
    assert "It begins when" in interplant("run", "start", "turbofan").out
    assert len(interplant("run", "list", "--json").json) == 3
    registry = Registry.open(place / "coordinator")
    dropped = [Dropped("south", "paused", "the plant is paused by its engineer")]
    registry.record_round(started["id"], 1, 1, ["north"], dropped=dropped, seconds={"total": 1.5})
    shown = interplant("run", "show", started["id"]).out
    assert "south: the plant is paused by its engineer [paused]" in shown
    assert interplant("run", "stop", started["id"], "--json").json["state"] == "stopped"
    done = interplant("run", "stop", started["id"])
    assert done.code == 1
    assert "is stopped; expected" in done.err
    assert interplant("run", "resume", started["id"], "--json").json["state"] == "queued"


def test_snapshots_and_their_log(plant: PlantDirectory, interplant: Call) -> None:
    words = ["data", "snapshot", "--dir", plant.path, "--simulate", "0", "--machines"]
    first = interplant(*words, "2", "-m", "two", "--json").json
    assert first["simulated"] is True
    local = first["local"]
    suggested = local["suggested"]
    assert suggested["declared_windows"] == pytest.approx(local["windows"], rel=0.05)
    assert len(str(suggested["declared_windows"]).rstrip("0")) <= 2
    assert suggested["declared_units"] == 2
    assert suggested["declared_unit_windows"] >= local["windows"] / 2
    assert "Local figure" in interplant(*words, "3").out
    log = interplant("data", "log", "--dir", plant.path, "--json").json
    assert [one["machines"] for one in log] == [3, 2]
    assert log[1]["digest"] == first["snapshot"]
    done = interplant("data", "snapshot", "--dir", plant.path)
    assert done.code == 2
    assert "expected one of --from" in done.err


def test_data_check_lists_what_it_lets_pass(tmp_path: Path, interplant: Call) -> None:
    frame = simulate(0, 1, 0).train
    frame["operator"] = 7
    frame.to_parquet(tmp_path / "train.parquet")
    done = interplant("data", "check", tmp_path / "train.parquet", "--json")
    assert done.code == 0
    assert [(one["column"], one["blocks"]) for one in done.json["violations"]] == [("operator", False)]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    done = interplant("data", "check", tmp_path / "broken.parquet")
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_a_join_that_was_killed_before_its_repository_is_completed(
    plant: PlantDirectory, interplant: Call
) -> None:
    shutil.rmtree(plant.data)
    assert interplant("data", "log", "--dir", plant.path).code == 0
    assert (plant.data / ".git").is_dir()


def test_a_plan_costs_more_with_more_rounds_and_says_how_many_a_budget_covers(interplant: Call) -> None:
    words = ["privacy", "plan", "turbofan", "rounds=3", "--windows", "10000"]
    found = interplant(*words, "--epsilon", "0.7", "--machine-windows", "50", "--json").json
    own = found["choices"][0]
    epsilons = [one["epsilon"] for one in own["costs"]]
    assert epsilons == sorted(epsilons)
    covered = own["rounds_left"]
    assert max(one["rounds"] for one in own["costs"] if one["epsilon"] <= 0.7) <= covered
    assert min(one["rounds"] for one in own["costs"] if one["epsilon"] > 0.7) > covered
    (machine,) = [one for one in own["costs"] if one["machine"]]
    assert machine["rounds"] == 3
    assert machine["machine_epsilon"] is None or machine["machine_epsilon"] > machine["epsilon"]
    assert "No budget was named." in interplant(*words).out


def test_a_plan_for_machines_is_drawn_as_a_curve(interplant: Call, tmp_path: Path) -> None:
    words = ["privacy", "plan", "turbofan", "privacy.unit=unit", "training.batch=8", "rounds=3"]
    done = interplant(*words, "--units", "40", "--epsilon", "4", "--plot", tmp_path / "curve.png")
    assert "epsilon for one unit, of 40 declared" in done.out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert interplant(*words, "--windows", "40").code == 1  # machines are counted, not windows


def test_a_plan_at_a_plant_counts_what_was_spent(charged: PlantDirectory, interplant: Call) -> None:
    words = ["privacy", "plan", "turbofan", "--dir", charged.path]
    assert interplant(*words).code == 1  # the size is not declared
    charged.config.write_text(
        charged.config.read_text().replace("declared_windows: 0", "declared_windows: 10000")
    )
    found = interplant(*words, "--json").json
    assert found["spent"] == pytest.approx(Ledger(charged.ledger).spent("data", 1e-5).epsilon)
    assert found["budget"] == 1.0
    fresh = interplant("privacy", "plan", "turbofan", "--windows", "10000", "--epsilon", "1", "--json").json
    assert found["choices"][0]["rounds_left"] == fresh["choices"][0]["rounds_left"] - 2
    assert interplant(*words, "--epsilon", "9").code == 2
    assert interplant("privacy", "plan", "turbofan").code == 2
    assert interplant("privacy", "plan", "turbofan", "privacy.mechanism=none", "--windows", "9").code == 2


def test_the_ledger_and_its_check(charged: PlantDirectory, interplant: Call) -> None:
    words = ["privacy", "ledger", "--dir", charged.path]
    entries = interplant(*words, "--json").json
    assert [one["kind"] for one in entries] == ["reserve", "commit"] * 2
    assert "turbofan" in interplant(*words).out
    assert interplant(*words, "--verify", "--json").json["entries"] == 4
    content = charged.ledger.read_bytes()
    charged.ledger.write_bytes(content.replace(b'"round":2', b'"round":3'))
    done = interplant(*words, "--verify")
    assert (done.code, done.out) == (1, "")
    assert "was changed after it was written" in done.err


def test_a_ledger_that_went_back_or_is_gone_is_told_and_repaired(
    charged: PlantDirectory, interplant: Call
) -> None:
    unsigned = Receipt("north", "ab" * 32, "dp-sgd", "window", 0.5, 1e-5, True, run=RUN, round=2)
    receipts.sign(charged, unsigned, Ledger(charged.ledger))
    words = ["privacy", "ledger", "--dir", charged.path]
    assert interplant(*words, "--verify").code == 0
    before = Ledger(charged.ledger).events()
    spent = interplant("privacy", "budget", "--dir", charged.path, "--json").json[0]["epsilon"]
    charged.ledger.unlink()
    done = interplant(*words, "--verify")
    assert done.code == 1
    assert "[ledger_behind]" in done.err
    assert "--repair" in done.err
    (repaired,) = interplant(*words, "--repair", "--json").json["repaired"]
    assert (repaired["run"], repaired["round"]) == (RUN, 2)
    assert Ledger(charged.ledger).events() == before
    (account,) = interplant("privacy", "budget", "--dir", charged.path, "--json").json
    assert account["epsilon"] == pytest.approx(spent), "the present dataset's, whatever it was called"
    assert interplant(*words, "--verify").code == 0
    assert "repair" in interplant(*words).out
    assert "nothing was charged" in interplant(*words, "--repair").out


def test_a_release_is_approved_by_a_person(waiting: PlantDirectory, interplant: Call) -> None:
    listed = interplant("release", "list", "--plant", waiting.path, "--json").json
    assert [(one["release"], one["state"]) for one in listed] == [(RELEASE, "waiting")]
    words = ["release", "approve", RELEASE, "--plant", waiting.path]
    assert interplant(*words, "--json").json["state"] == "active"
    champion = pointers.champion(waiting)
    assert champion is not None
    assert champion.release == RELEASE
    assert interplant("release", "show", RELEASE, "--plant", waiting.path, "--json").json["serving"] is True
    done = interplant(*words)
    assert done.code == 2
    assert "it is active" in done.err
    assert interplant("release", "show", "other", "--plant", waiting.path).code == 2


def test_a_person_goes_back_at_a_plant(waiting: PlantDirectory, interplant: Call) -> None:
    words = ["release", "rollback", "--plant", waiting.path]
    done = interplant(*words)
    assert done.code == 2
    assert "expected an earlier release to go back to, found none" in done.err
    interplant("release", "approve", RELEASE, "--plant", waiting.path)
    waiting.champion.write_text(json.dumps({"release": "r-2", "previous": RELEASE, "since": "2025"}))
    assert interplant(*words, "--json").json["release"] == RELEASE
    champion = pointers.champion(waiting)
    assert champion is not None
    assert (champion.release, champion.previous) == (RELEASE, None)
    listed = interplant("release", "list", "--plant", waiting.path, "--json").json
    assert {one["release"]: one["state"] for one in listed} == {RELEASE: "active", "r-2": "rolled_back"}
    done = interplant(*words, "other")
    assert done.code == 2
    assert "expected one that has served here" in done.err


def test_a_release_that_was_changed_is_not_approved(waiting: PlantDirectory, interplant: Call) -> None:
    (waiting.releases / RELEASE / "weights.safetensors").write_bytes(b"other weights")
    done = interplant("release", "approve", RELEASE, "--plant", waiting.path)
    assert done.code == 1
    assert "changed, added or removed after signing" in done.err
    assert pointers.champion(waiting) is None


def test_the_coordinator_shows_what_plants_told(place: Path, interplant: Call) -> None:
    assert "No plant has told" in interplant("release", "show", RELEASE).out
    Registry.open(place / "coordinator").record_deployment(RELEASE, "north", "refused", "worse")
    assert "it is not sure that the release is as good" in interplant("release", "show", RELEASE).out


def test_a_release_goes_from_a_person_to_the_plants_and_back(place: Path, interplant: Call) -> None:
    done = interplant("release", "rollback")
    assert (done.code, done.err) == (
        2,
        "interplant: expected one release on offer, found none: say which with --from\n",
    )
    assert "plants are told once the coordinator serves" in interplant("release", "approve", RELEASE).out
    assert interplant("release", "list", "--json").json[0]["state"] == "approved"
    done = interplant("release", "approve", RELEASE)
    assert (done.code, done.out) == (1, "")
    assert f"release {RELEASE} is approved; expected candidate" in done.err
    with closing(Registry.open(place / "coordinator")) as registry:
        registry.roll_out_release(RELEASE)  # as a serving coordinator does
    found = interplant("release", "rollback", "--reason", "alarms at night", "--json").json
    assert (found["id"], found["state"], found["back_to"]) == (RELEASE, "rolled_back", None)
    shown = interplant("release", "show", RELEASE, "--json").json
    states = [one["kind"] for one in shown["events"]]
    assert states == [f"release.{one}" for one in ("candidate", "approved", "rolling_out", "rolled_back")]
    assert shown["events"][-1]["text"].endswith(": alarms at night")
    assert "alarms at night" in interplant("release", "show", RELEASE).out


def offered(coordinator: CoordinatorDirectory, *names: str) -> None:
    """Sign releases with the present key, and offer one after the other."""
    with closing(Registry.open(coordinator)) as registry:
        for name in names:
            sign_release(coordinator.releases / name, coordinator.release_key)
            registry.create_release(name, RUN, "turbofan", "ab" * 32)
            registry.approve_release(name, "by a person")
            registry.roll_out_release(name)


@pytest.mark.parametrize("good", [["r-0"], []])
def test_the_federation_goes_back_to_nothing_that_a_revoked_key_has_signed(
    good: list[str], place: Path, interplant: Call
) -> None:
    coordinator = CoordinatorDirectory(place / "coordinator")
    offered(coordinator, *good)
    release_keys.rotate(coordinator, 30, False, "ann")  # what the first key has signed counts on
    offered(coordinator, "r-1", "r-2")
    release_keys.rotate(coordinator, 0, True, "ann")
    offered(coordinator, "r-3")
    done = interplant("release", "rollback", "r-1")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "release r-1: signed by a key that was revoked on 20" in done.err
    assert ("whose key counts: r-0" if good else "--start-from r-1") in done.err
    assert interplant("release", "show", "r-3", "--json").json["release"]["state"] == "rolling_out"
    found = interplant("release", "rollback", "--reason", "alarms at night", "--json").json
    assert (found["state"], found["back_to"]) == ("rolled_back", good[0] if good else None)
    (said,) = [
        one for one in interplant("release", "show", "r-3", "--json").json["events"] if "night" in one["text"]
    ]
    assert said["text"].endswith("alarms at night; not to r-2, r-1, whose key was revoked")


def test_what_a_revoked_key_has_signed_is_not_approved(place: Path, interplant: Call) -> None:
    release_keys.rotate(CoordinatorDirectory(place / "coordinator"), 0, True, "ann")
    done = interplant("release", "approve", RELEASE)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "so that plants would refuse it; reject it, and train another" in done.err
    assert interplant("release", "show", RELEASE, "--json").json["release"]["state"] == "candidate"
    assert interplant("release", "reject", RELEASE, "--json").json["state"] == "rejected"


def test_the_federation_goes_back_beyond_a_key_that_has_handed_over(place: Path, interplant: Call) -> None:
    coordinator = CoordinatorDirectory(place / "coordinator")
    offered(coordinator, "r-1")
    release_keys.rotate(coordinator, 30, False, "ann")
    offered(coordinator, "r-2")
    assert interplant("release", "rollback", "r-1", "--json").json["back_to"] == "r-1"


def test_a_rejected_release_is_not_approved(place: Path, interplant: Call) -> None:
    assert (
        interplant("release", "reject", RELEASE, "--reason", "labels", "--json").json["state"] == "rejected"
    )
    assert interplant("release", "approve", RELEASE).code == 1


def test_lineage_and_card_come_only_from_what_was_signed(place: Path, interplant: Call) -> None:
    found = interplant("lineage", RELEASE, "--json").json
    assert found["signature_verified"] is True
    assert found["parent"] is None
    assert found["participants"][0]["epsilon"] == 0.7312
    text = interplant("lineage", RELEASE).out
    assert "simulated data" in text
    assert "abababababab" in text
    folder = place / "coordinator" / "releases" / RELEASE
    elsewhere = place / "elsewhere" / RELEASE
    shutil.copytree(folder, elsewhere)
    key = place / "north" / "keys" / "release.pub"
    assert interplant("lineage", elsewhere, "--key", key).code == 0
    lineage = json.loads((folder / "lineage.json").read_text())
    lineage["participants"][0]["epsilon"] = 0.01
    (folder / "lineage.json").write_text(json.dumps(lineage))
    for words in (["lineage", RELEASE], ["release", "card", RELEASE]):
        done = interplant(*words)
        assert (done.code, done.out) == (1, "")
        assert "tampered" in done.err
    assert interplant("lineage", "none").code == 2
