"""What may wait for a later turn of the event loop, so that no connection takes a whole one for itself.

libuv reads a connection up to 32 times in a turn while its buffer is filled: 8 MiB, in which nobody else is served.
Who has more to do than belongs in one turn stops reading and asks for another: in order of asking, `most` a turn. So
a turn is as long with a thousand that send much as with one, and each gets its share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """`most` steps go in one turn of the loop, those that wait first. The loop does not sleep while one waits."""

    __slots__ = ("_loop", "_most", "_scheduled", "_taken", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._taken = 0
        """Of this turn."""
        self._scheduled = False
        self._waiting: deque[Callable[[], object]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> bool:
        """Whether one more step may be done in this turn, at once; it is counted."""
        if self._waiting or self._taken >= self._most:
            return False
        self._taken += 1
        self._schedule()
        return True

    def later(self, step: Callable[[], object]) -> None:
        """Have `step` called in a later turn, once."""
        self._waiting.append(step)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """A turn: the loop asks nobody for events between a call and those that it leads to."""
        self._scheduled = False
        self._taken = 0
        for _ in range(min(self._most, len(self._waiting))):
            step = self._waiting.popleft()
            self._taken += 1
            self._schedule()  # first: what a step raises is the loop's to tell, and keeps nobody else waiting
            step()
