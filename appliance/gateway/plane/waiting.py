"""Where requests wait for a replica with room, or for a service that sleeps to start.

One queue per service, on each worker, that exists while something waits in it; `queueing` says whose turn it is,
`shares` what part of the room is this worker's. A request that comes while others wait, waits behind them. A queue is
looked at when this worker frees a place, when the snapshot changes, and every `LOOK_S` for what other workers free.

A request is refused at once if it could not be begun in time at the pace of the service, or if the queue is full: then
whoever waits with most requests for its weight loses the youngest. It leaves at once when its client does, and counts
nowhere; nothing of it was computed, so nothing is billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from appliance.gateway.plane import overload
from appliance.gateway.plane.errors import Refusal, invalid_key
from appliance.gateway.plane.pace import Pace
from appliance.gateway.plane.queueing import Pool
from appliance.gateway.plane.service_queue import WEIGHTS, ServiceQueue, Waiter, Waits
from appliance.gateway.plane.waking import PROGRESS, PROGRESS_S, Waker

if TYPE_CHECKING:
    import asyncio

    from appliance.gateway.plane.context import Context
    from appliance.gateway.plane.request import Request
    from appliance.gateway.plane.tables import ServiceTable, Tables

LOOK_S: Final = 0.004


class WaitingRoom:
    """Of one worker. `queues`: by service, those in which something waits."""

    def __init__(self, context: Context, waker: Waker) -> None:
        self.queues: dict[str, ServiceQueue] = {}
        self._context = context
        self._waker = waker
        self._paces: dict[str, Pace] = {}
        self._due: set[ServiceQueue] = set()
        self._timer: asyncio.TimerHandle | None = None

    # From exchanges

    def join(self, exchange: Waits, request: Request) -> Waiter:
        """Wait. `Refusal` 429 or 503 if that is in vain."""
        now = self._context.now()
        queue = self._queue(request)
        request.service = queue.table
        waiter = Waiter(exchange, request, queue, now)
        weight = WEIGHTS[request.tenant.priority]
        try:
            _check_time(queue, waiter, weight, now)
            given_up = _longest(queue, waiter, weight, now)
        except Refusal:
            self._close_if_empty(queue)
            raise
        queue.add(waiter, weight, now)
        exchange.wait_until(request.complete_at + queue.wait_s())
        if queue.is_waking:
            self._waker.ask(queue.table.shard.id, now)
        self._look_soon(queue)
        if given_up is not None:
            self._give_up(queue, *given_up)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Its client is gone."""
        waiter.queue.remove(waiter)
        waiter.queue.weigh()
        self._close_if_empty(waiter.queue)

    def expire(self, waiter: Waiter) -> Refusal:
        """It has waited for too long: it leaves with this."""
        queue, now = waiter.queue, self._context.now()
        self.leave(waiter)
        waited = now - waiter.since
        if queue.is_waking:
            return overload.not_awake(waited)
        return overload.waited_too_long(waited, queue.seconds(waiter.tenant, waiter.cost, 1.0, now))

    def freed(self, service_id: str) -> None:
        """A request at one of the service's replicas has ended here."""
        queue = self.queues.get(service_id)
        if queue is not None:
            queue.room.freed += 1
            self._look_soon(queue)

    # From the worker

    def apply(self, tables: Tables) -> None:
        """Look at all that waits by a new snapshot."""
        for service_id in list(self._paces):
            table = tables.services.get(service_id)
            if table is None:
                del self._paces[service_id]
            if table is None or not table.shard.asleep:
                self._waker.rests(service_id)
        keys = tables.keys() if self.queues else {}
        for service_id, queue in list(self.queues.items()):
            table = tables.services.get(service_id)
            if table is None:
                self._give_up(queue, list(queue.fair), overload.removed())
                continue
            if table is not queue.table:
                self._replace(queue, table)
            self._give_up(queue, [each for each in queue.fair if each.key not in keys], invalid_key())
            strangers = [each for each in queue.fair if not queue.is_open_to(keys[each.key])]
            self._give_up(queue, strangers, overload.removed())

    def _replace(self, queue: ServiceQueue, table: ServiceTable) -> None:
        was_waking = queue.is_waking
        queue.replace(table)
        if queue.is_waking and not was_waking:
            for waiter in queue.fair:
                waiter.exchange.wait_until(waiter.since + queue.wait_s())
        self._look_soon(queue)

    def describe(self) -> dict[str, object]:
        """For `/debug/state`."""
        return {
            service_id: {
                "waiting": queue.fair.count,
                "tenants": {tenant: queue.fair.waiting(tenant) for tenant in queue.fair.tenants},
                "waking": queue.is_waking,
            }
            for service_id, queue in self.queues.items()
        }

    def counts(self) -> Iterator[tuple[str, int]]:
        """Requests that wait, by service."""
        for service_id, queue in self.queues.items():
            yield service_id, queue.fair.count

    def _queue(self, request: Request) -> ServiceQueue:
        """By the tables of now: the request may have been routed by older ones."""
        service_id = request.service.shard.id
        queue = self.queues.get(service_id)
        if queue is None:
            context = self._context
            table = context.tables.services.get(service_id, request.service)
            pace = self._paces.setdefault(service_id, Pace())
            queue = self.queues[service_id] = ServiceQueue(table, pace, context.counters, context.backends)
            if self._timer is None:
                self._timer = context.loop.call_later(LOOK_S, self._tick)
        return queue

    # Looking for room

    def _look_soon(self, queue: ServiceQueue) -> None:
        """Not at once: who asks is in the middle of something."""
        if not self._due:
            self._context.loop.call_soon(self._look)
        self._due.add(queue)

    def _look(self) -> None:
        due, self._due = self._due, set()
        now = self._context.now()
        for queue in due:
            self._serve(queue, now)

    def _tick(self) -> None:
        now = self._context.now()
        for service_id, queue in list(self.queues.items()):
            try:
                self._tend(service_id, queue, now)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one queue, the others are tended
                self._context.log.error("queue.failed", service=service_id, reason=repr(error))  # noqa: TRY400
        self._timer = self._context.loop.call_later(LOOK_S, self._tick) if self.queues else None

    def _tend(self, service_id: str, queue: ServiceQueue, now: float) -> None:
        queue.weigh()
        queue.room.freed = 0  # they were looked at when they became free
        self._serve(queue, now)
        if queue.is_waking and queue.fair.count:
            if queue.table.shard.asleep:
                self._waker.ask(service_id, now)
            self._tell(queue, now)

    def _serve(self, queue: ServiceQueue, now: float) -> None:
        closed: set[Pool] = set()
        served = False
        while (waiter := queue.fair.peek(closed)) is not None and queue.may_take(now):
            try:
                began = waiter.exchange.try_begin()
            except Refusal as refusal:
                if queue.is_waking and not queue.replicas:
                    break
                self._give_up(queue, [waiter], refusal)
                continue
            if began:
                queue.serve(waiter, now)
                served = True
            else:
                closed.add(waiter.pool)
        if served and queue.fair.count:
            queue.weigh()
        self._close_if_empty(queue)

    @staticmethod
    def _tell(queue: ServiceQueue, now: float) -> None:
        for waiter in queue.fair:
            if now - waiter.told >= PROGRESS_S:
                waiter.told = now
                waiter.exchange.tell_progress(PROGRESS)

    def _give_up(self, queue: ServiceQueue, waiters: list[Waiter], refusal: Refusal) -> None:
        """All of them leave before the first is told: whose client may ask anew at once."""
        if not waiters:
            return
        for waiter in waiters:
            queue.remove(waiter)
        queue.weigh()
        self._close_if_empty(queue)
        for waiter in waiters:
            waiter.exchange.give_up(refusal)

    def _close_if_empty(self, queue: ServiceQueue) -> None:
        service_id = queue.table.shard.id
        if not queue.fair.count and self.queues.get(service_id) is queue:
            del self.queues[service_id]
            queue.close(self._context.now())


