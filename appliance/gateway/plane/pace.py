"""How fast a service's queue is served: cost per second, measured while requests wait.

An exponentially weighted mean of the work done over the time that it took, both forgotten at the same rate. Time in
which nothing waits does not count, time in which something waits and nothing is served does: an engine that stalls
is seen to stall.
"""

from __future__ import annotations

from math import exp, sqrt
from typing import Final

MEMORY_S: Final = 20.0
"""After so much waiting time a measurement has 1/e of its weight."""
LEAST_SAMPLE: Final = 8
"""Requests served before the pace is trusted."""


class Pace:
    """Times are seconds on one clock."""

    __slots__ = ("_since", "_time", "_work", "samples")

    def __init__(self) -> None:
        self._work = 0.0
        self._time = 0.0
        self._since: float | None = None
        """The last event while something waits; None: nothing waits."""
        self.samples = 0

    def begin(self, now: float) -> None:
        """Something waits."""
        if self._since is None:
            self._since = now

    def served(self, cost: int, now: float) -> None:
        """What waited was begun."""
        self._pass(now)
        self._work += cost
        self.samples += 1

    def end(self, now: float) -> None:
        """Nothing waits any more."""
        self._pass(now)
        self._since = None

    def _pass(self, now: float) -> None:
        if self._since is None:
            return
        passed = max(now - self._since, 0.0)
        self._since = now
        kept = exp(-passed / MEMORY_S)
        self._work *= kept
        self._time = self._time * kept + passed

    def seconds(self, cost: float, now: float) -> float | None:
        """How long work of this cost takes; None while that is not known."""
        if self.samples < LEAST_SAMPLE:
            return None
        waited = now - self._since if self._since is not None else 0.0
        time = self._time + max(waited, 0.0)
        return cost * time / self._work if self._work > 0 else None

    def at_least(self, cost: float, now: float) -> float | None:
        """As `seconds`, but two standard errors quicker (of counts that are as random as arrivals): what a refusal may
        rest upon while little was measured.
        """
        seconds = self.seconds(cost, now)
        return None if seconds is None else seconds / (1 + 2 / sqrt(self.samples))
