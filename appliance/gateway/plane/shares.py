"""How the workers of a node share a service's room while requests wait at several of them.

Each worker queues for itself, so each must take no more than its tenants' part of the room. A tenant that waits at
several workers counts at each in proportion to what it has waiting there (one shared counter per tenant and service),
so that many connections win nothing. The sum of a worker's tenants' weights, so corrected, is its weight; it stands in
the shared rows of the service's replicas.

A worker below its part takes room as soon as it sees it. One at its part leaves it, for `PATIENCE_S` at most: then
those others cannot use it, and room is not wasted. Where a part is no whole number (one place for two workers), whoever
frees a place keeps it by a draw with the fraction as its odds, and a worker that finds a place has it: so even a
single place goes round.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.gateway.plane.backends import Replica
    from appliance.gateway.plane.limits.counter import Counter
    from appliance.gateway.plane.limits.shared import Counters

PATIENCE_S: Final = 0.015
"""Longer than any worker takes to look."""
_UNIT: Final = 64
"""Of a weight, in the shared rows."""


class TenantShares:
    """The tenants that wait for one service at this worker."""

    def __init__(self, counters: Counters, service_id: str) -> None:
        self._counters = counters
        self._service_id = service_id
        self._tenants: dict[str, tuple[Counter, float]] = {}

    def add(self, tenant: str, weight: float) -> None:
        """One more of its requests waits."""
        found = self._tenants.get(tenant)
        counter = found[0] if found else self._counters.claim(Kind.QUEUE, f"{self._service_id} {tenant}")
        self._tenants[tenant] = (counter, weight)
        counter.add(HELD_REQUESTS, 1)

    def remove(self, tenant: str) -> None:
        counter, _ = self._tenants[tenant]
        counter.add(HELD_REQUESTS, -1)
        if not counter.own(HELD_REQUESTS):
            del self._tenants[tenant]
            self._counters.release(counter)

    def weights(self) -> Iterable[tuple[str, float]]:
        """Each tenant's weight at this worker."""
        for tenant, (counter, weight) in self._tenants.items():
            yield tenant, weight * counter.own(HELD_REQUESTS) / max(counter.held(), 1)


class Room:
    """Whether this worker may take what room there is at a service's replicas."""

    __slots__ = ("_left_at", "freed")

    def __init__(self) -> None:
        self._left_at: float | None = None
        """When room was left to the other workers; None: there is none, or none was left."""
        self.freed = 0
        """Places that this worker itself has freed and not yet decided about."""

    @staticmethod
    def units(weight: float) -> int:
        """How a worker's weight is written into the rows; above 0 while anything waits."""
        return max(round(weight * _UNIT), 1) if weight > 0 else 0

    def may_take(self, replicas: Sequence[Replica], now: float) -> bool:
        """Call when something waits."""
        freed, self.freed = self.freed > 0, max(self.freed - 1, 0)
        bounded = [each for each in replicas if each.shared is not None and each.max_in_flight is not None]
        if not bounded or bounded[0].shared is None:
            return True
        own, total = bounded[0].shared.own(HELD_TOKENS), bounded[0].shared.held(HELD_TOKENS)
        if own >= total:
            return True  # nobody waits elsewhere
        if self._left_at is None and self._is_due(bounded, own / total, freed=freed):
            return True
        return self._is_unwanted(replicas, now)

    @staticmethod
    def _is_due(bounded: Sequence[Replica], part: float, *, freed: bool) -> bool:
        share = part * sum(each.max_in_flight or 0 for each in bounded)
        running = sum(each.in_flight for each in bounded)
        if running + 1 <= share:
            return True
        if running >= share:
            return False
        return not freed or random.random() < share - running

    def _is_unwanted(self, replicas: Sequence[Replica], now: float) -> bool:
        if not any(each.has_room() for each in replicas):
            self._left_at = None
        elif self._left_at is None:
            self._left_at = now
        elif now - self._left_at >= PATIENCE_S:
            self._left_at = None
            return True
        return False
