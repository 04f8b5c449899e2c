"""What has to be counted, by key, service and tenant: made from a snapshot when it is applied, so that a request
finds it with one look-up each, and nothing where there is no limit.

Only what changed is made anew: a bucket of keys, the tenants or a service whose decoded shard is the same object
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from appliance.gateway.plane.limits.layout import HELD_TOKENS
from appliance.gateway.plane.limits.periods import KINDS, period_at, spent
from appliance.gateway.plane.limits.rate import Rate
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.schemas.limits import Budget, Limits

Shard = TypeVar("Shard")
UNLIMITED: Final = Limits()


class HardBudget:
    """A budget and what is spent of it: by this node's own count, and before or elsewhere by the database's.

    `elsewhere` is what the database had counted beyond this node's own count when a snapshot told it; it only grows
    within a period. So right after a snapshot the larger of the two counts is in force, and what this node counts
    from then on comes on top.
    """

    __slots__ = ("budget", "counter", "elsewhere", "elsewhere_in", "hash", "kind", "whose")

    def __init__(self, counters: Counters, budget: Budget, whose: str, before: HardBudget | None, now: float) -> None:
        self.budget = budget
        self.whose = whose
        self.kind = KINDS[budget.period]
        self.counter = counters.claim(self.kind, budget.id)
        self.hash = self.counter.hashed.to_bytes(8, "little")
        period = period_at(self.kind, now)
        self.elsewhere_in = period
        self.elsewhere = 0
        if period_at(self.kind, budget.spent_since) == period:
            self.elsewhere = max(0, budget.spent - spent(self.counter.rows(), period))
        if before is not None and before.kind == self.kind and before.elsewhere_in == period:
            self.elsewhere = max(self.elsewhere, before.elsewhere)

    def spent(self, now: float) -> int:
        """Tokens spent in the period of Unix time `now`."""
        period = period_at(self.kind, now)
        own = spent(self.counter.rows(), period)
        return own + self.elsewhere if period == self.elsewhere_in else own

    def left(self, now: float) -> int:
        """Tokens that are neither spent nor reserved; less than 0 when it is overdrawn."""
        return self.budget.tokens - self.spent(now) - self.counter.held(HELD_TOKENS)


class Subject:
    """A key, service or tenant that has limits or budgets."""

    __slots__ = ("budgets", "rate")

    def __init__(self, rate: Rate | None, budgets: list[HardBudget]) -> None:
        self.rate = rate
        self.budgets = budgets


class Bounds:
    """All that bounds the requests of a key to a service. `all_tokens`: whether each of the rates limits tokens."""

    __slots__ = ("all_tokens", "budgets", "rates")

    def __init__(self, subjects: list[Subject]) -> None:
        self.rates = [each.rate for each in subjects if each.rate is not None]
        self.budgets = [budget for each in subjects for budget in each.budgets]
        self.all_tokens = all(rate.tokens is not None for rate in self.rates)


class Bounded(Protocol):
    """A key's, service's or tenant's entry in the snapshot."""

    @property
    def limits(self) -> Limits: ...

    @property
    def budgets(self) -> list[Budget]: ...


class Family(Generic[Shard]):
    """All keys, all services or all tenants. `subjects`, by id, has only those that are limited."""

    def __init__(
        self, counters: Counters, whose: str, entries: Callable[[Shard], Iterable[tuple[str, Bounded]]]
    ) -> None:
        self._counters = counters
        self._whose = whose
        self._entries = entries
        self._made: dict[str, tuple[Shard, dict[str, Subject]]] = {}
        """By shard: what it was and what was made of it."""
        self.subjects: dict[str, Subject] = {}

    def apply(self, shards: dict[str, Shard], now: float) -> None:
        """`now`: Unix seconds."""
        before = self._made
        self._made = {
            name: before[name] if name in before and before[name][0] is shard else (shard, self._make(shard, now))
            for name, shard in shards.items()
        }
        for name, made in before.items():
            if self._made.get(name) is not made:
                for subject in made[1].values():
                    self._release(subject)
        self.subjects = {key: subject for _, made in self._made.values() for key, subject in made.items()}

    def _make(self, shard: Shard, now: float) -> dict[str, Subject]:
        return {
            name: self._subject(name, entry, now)
            for name, entry in self._entries(shard)
            if entry.budgets or entry.limits != UNLIMITED
        }

    def _subject(self, name: str, entry: Bounded, now: float) -> Subject:
        known = self.subjects.get(name)
        before = {each.budget.id: each for each in known.budgets} if known is not None else {}
        limited = entry.limits != UNLIMITED
        return Subject(
            Rate(self._counters, f"{self._whose} {name}", self._whose, entry.limits) if limited else None,
            [HardBudget(self._counters, budget, self._whose, before.get(budget.id), now) for budget in entry.budgets],
        )

    def _release(self, subject: Subject) -> None:
        if subject.rate is not None:
            self._counters.release(subject.rate.counter)
        for budget in subject.budgets:
            self._counters.release(budget.counter)
