"""Times of the week: what lies in a span, when a moment last came, and over a change of clocks."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from interplant.core.possible import Impossible
from interplant.core.week import (
    begin_of,
    check_times,
    check_zone,
    covering,
    end_of,
    latest,
    moment,
    span,
    upcoming,
)

THURSDAY = datetime(2026, 11, 26, tzinfo=UTC)


def at(clock: str, day: int = 26) -> datetime:
    hours, minutes = map(int, clock.split(":"))
    return THURSDAY.replace(day=day, hour=hours, minute=minutes)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("08:00-12:00", ["08:00", "11:59"], ["07:59", "12:00"]),
        ("Thu 08:00-12:00", ["08:00"], ["12:00"]),
        ("Fri 08:00-12:00", [], ["09:00"]),
        ("Mon-Fri 22:00-06:00", ["22:00", "05:59", "00:00"], ["06:00", "21:59"]),
        ("Thu", ["00:00", "23:59"], []),
        ("Fri-Wed", [], ["00:00", "23:59"]),
        ("Sat-Thu 12:00-24:00", ["12:00", "23:59"], ["11:59"]),
    ],
)
def test_a_span_holds_its_begin_and_not_its_end(text: str, inside: list[str], outside: list[str]) -> None:
    assert all(covering([text], at(clock), "UTC") == text for clock in inside)
    assert not any(covering([text], at(clock), "UTC") for clock in outside)


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    night = ["Fri 22:00-06:00"]
    assert not covering(night, at("05:00", 27), "UTC")  # Friday's morning: Thursday's night
    assert covering(night, at("05:00", 28), "UTC")


def test_spans_count_in_their_zone() -> None:
    early = ["06:00-07:00"]
    assert covering(early, at("05:30"), "Europe/Vienna")
    assert not covering(early, at("06:30"), "Europe/Vienna")
    summer = datetime(2026, 7, 1, 4, 30, tzinfo=UTC)
    assert covering(early, summer, "Europe/Vienna")


def test_a_moment_came_when_it_last_came() -> None:
    assert latest(["Sun 02:00"], THURSDAY, "UTC") == datetime(2026, 11, 22, 2, tzinfo=UTC)
    assert latest(["Thu 00:00"], THURSDAY, "UTC") == THURSDAY
    assert latest(["Thu 00:01"], THURSDAY, "UTC") == datetime(2026, 11, 19, 0, 1, tzinfo=UTC)
    assert latest(["Sun 02:00", "03:00"], THURSDAY, "UTC") == datetime(2026, 11, 25, 3, tzinfo=UTC)
    assert latest(["02:00"], THURSDAY, "Europe/Vienna") == datetime(2026, 11, 25, 1, tzinfo=UTC)
    assert latest([], THURSDAY, "UTC") is None


def test_a_moment_is_that_of_the_wall_before_and_after_clocks_change() -> None:
    place = ZoneInfo("Europe/Vienna")
    for day, hour in ((24, 0), (25, 1), (26, 1)):
        now = datetime(2026, 10, day, 12, tzinfo=place)
        found = latest(["02:30"], now, "Europe/Vienna")
        assert found is not None
        assert found.astimezone(place).strftime("%d %H:%M") == f"{day} 02:30", hour


def test_a_moment_that_the_wall_skips_does_not_come_and_one_it_says_twice_comes_twice() -> None:
    def last(moment: str, *day: int) -> datetime | None:
        return latest([moment], datetime(*day, tzinfo=UTC), "Europe/Vienna")

    assert last("02:30", 2026, 3, 29, 12) == datetime(2026, 3, 28, 1, 30, tzinfo=UTC), "skipped on the 29th"
    assert last("Sun 02:30", 2026, 3, 30) == datetime(2026, 3, 22, 1, 30, tzinfo=UTC)
    assert last("02:30", 2026, 10, 25, 0, 45) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert last("02:30", 2026, 10, 25, 1, 45) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "Thu 8:00-9:00", "Mo-Fr 08:00-09:00", "25:00-26:00", "08:00", "Thu-"])
def test_what_is_no_span_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="found " + repr(text)):
        span(text)
    with pytest.raises(Impossible, match="expected such as"):
        check_times([text], "automation.quiet")


@pytest.mark.parametrize("text", ["", "Sun", "02:00-03:00", "Sun 24:00"])
def test_what_is_no_moment_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected such as 'Sun 02:00'"):
        moment(text)


@pytest.mark.parametrize("zone", ["", "Mars", "../UTC", "Europe"])
def test_an_unknown_zone_is_told(zone: str) -> None:
    with pytest.raises(Impossible, match="expected a time zone"):
        check_zone(zone, "automation.zone")


@pytest.mark.parametrize(
    ("moments", "day", "clock"),
    [
        (["02:00"], 26, "02:00"),
        (["00:00"], 27, "00:00"),
        (["Thu 00:00"], 3, "00:00"),
        (["Sun 02:00", "Sat 23:00"], 28, "23:00"),
    ],
)
def test_the_next_moment_is_after_now(moments: list[str], day: int, clock: str) -> None:
    found = upcoming(moments, THURSDAY, "UTC")
    assert found is not None
    assert (found.day, f"{found:%H:%M}") == (day, clock)
    assert upcoming([], THURSDAY, "UTC") is None


def test_a_moment_that_the_clocks_skip_comes_the_week_after() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the 29th has no 02:30 in Vienna
    assert upcoming(["Sun 02:30"], before, "Europe/Vienna") == datetime(2026, 4, 5, 0, 30, tzinfo=UTC)


def test_when_a_span_ends_and_when_one_begins_next() -> None:
    night = ["Mon-Fri 22:00-06:00", "Sat-Sun"]
    assert end_of(night, at("23:30"), "UTC") == at("06:00", 27)
    assert end_of(night, at("12:00"), "UTC") is None
    assert begin_of(night, at("12:00"), "UTC") == at("22:00")
    assert begin_of(night, at("12:00", 28), "UTC") == at("00:00", 29)
    assert begin_of([], at("12:00"), "UTC") is None
