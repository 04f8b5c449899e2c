"""Workers of one node in virtual time: real queues, real shared counters, replicas that take a given time."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

from appliance.gateway.plane import wire
from appliance.gateway.plane.backends import Backends
from appliance.gateway.plane.balance import choose
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.demands import demand_directory
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.service_queue import Waiter
from appliance.gateway.plane.status import StatusWriter, read_status
from appliance.gateway.plane.tables import EMPTY
from appliance.gateway.plane.waiting import WaitingRoom
from appliance.gateway.plane.waking import Waker
from tests.plane import parts

LOG = Log(process="test")


class Loop:
    """Runs what is due in its order; time passes at no cost."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.call_later(0.0, callback, *arguments)

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> object:
        heapq.heappush(self._due, (self._now + delay, next(self._order), callback, arguments))
        return object()

    def run(self, seconds: float) -> None:
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            self._now, _, callback, arguments = heapq.heappop(self._due)
            callback(*arguments)
        self._now = end


@dataclass
class Visit:
    """A request that waits, is served for `seconds`, and then ends."""

    worker: "Worker"
    request: Request
    seconds: float
    waiter: Waiter | None = None
    asked: float = 0.0
    deadline: float = 0.0
    began: float | None = None
    ended: float | None = None
    refusal: Refusal | None = None
    told: list[float] = field(default_factory=list)

    @property
    def waited(self) -> float:
        assert self.began is not None
        return self.began - self.asked

    def try_begin(self) -> bool:
        worker = self.worker
        replica = choose(self.request, worker.loop.time())
        if replica is None:
            return False
        worker.backends.begin(replica)
        self.began, self.waiter = worker.loop.time(), None

        def end() -> None:
            self.ended = worker.loop.time()
            worker.backends.end(replica)
            worker.room.freed(self.request.service.shard.id)

        worker.loop.call_later(self.seconds, end)
        return True

    def wait_until(self, deadline: float) -> None:
        self.deadline = deadline

    def give_up(self, refusal: Refusal) -> None:
        self.refusal, self.waiter = refusal, None

    def tell_progress(self, comment: bytes) -> None:
        assert comment.startswith(b": ")
        self.told.append(self.worker.loop.time())


class Worker:
    """One worker's waiting room with all that it needs."""

    def __init__(self, home: Path, index: int, loop: Loop) -> None:
        self.loop = loop
        self.now = loop.time
        self.counters = Counters(home / "limits", index, LOG)
        self._status = home / f"worker-{index}"
        self.backends = Backends(StatusWriter(self._status), self.counters)
        self.tables = EMPTY
        self.keys = {tenant: parts.principal(tenant).key for tenant in ("acme", "guest", "flood")}
        self.room = WaitingRoom(cast("Context", self), Waker(demand_directory(home), LOG))

    def apply(self, *services: wire.ServiceShard) -> None:
        """With the keys that `request` makes."""
        self.tables = parts.tables(*services, before=self.tables, known=self.backends, keys=self.keys)
        self.room.apply(self.tables)

    def ask(self, request: Request, seconds: float = 0.1) -> Visit:
        """One more such request; it may be refused at once."""
        request = parts.again(request)
        request.complete_at = self.loop.time()
        visit = Visit(self, request, seconds, asked=self.loop.time())
        try:
            visit.waiter = self.room.join(visit, request)
        except Refusal as refusal:
            visit.refusal = refusal
        return visit

    def queued(self) -> dict[str, int]:
        return {replica: queued for replica, (_, queued) in read_status(self._status).replicas.items()}


class Node:
    def __init__(self, home: Path, workers: int = 1) -> None:
        self.loop = Loop()
        self.home = home
        self.workers = [Worker(home, index, self.loop) for index in range(workers)]

    def apply(self, *services: wire.ServiceShard) -> None:
        for worker in self.workers:
            worker.apply(*services)


def service(places: int = 4, replicas: int = 1, **changes: Any) -> wire.ServiceShard:
    each = [wire.Replica(f"rpl_{number}", "/nowhere", max_in_flight=places) for number in range(replicas)]
    deployments = changes.pop("deployments", [wire.Deployment("dep_1", "main", 100, each)])
    return parts.shard(deployments=deployments, shared_with=["ten_guest", "ten_flood"], **changes)


def request(shard: wire.ServiceShard, tenant: str = "acme", priority: wire.Priority = "normal", **more: Any) -> Request:
    """Of a tenant with this class; its cost is that of a short prompt."""
    made = parts.request(shard, parts.principal(tenant, wire.TenantEntry(tenant, priority=priority)), **more)
    made.bytes_in = 4000
    return made
