"""The limits of one key, service or tenant, and how much of them is left.

What the other workers and the minute before take of the limits is looked up and kept: for one look where other workers
count the same subject, for `_FRESH_MS` where none does (what the minute before still takes only falls in that time, so
what is left is more than is told, never less). What this worker takes itself is always its newest count.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from appliance.gateway.plane.limits import telling, windows
from appliance.gateway.plane.limits.layout import Kind
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.limits.tally import Tally
from appliance.gateway.plane.limits.windows import MINUTE_MS, REQUESTS, SUM_BITS, TOKENS
from appliance.gateway.plane.schemas.limits import Limits

UNBOUNDED: Final = 1 << 60
"""More than anything that is limited; of what is not, still more is left."""
_NO_LIMIT: Final = 2 * UNBOUNDED
_FRESH_MS: Final = 10
_UNSETTLED_MS: Final = 2000
"""How long into a minute another worker may still add to the one before."""
_LIVE: Final = (Struct("@4Q").unpack_from, Struct("@2Q16x2Q").unpack_from)
"""Of a row after its hash: requests and tokens held, then a minute's requests and tokens, by the minute's parity."""


class Rate:
    """`whose` is how an error names it. After `look`, and as long as `until_ms` and the epoch allow, `most_requests`,
    `most_tokens` and `most_held` are what this worker may have: requests and tokens (used or reserved) in this minute,
    requests at once.
    """

    __slots__ = (
        "_before",
        "_before_epoch",
        "_before_minute",
        "concurrent",
        "counter",
        "epoch",
        "limits",
        "most_held",
        "most_requests",
        "most_tokens",
        "request_lines",
        "requests",
        "tally",
        "token_lines",
        "tokens",
        "until_ms",
        "whose",
    )

    def __init__(self, counters: Counters, name: str, whose: str, limits: Limits) -> None:
        self._before = (0, 0)
        self._before_minute = self._before_epoch = -1
        counter = self.counter = counters.claim(Kind.RATE, name)
        if counter.tally is None:
            counter.tally = Tally(counter.words, counter.at)
        self.tally = counter.tally
        self.limits = limits
        self.whose = whose
        self.requests = limits.requests_per_minute
        self.tokens = limits.tokens_per_minute
        self.concurrent = limits.concurrent_requests
        self.request_lines = telling.lines(b"requests", self.requests or 0)
        self.token_lines = telling.lines(b"tokens", self.tokens or 0)
        self.epoch = self.until_ms = -1
        self.most_requests = self.most_tokens = self.most_held = _NO_LIMIT

    def look(self, at_ms: int, epoch: int) -> None:
        """What the others and the minute before leave. `at_ms`: since the machine's start; `epoch`:
        `Counters.current()`.
        """
        counter = self.counter
        if counter.epoch != epoch:
            counter.resolve()
        minute, elapsed_ms = divmod(at_ms, MINUTE_MS)
        if self.tally.minute != minute:
            self.tally.begin(minute)
        if self._before_minute != minute or self._before_epoch != epoch or elapsed_ms < _UNSETTLED_MS:
            rows = counter.rows()
            self._before = (windows.sum_of(rows, REQUESTS, minute - 1), windows.sum_of(rows, TOKENS, minute - 1))
            self._before_minute, self._before_epoch = minute, epoch
        requests, tokens, held = (0, 0, 0) if counter.alone else self._elsewhere(minute)
        requests -= self._before[0] * (elapsed_ms - MINUTE_MS) // MINUTE_MS
        tokens -= self._before[1] * (elapsed_ms - MINUTE_MS) // MINUTE_MS
        self.most_requests = _NO_LIMIT if self.requests is None else self.requests - requests
        self.most_tokens = _NO_LIMIT if self.tokens is None else self.tokens - tokens
        self.most_held = _NO_LIMIT if self.concurrent is None else self.concurrent - held
        self.epoch = epoch
        self.until_ms = min(at_ms + _FRESH_MS, (minute + 1) * MINUTE_MS) if counter.alone else at_ms

    def _elsewhere(self, minute: int) -> tuple[int, int, int]:
        """In the tables of the other workers: this minute's requests and tokens (used or reserved), requests held."""
        unpack, begun = _LIVE[minute & 1], minute << SUM_BITS
        requests = tokens = held = 0
        for words, at in self.counter.others:
            holds, reserves, came, used = unpack(words, at)
            held += holds
            tokens += reserves
            if came > begun:
                requests += came - begun
            if used > begun:
                tokens += used - begun
        for words, at in self.counter.gone:
            _, _, came, used = unpack(words, at)
            if came > begun:
                requests += came - begun
            if used > begun:
                tokens += used - begun
        return requests, tokens, held
