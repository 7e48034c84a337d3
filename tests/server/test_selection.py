"""Who is asked in a round: all or some, without those that rest, and always enough for the quorum."""

import time

import pytest

from interplant.core.possible import Impossible
from interplant.core.schema import Federation, Rounds
from interplant.server.replies import StoppedError
from interplant.server.rounds import QuorumError, carry_out
from interplant.server.selection import LONGEST, Failures, choose

from .fakes import NAMES, Ringing, honest, make_run, refusing

MANY = [f"plant-{number}" for number in range(40)]
SOME = Rounds(plants=10, spare=0.25)


def failing(times: int, name: str = "south", code: str = "late") -> Failures:
    """Failures of a plant that failed whenever it was asked, so many times."""
    found, number = Failures(), 0
    while found.last.get(name, (0, 0, ""))[0] < times:
        number += 1
        if not found.resting(name, number):
            found.note(number, ["north"], {name: code})
    return found


def test_without_a_number_all_are_asked() -> None:
    assert choose(MANY, 1, Rounds(), Failures(), "run") == sorted(MANY)


def test_as_many_as_are_wanted_and_some_to_spare_are_asked() -> None:
    chosen = choose(MANY, 1, SOME, Failures(), "run")
    assert len(chosen) == 13
    assert set(chosen) < set(MANY)
    assert chosen == sorted(chosen)


def test_a_run_that_goes_on_asks_the_same_and_every_round_others() -> None:
    rounds = [choose(MANY, number, SOME, Failures(), "run") for number in range(1, 30)]
    assert rounds == [choose(reversed(MANY), number, SOME, Failures(), "run") for number in range(1, 30)]
    assert len({tuple(one) for one in rounds}) > 25
    assert set().union(*rounds) == set(MANY), "nobody is left out for ever"
    assert choose(MANY, 1, SOME, Failures(), "other") != rounds[0]


def test_a_plant_rests_longer_with_each_failure_in_a_row() -> None:
    asked, failures = [], Failures()
    for number in range(1, 50):
        if not failures.resting("south", number):
            asked.append(number)
            failures.note(number, ["north"], {"south": "internal"})
    assert asked == [1, 2, 4, 8, 16, 32, 32 + LONGEST + 1]


def test_one_good_round_and_all_is_forgotten() -> None:
    failures = failing(4)
    assert failures.resting("south", 9)
    failures.note(16, ["south"], {})
    assert not failures.resting("south", 17)


@pytest.mark.parametrize("code", ["away", "spare", "resting", "paused", "model_lost"])
def test_what_is_no_failure_brings_no_rest(code: str) -> None:
    failures = Failures()
    for number in range(1, 9):
        failures.note(number, [], {"south": code})
    assert not failures.resting("south", 9)


def test_a_retry_of_a_round_is_not_another_failure() -> None:
    failures = Failures()
    for _ in range(5):
        failures.note(1, [], {"south": "internal"})
    assert not failures.resting("south", 2)


def test_nobody_rests_while_the_quorum_needs_it() -> None:
    failures = failing(3)
    rest = max(number for number in range(1, 99) if failures.resting("south", number))
    assert choose(NAMES, rest, Rounds(quorum=2), failures, "run") == ["north", "west"]
    assert choose(NAMES, rest, Rounds(quorum=3), failures, "run") == sorted(NAMES)
    assert choose(NAMES, rest, Rounds(plants=3), failures, "run") == sorted(NAMES)


@pytest.mark.parametrize("code", ["away", "paused", "quiet", "late"])
def test_a_plant_that_cannot_answer_does_not_count_for_the_quorum(code: str) -> None:
    """West rests in rounds 3 and 5 to 7, and is needed while south does not answer."""
    failures, rules = failing(3, "west"), Rounds(quorum=2)
    failures.note(5, ["north", "south"], {"west": "resting"})
    assert choose(NAMES, 6, rules, failures, "run") == ["north", "south"]
    failures.note(6, ["north"], {"south": code, "west": "resting"})
    assert choose(NAMES, 6, rules, failures, "run") == sorted(NAMES)
    later = ["north", "south"] if code == "late" else sorted(NAMES)  # who was late may be in time
    assert choose(NAMES, 7, rules, failures, "run") == later
    failures.note(6, ["north", "south"], {"west": "resting"})
    assert choose(NAMES, 7, rules, failures, "run") == ["north", "south"]


