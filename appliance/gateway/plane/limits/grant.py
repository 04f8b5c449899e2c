"""What a request holds of limits and budgets from its admission to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.gateway.plane.limits import windows
from appliance.gateway.plane.limits.charge import Changes, charge
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS
from appliance.gateway.plane.limits.periods import spend
from appliance.gateway.plane.limits.subjects import HardBudget, Rate

Clock = Callable[[], int]
"""Milliseconds since the machine's start."""

MOST_KEPT: Final = 16
"""Budgets of one request whose charge survives a kill of the worker: as many have room in its slot."""


class Grant:
    """One request in each subject's count, and tokens reserved there. `at`: Unix seconds of its admission, whose
    period its tokens are spent in. `charge` and `hashes` name the request and its budgets (their rows' hashes, 8
    bytes each) to whoever charges it after this worker was killed; 0 and empty if it has none.
    """

    __slots__ = ("_at", "_budgets", "_clock", "_rates", "_reserved", "_words", "charge", "hashes")

    def __init__(self, words: memoryview[int], rates: list[tuple[Rate, int]], at: float, clock: Clock) -> None:
        """`words`: this worker's table. `rates` with the tokens to reserve of each."""
        self._words = words
        self._rates: list[tuple[Rate, int]] | None = rates
        self._budgets: list[HardBudget] = []
        self._reserved = 0
        self._at = at
        self._clock = clock
        self.charge = 0
        self.hashes = b""
        minute = clock() // windows.MINUTE_MS
        for rate, tokens in rates:
            counter = rate.counter
            counter.words[counter.at + HELD_REQUESTS] += 1
            if rate.requests is not None:
                windows.add(counter.words, counter.at + windows.REQUESTS, minute, 1)
            if tokens:
                counter.words[counter.at + HELD_TOKENS] += tokens

    def reserve(self, budgets: list[HardBudget], tokens: int, charge_id: int) -> None:
        self._budgets = budgets
        self._reserved = tokens
        self.charge = charge_id
        self.hashes = b"".join([budget.hash for budget in budgets[:MOST_KEPT]])
        for budget in budgets:
            budget.counter.add(HELD_TOKENS, tokens)

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The request has ended, having used this. Only the first call does anything."""
        rates, self._rates = self._rates, None
        if rates is None:
            return
        used = prompt_tokens + completion_tokens
        if self._budgets:
            self._settle_budgets(used)
        minute = self._clock() // windows.MINUTE_MS
        for rate, tokens in rates:
            counter = rate.counter
            if rate.tokens is not None and used:
                windows.add(counter.words, counter.at + windows.TOKENS, minute, used)
            # What was reserved goes last: others may see both for a moment, never neither.
            if tokens:
                counter.words[counter.at + HELD_TOKENS] -= tokens
            counter.words[counter.at + HELD_REQUESTS] -= 1

    def release(self) -> None:
        """The request has ended and nothing was done for it."""
        self.settle(0, 0)

    def _settle_budgets(self, used: int) -> None:
        changes: Changes = []
        for budget in self._budgets:
            counter = budget.counter
            spending = spend(counter.words, counter.at, self._at, used)
            if counter.shared:
                changes += spending
            else:
                for index, value in spending:
                    counter.words[index] = value
        if changes and used:
            charge(self._words, self.charge, changes)
        for budget in self._budgets:
            budget.counter.add(HELD_TOKENS, -self._reserved)
