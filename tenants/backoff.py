"""Slowing down the guessing of passwords: the wait grows with each failure, ends by itself, and is never for good.

The same waits apply to names that do not exist, so that the answers do not tell which names do.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from tenants.errors import TooManyAttempts

FREE_ATTEMPTS: Final = 5
LONGEST_WAIT_S: Final = 60
_NAMES: Final = 10_000


def wait_after(failures: int) -> timedelta:
    """How long nothing is tried after so many failures in a row: 0 for the first five, then 1, 2, 4 ... 60 s."""
    if failures <= FREE_ATTEMPTS:
        return timedelta(0)
    return timedelta(seconds=min(LONGEST_WAIT_S, 2 ** min(failures - FREE_ATTEMPTS - 1, 10)))


def require_unblocked(blocked_until: datetime | None, now: datetime) -> None:
    """Raise `TooManyAttempts` with the seconds to wait."""
    if blocked_until is not None and blocked_until > now:
        wait_s = ceil((blocked_until - now).total_seconds())
        raise TooManyAttempts(f"too many failed attempts; try again in {wait_s} s", retry_after_s=wait_s)


class UnknownNames:
    """The failures of names that no user has, in memory; the least recently tried are forgotten first."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, datetime]] = OrderedDict()

    def charge(self, name: str, now: datetime) -> None:
        """Count one more attempt; raise `TooManyAttempts` within the wait."""
        failures, blocked_until = self._failures.pop(name, (0, now))
        try:
            require_unblocked(blocked_until, now)
            failures += 1
            blocked_until = now + wait_after(failures)
        finally:
            self._failures[name] = failures, blocked_until
            while len(self._failures) > _NAMES:
                self._failures.popitem(last=False)
