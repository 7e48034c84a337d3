"""When a plant speaks by the clock and the ledger: a clock that the test sets, no process."""

from datetime import UTC, datetime

import pytest

from interplant.client import proposals
from interplant.client.directory import PlantDirectory
from interplant.client.moments import Moments
from interplant.core.automation_config import PlantAutomation

from .conftest import edit

THURSDAY = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Told:
    """Moments with clocks of the test's, and a record of what was told when."""

    def __init__(self, plant: PlantDirectory) -> None:
        self.now, self.today, self.good = 0.0, THURSDAY, True
        self.asked: list[tuple[float, bool]] = []
        self.own = Moments(plant, self.tell, lambda: self.now, lambda: self.today)

    def tell(self, scheduled: bool) -> bool:
        self.asked.append((self.now, scheduled))
        return self.good

    def until(self, end: int) -> list[float]:
        """Step each second to ``end``; return when something was told."""
        before = len(self.asked)
        while self.now < end:
            self.own.step()
            self.now += 1.0
        return [at for at, _ in self.asked[before:]]


@pytest.fixture
def plant(bare: PlantDirectory) -> PlantDirectory:
    own = PlantAutomation(snapshots=True, budget="declared")
    edit(bare, lambda settings: setattr(settings, "automation", own))
    return bare


def test_the_budget_is_told_each_hour_and_when_the_ledger_has_changed(plant: PlantDirectory) -> None:
    told = Told(plant)
    assert told.until(3000) == [0.0]
    plant.ledger.write_bytes(b"an entry")
    assert told.until(7000) == [3000.0, 6600.0]


def test_what_readings_bring_moves_no_word(plant: PlantDirectory) -> None:
    told = Told(plant)
    told.until(10)
    (plant.path / "store").mkdir()
    (plant.path / "store" / "index.db").write_bytes(b"readings")
    for path in (plant.automation, plant.drift_events, plant.looked, plant.look_begun, plant.runway):
        path.write_text("{}\n")
    assert told.until(3000) == []


def test_a_moment_of_the_schedule_is_due_once_also_after_a_restart(plant: PlantDirectory) -> None:
    own = PlantAutomation(propose=["schedule"], schedule=["Thu 13:00"])
    edit(plant, lambda settings: setattr(settings, "automation", own))
    told = Told(plant)
    assert told.until(5) == []
    told.today = THURSDAY.replace(hour=13, minute=1)
    assert told.until(10) == [5.0]
    assert told.asked == [(5.0, True)]
    proposals.note(plant, "proposal", reason="schedule", time=told.today.isoformat())
    again = Told(plant)
    again.today = told.today
    assert again.until(10) == []


def test_what_was_not_told_is_tried_less_and_less_often(plant: PlantDirectory) -> None:
    told = Told(plant)
    told.good = False
    assert told.until(1000) == [0.0, 30.0, 90.0, 210.0, 450.0, 930.0]
