"""Times of the week in a zone: quiet times, maintenance windows, schedules.

A span is ``Mon-Fri 22:00-06:00``, ``22:00-06:00`` (every day) or ``Sat-Sun`` (whole days); it belongs to the
day on which it begins. A moment is ``Sun 02:00`` or ``02:00``. Clocks are those of the zone's walls: where
they are changed, a time that is skipped does not come that day, and one that comes twice counts twice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from interplant.core.possible import need

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_DAY: Final = f"(?:{'|'.join(DAYS)})"
_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
_SPAN: Final = re.compile(
    rf"(?:(?P<days>{_DAY}(?:-{_DAY})?)(?: |$))?(?:(?P<begin>{_CLOCK})-(?P<end>{_CLOCK}|24:00))?"
)
_TWO_WEEKS: Final = 15
"""Days that are looked at for a weekly moment that may have been skipped once."""

_MOMENT: Final = re.compile(rf"(?:(?P<days>{_DAY}(?:-{_DAY})?) )?(?P<begin>{_CLOCK})")


@dataclass(frozen=True)
class Span:
    """A part of some days of the week.

    Args:
        days: On which it begins, Monday is 0.
        begin: Minutes after midnight.
        minutes: How long it lasts.
    """

    days: frozenset[int]
    begin: int
    minutes: int


def span(text: str) -> Span:
    """Read a span.

    Raises:
        ValueError: It is none.
    """
    found = _SPAN.fullmatch(text)
    if not found or not text:
        raise ValueError(
            f"expected such as 'Mon-Fri 22:00-06:00', '12:00-13:00' or 'Sat-Sun', found {text!r}"
        )
    if found["begin"] is None:
        return Span(_days(found["days"]), 0, 24 * 60)
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    return Span(_days(found["days"]), begin, end - begin if end > begin else end - begin + 24 * 60)


def moment(text: str) -> Span:
    """Read a moment, as a span of no length.

    Raises:
        ValueError: It is none.
    """
    found = _MOMENT.fullmatch(text)
    if not found:
        raise ValueError(f"expected such as 'Sun 02:00' or '02:00', found {text!r}")
    return Span(_days(found["days"]), _minutes(found["begin"]), 0)


def covering(spans: Sequence[str], now: datetime, zone: str) -> str:
    """Return the first of ``spans`` that ``now`` lies in; empty if it lies in none.

    Args:
        spans: See `span`.
        now: With a zone of its own.
        zone: Where the spans count, such as ``Europe/Vienna``.
    """
    return _covering(spans, now, zone)[0]


def end_of(spans: Sequence[str], now: datetime, zone: str) -> datetime | None:
    """Return when the span of `covering` ends, in UTC; None if there is none."""
    text, end = _covering(spans, now, zone)
    return max(end.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC), now) if text else None


def _covering(spans: Sequence[str], now: datetime, zone: str) -> tuple[str, datetime]:
    """The first span that ``now`` lies in, and when it ends by the wall's clock."""
    there = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    for text in spans:
        one = span(text)
        for back in (0, 1):
            day = there.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=back)
            begin = day + timedelta(minutes=one.begin)
            end = begin + timedelta(minutes=one.minutes)
            if day.weekday() in one.days and begin <= there < end:
                return text, end
    return "", there


def latest(moments: Sequence[str], now: datetime, zone: str) -> datetime | None:
    """Return when one of ``moments`` last came, in UTC; None if there are none.

    Args:
        moments: See `moment`.
        now: With a zone of its own.
        zone: Where the moments count.
    """
    place = ZoneInfo(zone)
    today = now.astimezone(place).date()
    found = []
    for text in moments:
        one = moment(text)
        for back in range(_TWO_WEEKS):
            day = today - timedelta(days=back)
            came = (
                [at for at in _times(day, one.begin, place) if at <= now] if day.weekday() in one.days else []
            )
            if came:
                found.append(max(came))
                break
    return max(found, default=None)


def upcoming(moments: Sequence[str], now: datetime, zone: str) -> datetime | None:
    """Return when one of ``moments`` comes next, in UTC; None if there are none. See `latest`."""
    return _next([moment(text) for text in moments], now, zone)


def begin_of(spans: Sequence[str], now: datetime, zone: str) -> datetime | None:
    """Return when one of ``spans`` begins next, in UTC; None if there are none. See `covering`."""
    return _next([span(text) for text in spans], now, zone)


def _next(begins: Sequence[Span], now: datetime, zone: str) -> datetime | None:
    place = ZoneInfo(zone)
    today = now.astimezone(place).date()
    found = [
        at
        for one in begins
        for day in (today + timedelta(days=ahead) for ahead in range(_TWO_WEEKS))
        if day.weekday() in one.days
        for at in _times(day, one.begin, place)
        if at > now
    ]
    return min(found, default=None)


def _times(day: date, minutes: int, place: ZoneInfo) -> list[datetime]:
    """Return when the wall's clock says a time on a day, in UTC: once, twice, or never."""
    wall = datetime(day.year, day.month, day.day, minutes // 60, minutes % 60)
    found = {wall.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return [at for at in found if at.astimezone(place).replace(tzinfo=None, fold=0) == wall]


def check_times(spans: Sequence[str], key: str, moments: bool = False) -> None:
    """Raise `Impossible` for the first text that is no span, or no moment."""
    for text in spans:
        try:
            moment(text) if moments else span(text)
        except ValueError as error:
            need(False, key, str(error))


def check_zone(zone: str, key: str) -> None:
    """Raise `Impossible` unless this machine knows the zone."""
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):  # what is no name is a ValueError, an unknown one a KeyError
        need(False, key, f"expected a time zone such as UTC or Europe/Vienna, found {zone!r}")


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    first, _, last = text.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)