def test_a_retry_asks_first_those_that_it_has_not_missed() -> None:
    failures, two, asked = Failures(), Rounds(quorum=2, plants=2), []
    for _ in range(3):
        asked.append(choose(NAMES, 1, two, failures, "run"))
        failures.note(1, [], dict.fromkeys(asked[-1], "internal"))
    assert set(asked[0]) | set(asked[1]) == set(NAMES)
    assert set(asked[1]) != set(asked[2]) != set(asked[0]), "each gets its turn"
    assert choose(NAMES, 2, two, failures, "run") == choose(NAMES, 2, two, Failures(), "run")


def test_failures_are_read_from_the_record() -> None:
    records = [
        {"round": number, "participants": ["north"], "dropped": {"south": {"code": "late", "text": ""}}}
        for number in (1, 2, 4)
    ]
    assert Failures.of(records).last == {"south": (3, 4, "late")}
    assert Failures.of(records, forgiven=2).last == {"south": (1, 4, "late")}
    assert Failures.of(records, forgiven=3).last == {}


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (Rounds(quorum=5, plants=4), r"no less than rounds\.quorum \(5\), found 4"),
        (Rounds(spare=-0.1), "found -0.1"),
        (Rounds(spare=float("nan")), "found nan"),
    ],
)
def test_rules_that_cannot_be_are_refused(rounds: Rounds, said: str) -> None:
    with pytest.raises(Impossible, match=said):
        Federation(name="test", rounds=rounds).check()


# --- in a run --------------------------------------------------------------------------------------


def test_the_slowest_is_not_waited_for_once_enough_are_there(tmp_path) -> None:
    """South never answers; without a plant to spare the round would last until its deadline."""
    grid = Ringing(dict.fromkeys(NAMES, honest) | {"south": lambda request, name: None})
    begun = time.monotonic()
    run = make_run(tmp_path, quorum=1, plants=2, spare=0.5, deadline_seconds=600.0)
    carry_out(grid, run)
    assert time.monotonic() - begun < 300
    for record in run.records():
        assert record["participants"] == ["north", "west"]
        assert record["dropped"] == {
            "south": {"code": "spare", "text": "not waited for: enough others were faster"}
        }


def test_a_plant_that_fails_is_named_rests_and_is_asked_again(tmp_path) -> None:
    asked = []

    def weak(request, name):
        number = int(request.content.config_records["task"]["round"])
        asked.append(number)
        return (refusing("internal") if number < 8 else honest)(request, name)

    grid = Ringing(dict.fromkeys(NAMES, honest) | {"south": weak})
    run = make_run(tmp_path, number=10, quorum=2)
    carry_out(grid, run)
    assert asked == [1, 2, 4, 8, 9, 10]
    codes = [record["dropped"].get("south", {}).get("code", "") for record in run.records()]
    text = run.records()[2]["dropped"]["south"]["text"]
    assert text == "not asked: it failed 2 times in a row, in round 2 with internal"
    assert codes == ["internal", "internal", "resting", "internal", *["resting"] * 3, "", "", ""]


def test_a_mended_plant_is_asked_again_in_the_same_round(tmp_path) -> None:
    """One plant is paused and another failed: the quorum cannot be there without the mended one."""
    plants = {"north": honest, "south": refusing("paused"), "west": refusing("policy_task")}
    run = make_run(tmp_path, number=1, quorum=2, retries=1)
    with pytest.raises(QuorumError, match="does not offer this task"):
        carry_out(Ringing(plants), run)
    carry_out(Ringing(plants | {"west": honest}), run)
    assert run.records()[-1]["participants"] == ["north", "west"]


def test_a_rest_that_a_person_ends_is_over(tmp_path) -> None:
    run = make_run(tmp_path, number=4, quorum=2)
    weak = Ringing(dict.fromkeys(NAMES, honest) | {"south": refusing("internal")})

    def tell(record):
        if record["round"] == 2:
            raise StoppedError("the run was stopped")

    with pytest.raises(StoppedError):
        carry_out(weak, run, tell)
    run.forgive()
    carry_out(Ringing(), run)
    assert [record["participants"] for record in run.records()[2:]] == [sorted(NAMES)] * 2


def test_a_run_that_goes_on_remembers_who_rests(tmp_path) -> None:
    run = make_run(tmp_path, number=3, quorum=2)
    weak = Ringing(dict.fromkeys(NAMES, honest) | {"south": refusing("internal")})

    class Killed(Exception):
        pass

    def tell(record):
        if record["round"] == 2:
            raise Killed

    with pytest.raises(Killed):
        carry_out(weak, run, tell)
    carry_out(Ringing(), run)
    assert run.records()[-1]["dropped"]["south"]["code"] == "resting"
