"""What a request holds of limits and budgets from its admission to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.gateway.plane.limits.charge import Changes, charge
from appliance.gateway.plane.limits.layout import HELD_TOKENS
from appliance.gateway.plane.limits.periods import spend
from appliance.gateway.plane.limits.subjects import Bounds
from appliance.gateway.plane.limits.windows import MINUTE_MS

Clock = Callable[[], int]
"""Milliseconds since the machine's start."""

MOST_KEPT: Final = 16
"""Budgets of one request whose charge survives a kill of the worker: as many have room in its slot."""


class Grant:
    """One request in each subject's count, and tokens reserved there. `charge` and `hashes` name the request and its
    budgets (their rows' hashes, 8 bytes each) to whoever charges it after this worker was killed; 0 and empty if it
    has none.
    """

    __slots__ = ("_at", "_bounds", "_clock", "_needs", "_reserved", "_words", "charge")

    def __init__(self, bounds: Bounds, needs: list[int], minute: int, clock: Clock) -> None:
        """`needs`: the tokens to reserve of each rate."""
        self._bounds: Bounds | None = bounds
        self._needs = needs
        self._clock = clock
        self.charge = 0
        for rate, need in zip(bounds.rates, needs, strict=True):
            rate.tally.take(minute, need)

    def reserve(self, words: memoryview[int], tokens: int, charge_id: int, at: float) -> None:
        """Take tokens of each budget. `words`: this worker's table; `at`: Unix seconds of the admission, whose period
        the tokens are spent in.
        """
        self._words = words
        self._reserved = tokens
        self._at = at
        self.charge = charge_id
        if self._bounds is not None:
            for budget in self._bounds.budgets:
                budget.counter.add(HELD_TOKENS, tokens)

    @property
    def hashes(self) -> bytes:
        if self._bounds is None:
            return b""
        return b"".join([budget.hash for budget in self._bounds.budgets[:MOST_KEPT]])

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The request has ended, having used this. Only the first call does anything."""
        bounds, self._bounds = self._bounds, None
        if bounds is None:
            return
        used = prompt_tokens + completion_tokens
        if self.charge:
            self._settle_budgets(bounds, used)
        minute = self._clock() // MINUTE_MS
        for rate, need in zip(bounds.rates, self._needs, strict=True):
            rate.tally.give(minute, used if rate.tokens is not None else 0, need)

    def release(self) -> None:
        """The request has ended and nothing was done for it."""
        self.settle(0, 0)

    def _settle_budgets(self, bounds: Bounds, used: int) -> None:
        changes: Changes = []
        for budget in bounds.budgets:
            counter = budget.counter
            spending = spend(counter.words, counter.at, self._at, used)
            if counter.shared:
                changes += spending
            else:
                for index, value in spending:
                    counter.words[index] = value
        if changes and used:
            charge(self._words, self.charge, changes)
        for budget in bounds.budgets:
            budget.counter.add(HELD_TOKENS, -self._reserved)
