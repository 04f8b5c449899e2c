"""What waits for one service at one worker: the requests, their order, their pace, and what others are told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.meter import estimate_tokens
from appliance.gateway.plane.pace import Pace
from appliance.gateway.plane.queueing import Entry, FairQueue
from appliance.gateway.plane.schemas.limits import Priority
from appliance.gateway.plane.schemas.tenants import KeyEntry
from appliance.gateway.plane.shares import Room, TenantShares

if TYPE_CHECKING:
    from appliance.gateway.plane.backends import Backends, Replica
    from appliance.gateway.plane.limits.shared import Counters
    from appliance.gateway.plane.request import Request
    from appliance.gateway.plane.tables import ServiceTable

WEIGHTS: Final[dict[Priority, float]] = {"low": 0.5, "normal": 1.0, "high": 2.0}
"""What a class gets of a service beside one tenant of another class; none is starved."""

USUAL_ANSWER: Final = 256
"""Tokens that an answer is taken to have if the caller does not limit it."""
MOST_COST: Final = 16 * 1024


class Waits(Protocol):
    """What waits: an exchange."""

    def try_begin(self) -> bool:
        """Begin at a replica with room; False if there is none. `Refusal` if there can be none."""
        ...

    def wait_until(self, deadline: float) -> None:
        """When to ask the queue to `expire` it, on the loop's clock."""
        ...

    def give_up(self, refusal: Refusal) -> None:
        """It waits no more and will not be served."""
        ...

    def tell_progress(self, comment: bytes) -> None: ...


class Waiter(Entry):
    """`since` and `told` (when its client last heard of it) are on the loop's clock."""

    __slots__ = ("exchange", "queue", "request", "since", "told")

    def __init__(self, exchange: Waits, request: Request, queue: ServiceQueue, now: float) -> None:
        super().__init__(
            tenant=request.key.tenant_id, key=request.key.key_id, pool=request.addressed, cost=cost_of(request)
        )
        self.exchange = exchange
        self.request = request
        self.queue = queue
        self.since = now
        self.told = now


def cost_of(request: Request) -> int:
    """In tokens: those of the prompt, and those that the answer may have."""
    prepared = request.prepared
    if prepared is None or not prepared.prompt_estimate:
        return min(max(estimate_tokens(request.bytes_in), 1), MOST_COST)
    answer = prepared.token_limit
    if prepared.limit_inserted or not answer:
        answer = min(answer or MOST_COST, USUAL_ANSWER * prepared.choices)
    return min(prepared.prompt_estimate + answer, MOST_COST)


class ServiceQueue:
    """What waits for one service at this worker. `is_waking`: it has no replica yet and is being started."""

    def __init__(self, table: ServiceTable, pace: Pace, counters: Counters, backends: Backends) -> None:
        self.table = table
        self.pace = pace
        self.fair: FairQueue[Waiter] = FairQueue()
        self.room = Room()
        self.is_waking = table.shard.asleep
        self._tenants = TenantShares(counters, table.shard.id)
        self._backends = backends

    @property
    def replicas(self) -> list[Replica]:
        return [replica for deployment in self.table.deployments for replica in deployment.replicas]

    def replace(self, table: ServiceTable) -> None:
        """Another snapshot's."""
        self._write(0, 0.0)
        self.table = table
        self.is_waking = table.shard.asleep or (self.is_waking and not self.replicas)
        for waiter in self.fair:
            waiter.request.service = table

    def is_open_to(self, key: KeyEntry) -> bool:
        """Whether the key may still use the service."""
        shard = self.table.shard
        return (key.services is None or shard.id in key.services) and (
            key.tenant_id == shard.tenant_id or key.tenant_id in shard.shared_with
        )

    def wait_s(self) -> float:
        timeouts = self.table.shard.timeouts
        return timeouts.wake_s if self.is_waking else timeouts.queue_s

    def add(self, waiter: Waiter, weight: float, now: float) -> None:
        self.pace.begin(now)
        self._tenants.add(waiter.tenant, weight)
        self.fair.add(waiter, weight)
        self.weigh()

    def serve(self, waiter: Waiter, now: float) -> None:
        """It has begun."""
        self.fair.take(waiter)
        self._tenants.remove(waiter.tenant)
        self.pace.served(waiter.cost, now)

    def remove(self, waiter: Waiter) -> None:
        self.fair.remove(waiter)
        self._tenants.remove(waiter.tenant)

    def weigh(self) -> None:
        """Let this worker's tenants and the other workers know what waits here."""
        total = 0.0
        for tenant, weight in self._tenants.weights():
            self.fair.set_weight(tenant, weight)
            total += weight
        self._write(self.fair.count, total)

    def _write(self, count: int, weight: float) -> None:
        for replica in self.replicas:
            self._backends.set_waiting(replica, count, Room.units(weight))

    def close(self, now: float) -> None:
        self.pace.end(now)
        self._write(0, 0.0)

    def may_take(self, now: float) -> bool:
        return self.room.may_take(self.replicas, now)

    def seconds(self, tenant: str, cost: int, weight: float, now: float) -> float | None:
        """How long one more request of the tenant would wait; None while that is not known."""
        return self.pace.seconds(self.fair.ahead(tenant, cost, weight), now)