def _check_time(queue: ServiceQueue, waiter: Waiter, weight: float, now: float) -> None:
    """`Refusal` if it could hardly be begun in time."""
    most = queue.wait_s()
    ahead = queue.fair.ahead(waiter.tenant, waiter.cost, weight)
    seconds, least = queue.pace.seconds(ahead, now), queue.pace.at_least(ahead, now)
    in_time = least is None or least <= most - (now - waiter.request.complete_at)
    if seconds is None or in_time or queue.is_waking:
        return
    waiting = queue.fair.waiting(waiter.tenant)
    alone = queue.pace.seconds(queue.fair.share(waiter.tenant, waiter.cost, weight), now)
    if waiting and alone is not None and alone <= most:
        raise overload.own_queue_too_long(waiting, seconds, most)
    raise overload.too_busy(seconds, most)


def _longest(queue: ServiceQueue, waiter: Waiter, weight: float, now: float) -> tuple[list[Waiter], Refusal] | None:
    """Who makes place for one more, if somebody must. `Refusal` if that is this one itself."""
    if queue.fair.count < queue.table.shard.max_queued:
        return None
    longest = queue.fair.longest(waiter.tenant, weight)
    if longest is not None:
        waiting = queue.fair.waiting(longest.tenant)
        seconds = queue.seconds(longest.tenant, longest.cost, WEIGHTS[longest.request.tenant.priority], now)
        return [longest], overload.own_queue_full(waiting, seconds)
    seconds = queue.seconds(waiter.tenant, waiter.cost, weight, now)
    if waiting := queue.fair.waiting(waiter.tenant):
        raise overload.own_queue_full(waiting, seconds)
    raise overload.too_busy(seconds, queue.wait_s())
