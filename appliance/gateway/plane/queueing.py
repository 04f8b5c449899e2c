"""The order in which requests that wait for one service are served: deficit round robin over tenants.

Each tenant has a turn after the others (Shreedhar and Varghese, "Efficient fair queueing using deficit round robin",
1995). Its turn adds a quantum, in proportion to its weight, to what it may spend; its requests are served while that
covers their cost; what is left is kept for the next turn, until the tenant waits for nothing. So whatever a tenant
queues, another one that waits gets its share, and two tenants that wait all the while get the same work for their
weight, but for one quantum and the costs of two requests. Within a tenant, keys take turns, one request each; within
a key the order is that of arrival.

Not every request can go where there is room: a request waits in a `pool` (the deployment that it asks for, or None
for any), and pools without room are passed over without losing their turn's place.

All operations but `remove` of the last request of a tenant are independent of how many wait; `peek` may look at each
tenant once.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container, Hashable, Iterator
from math import ceil
from typing import Final, Generic, TypeVar

QUANTUM: Final = 1024.0
"""What a turn adds for a weight of 1, in units of cost: about one request of ordinary length."""

Pool = Hashable


class Entry:
    """A request that waits. `cost` is positive; the unit is a token."""

    __slots__ = ("cost", "key", "pool", "tenant")

    def __init__(self, *, tenant: str, key: str, pool: Pool, cost: int) -> None:
        self.tenant = tenant
        self.key = key
        self.pool = pool
        self.cost = cost


E = TypeVar("E", bound=Entry)


class _Tenant(Generic[E]):
    """`flows`: by key and pool; the first is next. `backlog` is the cost of all that waits."""

    __slots__ = ("backlog", "count", "deficit", "flows", "name", "on_turn", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.flows: dict[tuple[str, Pool], OrderedDict[E, None]] = {}
        self.deficit = 0.0
        self.on_turn = False
        """Whether its quantum of this turn was added."""
        self.backlog = 0
        self.count = 0

    def first(self, closed: Container[Pool]) -> E | None:
        for (_, pool), flow in self.flows.items():
            if pool not in closed:
                return next(iter(flow))
        return None


class FairQueue(Generic[E]):
    """`count` requests of `tenants` tenants. A request is in it at most once."""

    def __init__(self, quantum: float = QUANTUM) -> None:
        self._quantum = quantum
        self._tenants: dict[str, _Tenant[E]] = {}
        self._turns: deque[_Tenant[E]] = deque()
        """The first has its turn."""
        self.count = 0

    def __iter__(self) -> Iterator[E]:
        for tenant in self._turns:
            for flow in tenant.flows.values():
                yield from flow

    @property
    def tenants(self) -> Iterator[str]:
        return iter(self._tenants)

    def waiting(self, tenant: str) -> int:
        found = self._tenants.get(tenant)
        return found.count if found is not None else 0

    def set_weight(self, tenant: str, weight: float) -> None:
        """Of a tenant that waits."""
        self._tenants[tenant].weight = weight

    def add(self, entry: E, weight: float) -> None:
        """`weight` (positive) holds for its tenant from now on."""
        tenant = self._tenants.get(entry.tenant)
        if tenant is None:
            tenant = self._tenants[entry.tenant] = _Tenant(entry.tenant, weight)
            self._turns.append(tenant)
        tenant.weight = weight
        tenant.flows.setdefault((entry.key, entry.pool), OrderedDict())[entry] = None
        tenant.count += 1
        tenant.backlog += entry.cost
        self.count += 1

    def remove(self, entry: E) -> None:
        """It waits no more, unserved."""
        tenant = self._tenants[entry.tenant]
        flow = tenant.flows[entry.key, entry.pool]
        del flow[entry]
        if not flow:
            del tenant.flows[entry.key, entry.pool]
        tenant.count -= 1
        tenant.backlog -= entry.cost
        self.count -= 1
        if not tenant.count:
            del self._tenants[entry.tenant]
            self._turns.remove(tenant)

    def peek(self, closed: Container[Pool] = ()) -> E | None:
        """Whose turn it is, of those whose pool is not `closed`; None if there is none."""
        while True:
            rounds = 0
            for _ in range(len(self._turns)):
                tenant = self._turns[0]
                entry = tenant.first(closed)
                if entry is not None:
                    if not tenant.on_turn:
                        tenant.on_turn = True
                        tenant.deficit += self._quantum * tenant.weight
                    if tenant.deficit >= entry.cost:
                        return entry
                    short = ceil((entry.cost - tenant.deficit) / (self._quantum * tenant.weight))
                    rounds = min(rounds, short) if rounds else short
                    tenant.on_turn = False
                self._turns.rotate(-1)
            if not rounds:
                return None
            self._pass(rounds - 1, closed)

    def _pass(self, rounds: int, closed: Container[Pool]) -> None:
        """So many rounds in which nobody could be served, at once."""
        for tenant in self._turns:
            if rounds and tenant.first(closed) is not None:
                tenant.deficit += rounds * self._quantum * tenant.weight

    def take(self, entry: E) -> None:
        """Serve what `peek` has just given."""
        tenant = self._tenants[entry.tenant]
        tenant.deficit -= entry.cost
        flow = tenant.flows.pop((entry.key, entry.pool))
        tenant.flows[entry.key, entry.pool] = flow  # behind the tenant's other keys
        self.remove(entry)

    def ahead(self, tenant: str, cost: int, weight: float) -> float:
        """The cost of what is served until one more request of `tenant` is, itself included: all that the tenant has
        waiting, and of the others' what they get meanwhile.
        """
        own = self._tenants.get(tenant)
        return self.share(tenant, cost + (own.backlog if own is not None else 0), weight)

    def share(self, tenant: str, cost: int, weight: float) -> float:
        """The cost of what is served until this much of `tenant` is, if it had nothing waiting."""
        others = (min(each.backlog, cost * each.weight / weight) for each in self._turns if each.name != tenant)
        return cost + sum(others)

    def longest(self, tenant: str, weight: float) -> E | None:
        """The request to give up for one more of `tenant`, if the queue is full: the youngest of the longest flow of
        the tenant that waits with most requests for its weight; None if that is this one.
        """
        own = (self.waiting(tenant) + 1) / weight
        worst = max(self._turns, key=lambda each: each.count / each.weight, default=None)
        if worst is None or worst.name == tenant or worst.count / worst.weight <= own:
            return None
        longest = max(worst.flows.values(), key=lambda flow: len(flow))  # noqa: PLW0108 - mypy cannot infer by `len`
        return next(reversed(longest))
