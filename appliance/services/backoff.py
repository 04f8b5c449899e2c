"""How long a deployment waits before its next start after failures: doubling from `first` to `cap`, seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

STABLE_AFTER = timedelta(seconds=60)
"""A replica that served this long ends a row of failures."""


@dataclass(frozen=True, slots=True)
class Backoff:
    first_s: float
    cap_s: float

    def delay(self, failures: int) -> timedelta:
        """The wait after the `failures`-th failure in a row (1-based)."""
        exponent = min(max(failures, 1) - 1, 30)
        return timedelta(seconds=min(self.first_s * 2**exponent, self.cap_s))
