"""Instants as people give them: ISO 8601, or a distance from now such as `12h`, `30d`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_DISTANCE: Final = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Instant(click.ParamType[str]):
    """Converts to ISO 8601 with a time zone, which is this machine's where none was given."""

    name = "instant"

    def __init__(self, *, sign: int) -> None:
        """`sign` is +1 where a distance lies ahead (an expiry), -1 where it lies back (a period's begin)."""
        self._sign = sign

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if found := _DISTANCE.fullmatch(value):
            distance = timedelta(**{_UNITS[found[2]]: int(found[1])})
            return (datetime.now(UTC) + self._sign * distance).isoformat(timespec="seconds")
        try:
            return datetime.fromisoformat(value).astimezone().isoformat()
        except ValueError:
            self.fail(f"{value!r} is neither like 2026-11-21T08:00 nor like 12h or 30d", param, ctx)


AGO: Final = Instant(sign=-1)
AHEAD: Final = Instant(sign=1)
