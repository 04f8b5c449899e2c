"""Instants that callers name: with a time zone, and where calendars of any zone can still be worked out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from appliance.kernel.errors import BadInput, FieldError

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def checked(instant: datetime, name: str) -> datetime:
    """The instant in UTC; `BadInput` for one without a time zone, or outside of `EARLIEST` and `LATEST`."""
    if instant.tzinfo is None:
        wrong = f"{name} needs a time zone, for example 2026-11-21T00:00:00Z"
    elif EARLIEST <= instant <= LATEST:
        return instant.astimezone(UTC)
    else:
        wrong = f"{name} {instant.isoformat()} is not between the years {EARLIEST.year} and {LATEST.year}"
    raise BadInput(wrong, errors=[FieldError(f"/{name}", wrong)])
