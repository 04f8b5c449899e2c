"""What this worker counts in its row of a rate, beside the row: nothing is read back that it has written itself.

The row is written at once, each word by one store, so what the others read and what a kill leaves is what is here.
"""

from __future__ import annotations

from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS
from appliance.gateway.plane.limits.windows import REQUESTS, SUM, SUM_BITS, TOKENS


class Tally:
    """`held` requests and `reserved` tokens now, `requests` and `tokens` of `minute`. The row's only writer."""

    __slots__ = ("_begun", "_requests_at", "_row", "_tokens_at", "held", "minute", "requests", "reserved", "tokens")

    def __init__(self, words: memoryview[int], at: int) -> None:
        row = self._row = words[at : at + 8]
        self.held, self.reserved = row[HELD_REQUESTS], row[HELD_TOKENS]
        self.begin(0)

    def begin(self, minute: int) -> None:
        """Due before anything is asked or counted in another minute than `minute`. What the row has of it already was
        counted by the worker before this one.
        """
        row, parity = self._row, 2 * (minute & 1)
        self.minute = minute
        self._begun = begun = minute << SUM_BITS
        self._requests_at, self._tokens_at = REQUESTS + parity, TOKENS + parity
        requests, tokens = row[self._requests_at], row[self._tokens_at]
        self.requests = requests & SUM if requests >= begun else 0
        self.tokens = tokens & SUM if tokens >= begun else 0

    def take(self, minute: int, tokens: int) -> None:
        """One request more, and so many tokens that it may need."""
        if self.minute != minute:
            self.begin(minute)
        row = self._row
        self.held = row[HELD_REQUESTS] = self.held + 1
        self.reserved = row[HELD_TOKENS] = self.reserved + tokens
        self.requests = requests = self.requests + 1
        row[self._requests_at] = self._begun + requests

    def give(self, minute: int, used: int, reserved: int) -> None:
        """A request has ended for which so many tokens were reserved, having used these."""
        if self.minute != minute:
            self.begin(minute)
        row = self._row
        self.tokens = tokens = self.tokens + used
        row[self._tokens_at] = self._begun + tokens
        # What was reserved goes last: others may see both for a moment, never neither.
        self.reserved = row[HELD_TOKENS] = self.reserved - reserved
        self.held = row[HELD_REQUESTS] = self.held - 1
