"""The sliding minute of a rate: what the current minute has, and of the minute before the part that is still within
the last 60 seconds, as if it had come evenly.

Minutes are counted from the machine's start (CLOCK_BOOTTIME), so all workers have the same ones and a change of the
time of day changes nothing. A minute's requests and tokens stand in one of two pairs of words, by its parity, each
with the minute's number: minute << 40 | sum. So a minute begins by the first addition to it, in one store, and a sum
of an older minute tells by itself that it counts no more.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from appliance.gateway.plane.limits.layout import SUMS, Rows

MINUTE_MS: Final = 60_000
REQUESTS: Final = SUMS
TOKENS: Final = SUMS + 1
"""Where an even minute has them; an odd one two words on."""
SUM_BITS: Final = 40
SUM: Final = (1 << SUM_BITS) - 1


def now_ms() -> int:
    """Milliseconds since the machine's start."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def sum_of(rows: Rows, word: int, minute: int) -> int:
    """What all workers counted in that minute."""
    word += 2 * (minute & 1)
    total = 0
    for words, at in rows:
        stored = words[at + word]
        if stored >> SUM_BITS == minute:
            total += stored & SUM
    return total


class Usage(NamedTuple):
    """Of one rate: counts of this minute and of the one before, and how many ms of this one are over."""

    current: int
    previous: int
    elapsed_ms: int

    @property
    def used(self) -> int:
        """Within the last 60 seconds, rounded up."""
        return self.current - (-self.previous * (MINUTE_MS - self.elapsed_ms) // MINUTE_MS)

    def room_in_ms(self, room: int) -> int:
        """Milliseconds until `used` is at most `room` if nothing more comes; `room` is 0 or more."""
        if self.used <= room:
            return 0
        if self.current <= room:
            return _fallen_to(self.previous, room - self.current) - self.elapsed_ms
        return MINUTE_MS - self.elapsed_ms + _fallen_to(self.current, room)

    def clear_in_ms(self) -> int:
        """Milliseconds until nothing of it counts any more."""
        return self.room_in_ms(0)


def usage(rows: Rows, word: int, at_ms: int) -> Usage:
    minute, elapsed = divmod(at_ms, MINUTE_MS)
    return Usage(sum_of(rows, word, minute), sum_of(rows, word, minute - 1), elapsed)


def _fallen_to(sum_: int, room: int) -> int:
    """The ms of a minute after which the rest of `sum_` from the minute before is at most `room`."""
    return MINUTE_MS - room * MINUTE_MS // sum_ if room < sum_ else 0
