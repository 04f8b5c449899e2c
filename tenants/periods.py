"""Hours and days of a time zone as instants, so that totals do not depend on the database's calendar.

A day of a zone has 23, 24 or 25 hours; SQLite knows no zones at all. So the bounds are worked out here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from appliance.kernel.errors import BadInput

MOST_PERIODS: Final = 1000


def zone(name: str) -> tzinfo:
    """The IANA time zone, or `BadInput`."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(f"there is no time zone {name!r}; name one like Europe/Berlin, or UTC") from error


def days(since: datetime, until: datetime, place: tzinfo) -> list[tuple[datetime, datetime]]:
    """The local days that overlap [since, until), each as [start, end) in UTC."""
    day = since.astimezone(place).date()
    bounds: list[datetime] = []
    while not bounds or bounds[-1] < until:
        bounds.append(_midnight(day, place))
        day += timedelta(days=1)
        _require_few(bounds)
    return list(pairwise(bounds))


def hours(since: datetime, until: datetime, place: tzinfo) -> list[tuple[datetime, datetime]]:
    """The same for the hours that the zone's clocks show."""
    start = since.astimezone(place).replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    bounds: list[datetime] = []
    while not bounds or bounds[-1] < until:
        bounds.append(start + timedelta(hours=len(bounds)))
        _require_few(bounds)
    return list(pairwise(bounds))


def _midnight(day: date, place: tzinfo) -> datetime:
    return datetime.combine(day, time.min, place).astimezone(UTC)


def _require_few(bounds: list[datetime]) -> None:
    if len(bounds) > MOST_PERIODS + 1:
        raise BadInput(f"that is more than {MOST_PERIODS} periods; ask for a shorter time or group by day")
