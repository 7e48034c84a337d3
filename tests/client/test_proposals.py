"""What a plant says of its own accord: only what its policy lets it, once, and on record."""

from datetime import UTC, datetime

import pytest

from interplant.client import policy, proposals
from interplant.client.directory import PlantDirectory
from interplant.core.automation_config import REASONS, PlantAutomation
from interplant.core.errors import Refusal, UsageError
from interplant.core.schema import Plant

from .conftest import audited, edit

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)  # a Thursday


@pytest.fixture
def open_plant(bare: PlantDirectory) -> PlantDirectory:
    """A plant that proposes for every reason, and declares that public."""
    own = PlantAutomation(propose=list(REASONS[:-1]), tell="declared")
    edit(bare, lambda plant: setattr(plant, "automation", own))
    return bare


def why(plant: PlantDirectory) -> str:
    return str(proposals.noted(plant)[-1]["why"])


@pytest.mark.parametrize("reason", REASONS[:-1])
def test_a_new_plant_proposes_nothing_and_notes_why(bare: PlantDirectory, reason: str) -> None:
    assert proposals.propose(bare, "wear", reason, None, NOW) is None
    assert proposals.waiting(bare) == []
    assert why(bare) == f"{reason} is not in automation.propose"
    assert audited(bare) == []


@pytest.mark.parametrize("reason", REASONS[:3])
def test_what_depends_on_data_is_told_only_if_it_is_declared(open_plant: PlantDirectory, reason: str) -> None:
    edit(open_plant, lambda plant: setattr(plant.automation, "tell", "nothing"))
    assert proposals.propose(open_plant, "wear", reason, None, NOW) is None
    assert "depends on data" in why(open_plant)
    assert proposals.propose(open_plant, "wear", "schedule", None, NOW) is not None
    edit(open_plant, lambda plant: setattr(plant.automation, "tell", "declared"))
    assert proposals.propose(open_plant, "wear", reason, None, NOW) is not None


def test_a_person_may_always_propose_what_the_plant_offers(bare: PlantDirectory) -> None:
    policy.pause(bare)
    assert proposals.propose(bare, "wear", "person", None, NOW) is not None
    assert proposals.propose(bare, "other", "person", None, NOW) is None
    assert why(bare) == "'other' is not in policy.tasks"
    with pytest.raises(UsageError, match="expected one of new_data"):
        proposals.propose(bare, "wear", "whim", None, NOW)


def test_a_paused_plant_or_one_without_budget_does_not_propose(open_plant: PlantDirectory) -> None:
    assert proposals.propose(open_plant, "wear", "drift", 0, NOW) is None
    assert "the privacy budget pays no further run" in why(open_plant)
    policy.pause(open_plant)
    assert proposals.propose(open_plant, "wear", "drift", 5, NOW) is None
    assert why(open_plant) == "the plant is paused"


def test_the_same_word_waits_once_and_is_told_once(open_plant: PlantDirectory) -> None:
    for _ in range(3):
        proposals.propose(open_plant, "wear", "drift", 4, NOW)
    (one,) = proposals.waiting(open_plant)
    told: list[tuple[str, str, int | None]] = []
    proposals.tell(open_plant, one, lambda *words: bool(told.append(words)) or True)
    assert told == [("wear", "drift", None)], "what the budget pays is not told unless it is declared"
    assert proposals.waiting(open_plant) == []
    (left,) = audited(open_plant)
    assert {key: left[key] for key in ("what", "task", "reason")} == {
        "what": "proposal",
        "task": "wear",
        "reason": "drift",
    }


def test_a_word_that_was_not_heard_waits_on(open_plant: PlantDirectory) -> None:
    proposals.propose(open_plant, "wear", "drift", None, NOW)
    (one,) = proposals.waiting(open_plant)

    def away(*_: object) -> bool:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        proposals.tell(open_plant, one, away)
    assert proposals.waiting(open_plant) == [one]


def test_what_nobody_heeds_is_noted(open_plant: PlantDirectory) -> None:
    proposals.propose(open_plant, "wear", "drift", None, NOW)
    (one,) = proposals.waiting(open_plant)
    assert not proposals.tell(open_plant, one, lambda *_: False)
    assert "no automation of this task" in why(open_plant)


def test_the_budget_is_told_if_it_is_declared(open_plant: PlantDirectory) -> None:
    assert proposals.tell_budget(open_plant, "wear", 2, NOW) is None
    edit(open_plant, lambda plant: setattr(plant.automation, "budget", "declared"))
    proposals.tell_budget(open_plant, "wear", 2, NOW)
    proposals.propose(open_plant, "wear", "drift", 2, NOW)
    assert sorted((one.reason, one.runs) for one in proposals.waiting(open_plant)) == [("", 2), ("drift", 2)]


def test_in_quiet_times_only_a_person_is_heard_and_no_round_is_trained(open_plant: PlantDirectory) -> None:
    edit(open_plant, lambda plant: setattr(plant.automation, "quiet", ["Thu 12:00-13:00"]))
    proposals.propose(open_plant, "wear", "drift", None, NOW)
    proposals.propose(open_plant, "wear", "person", None, NOW)
    assert [one.reason for one in proposals.due(open_plant, NOW)] == ["person"]
    later = NOW.replace(hour=13)
    assert len(proposals.due(open_plant, later)) == 2
    settings: Plant = open_plant.load()
    policy.check_not_quiet(settings, later)
    with pytest.raises(Refusal) as refused:
        policy.check_not_quiet(settings, NOW)
    assert refused.value.code == "quiet"
    assert "at this time of the week" in str(refused.value)


def test_a_damaged_word_is_dropped_and_a_cut_line_spoils_no_other(open_plant: PlantDirectory) -> None:
    proposals.propose(open_plant, "wear", "drift", None, NOW)
    (open_plant.proposals / "wear.error.json").write_text("{")
    assert [one.reason for one in proposals.waiting(open_plant)] == ["drift"]
    with open_plant.automation.open("a") as file:
        file.write('{"what": "prop')
    proposals.note(open_plant, "snapshot", done=True, why="")
    assert [one["what"] for one in proposals.noted(open_plant)] == ["proposal", "snapshot"]
    assert open_plant.automation.stat().st_mode & 0o077 == 0
