"""A share of the live requests is also sent to one deployment; its answers are read, counted and dropped.

A mirror can neither slow nor fail the live request: it is begun after that was sent, from the loop; it has its own
connections, places (`MOST`) and memory (`MOST_BYTES`), and is dropped, counted, where those or the replica's room do
not suffice; it waits for nothing and is not tried again. It shares the body's bytes with the live request, takes no
slot and no limit, and ends at the live request's deadline at the latest, whether that has ended before or not.

Its replica counts it in flight, so that the control plane's drain waits for it. It has no usage record, since a usage
record is what a tenant is billed by: it is only in the metrics and latencies of its deployment.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Literal

from appliance.gateway.plane import answers, ejection, upstream
from appliance.gateway.plane.balance import pick
from appliance.gateway.plane.meter import usage_record
from appliance.gateway.plane.relay import Relay, StreamRelay, relay_for
from appliance.gateway.plane.slots import Ending, Progress, RequestIdentity
from appliance.gateway.plane.usage import Counter

if TYPE_CHECKING:
    from appliance.gateway.plane.backends import Replica
    from appliance.gateway.plane.context import Context
    from appliance.gateway.plane.request import Request
    from appliance.gateway.plane.schemas.records import Outcome
    from appliance.gateway.plane.tables import MirrorTable

MOST: Final = 128
"""Mirrors of a worker at a time."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of bodies that a worker's mirrors hold at a time."""

Result = Literal["completed", "failed", "timed_out", "dropped_behind", "dropped_no_room"]


def mirror(context: Context, request: Request, table: MirrorTable) -> None:
    """Mirror the request, perhaps. To be called once, when the live request has been sent."""
    if random.random() >= table.share or request.addressed is not None or context.draining:
        return
    backends = context.backends
    body = request.prepared.body if request.prepared is not None else b""
    if len(backends.mirrors) >= MOST or backends.mirrored_bytes + len(body) > MOST_BYTES:
        count(context, table.deployment.id, "dropped_behind")
        return
    copy = Mirror(context, request, table, body)
    backends.mirrors.add(copy)
    backends.mirrored_bytes += len(body)
    context.loop.call_soon(copy.start)


def count(context: Context, deployment_id: str, result: Result) -> None:
    mirrored = context.backends.mirrored
    mirrored[deployment_id, result] = mirrored.get((deployment_id, result), 0) + 1


class Mirror:
    """One mirrored request; the `ResponseHandler` of its answer."""

    __slots__ = (
        "_body",
        "_connecting",
        "_connection",
        "_context",
        "_counter",
        "_deployment",
        "_first",
        "_relay",
        "_replica",
        "_request",
        "_size",
        "_started",
        "_status",
        "_timer",
        "_unique",
    )

    def __init__(self, context: Context, request: Request, table: MirrorTable, body: bytes) -> None:
        self._context = context
        self._request = request
        self._deployment = table.deployment
        self._body = body
        self._size = len(body)
        self._unique = f"{context.ids.next()}.mirror"
        self._replica: Replica | None = None
        self._connection: upstream.UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._relay: Relay | None = None
        self._counter = Counter()
        self._status = 0
        self._started = context.now()
        self._first = 0.0

    def start(self) -> None:
        context, request = self._context, self._request
        point = request.prepared.point if request.prepared is not None else None
        replica = pick(self._deployment, point, context.now())
        if replica is None or replica.is_awaited():
            self._leave("dropped_no_room")
            return
        self._replica = replica
        context.backends.begin(replica)
        timeouts = request.service.shard.timeouts
        self._timer = context.loop.call_at(request.started + timeouts.total_s, self._expire)
        connection = upstream.take_idle(replica, context.now())
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = context.loop.create_task(self._connect(replica, timeouts.connect_s))

    async def _connect(self, replica: Replica, timeout: float) -> None:
        try:
            connection = await upstream.connect(replica, timeout)
        except OSError as error:
            self._connecting = None
            self._context.log.warning("mirror.connect_failed", replica=replica.id, reason=str(error))
            ejection.failed(self._context, replica, "connect")
            self._finish("failed", "upstream_error")
            return
        self._connecting = None
        self._send(connection)

    def _send(self, connection: upstream.UpstreamConnection) -> None:
        self._connection = connection
        connection.send(self, self._request.engine_head(self._unique, self._size), self._body)

    def _expire(self) -> None:
        self._timer = None
        self._finish("timed_out", "timed_out")

    # From the engine

    def on_head(self, status: int, fields: dict[bytes, bytes]) -> None:
        request, replica = self._request, self._replica
        self._release_body()
        self._status = status
        if replica is not None and (replica.troubled or status >= 500):
            ejection.answered(self._context, replica, status)
        content_type = answers.content_type_of(fields)
        self._relay = relay_for(request.route, status, content_type, request.prepared, self._counter)

    def on_data(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            return
        self._first = self._first or self._context.now()
        try:
            relay.feed(data)
        except ValueError:
            self._finish("failed", "upstream_error")
            return
        if isinstance(relay, StreamRelay) and relay.failure is not None:
            self._finish("failed", "upstream_error")

    def fast_path(self) -> None:
        """It goes to nobody."""

    def on_end(self) -> None:
        self._connection = None
        relay = self._relay
        if relay is None:
            return
        relay.finish()
        if relay.failure is not None:
            self._finish("failed", "upstream_error")
        elif relay.complete:
            self._finish("completed", "completed")
        else:
            self._finish("failed", "upstream_cut")

    def on_lost(self, reason: str, *, unread: bool) -> None:
        self._connection = None
        if isinstance(self._relay, StreamRelay) and self._relay.complete:
            self._finish("completed", "completed")  # only the framing's end is missing
            return
        self._context.log.warning("mirror.answer_cut", deployment=self._deployment.id, reason=reason)
        if self._replica is not None and self._relay is None and not unread:
            ejection.failed(self._context, self._replica, "reset")
        self._finish("failed", "upstream_cut")

    # The end

    def _finish(self, result: Result, outcome: Outcome) -> None:
        """Once per mirror that has a replica: after it nothing is left that would call anything here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        replica, self._replica = self._replica, None
        if replica is not None:
            self._context.backends.end(replica)
            self._observe(replica, outcome)
            if self._context.waiting.queues:
                self._context.waiting.freed(self._request.service.shard.id)
        self._relay = None
        self._leave(result)

    def _leave(self, result: Result) -> None:
        self._release_body()
        self._context.backends.mirrors.discard(self)
        count(self._context, self._deployment.id, result)

    def _release_body(self) -> None:
        self._context.backends.mirrored_bytes -= len(self._body)
        self._body = b""

    def _observe(self, replica: Replica, outcome: Outcome) -> None:
        request, now = self._request, self._context.now()
        prepared, shard, counter = request.prepared, request.service.shard, self._counter
        record = usage_record(
            RequestIdentity(
                record_id=self._unique,
                request_id=self._unique,
                at=request.at,
                tenant_id=request.key.tenant_id,
                key_id=request.key.key_id,
                service_id=shard.id,
                deployment_id=replica.deployment_id,
                replica_id=replica.id,
                route=request.route,
                model=prepared.model if prepared is not None else "",
                stream=prepared is not None and prepared.stream,
            ),
            Progress(counter.prompt, counter.completion, 0, 0, self._started, self._first, now),
            Ending(self._status, outcome, now),
        )
        self._context.metrics.of(shard.tenant_id, shard.id, replica.deployment_id).observe(record)
