"""One request at the engines: a replica is chosen, asked, and its answer relayed to the client.

Another replica is tried only while it is certain that the first has not worked on the request: no connection could
be had, or the engine had closed a kept-alive connection without reading the request from it. Whatever happens, the
request leaves exactly one usage record, and the replica's count and the slot are given back exactly once.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from appliance.gateway.plane import answers, upstream
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.balance import choose
from appliance.gateway.plane.chunked import LAST_CHUNK, encode_chunk
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal, engine_failed, unavailable
from appliance.gateway.plane.meter import usage_record
from appliance.gateway.plane.relay import Relay, StreamRelay, error_event, relay_for
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas import Outcome
from appliance.gateway.plane.slots import Progress, RequestIdentity
from appliance.gateway.plane.usage import Counter

_DOWN_S: Final = 1.0
"""A replica that could not be connected to is avoided for this long while there are others."""
_ATTEMPTS: Final = 3
"""Requests to one replica over kept-alive connections that turn out to be closed."""
_MODEL_IN_RECORD: Final = 120
_NO_CONTENT: Final = 204
_CLIENT_CLOSED: Final = 499
"""The status in the record of a request whose client left before an answer (nginx's number)."""


class Client(Protocol):
    """The connection that the request came over. `deadline` is on the loop's clock."""

    deadline: float

    def write(self, data: bytes) -> None: ...

    def refuse(self, refusal: Refusal, request: Request) -> None: ...

    def answered(self, *, keep_alive: bool) -> None: ...

    def abort(self) -> None: ...


class Exchange:
    """From a complete request to its answer's end. The client calls `start`, then `client_gone`, `pause`, `resume`
    or `on_deadline`; the upstream connection calls the `on_...` of `ResponseHandler`.
    """

    __slots__ = (
        "_attempt",
        "_bytes_out",
        "_client",
        "_connecting",
        "_connection",
        "_context",
        "_counter",
        "_excluded",
        "_finished",
        "_first",
        "_head",
        "_identity",
        "_last",
        "_paused",
        "_relay",
        "_replica",
        "_request",
        "_sent_at",
        "_slot",
        "_status",
        "_total_deadline",
        "_unique",
    )

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._unique = context.ids.next()
        self._attempt = 0
        self._excluded: frozenset[str] = frozenset()
        self._replica: Replica | None = None
        self._connection: upstream.UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._identity: RequestIdentity | None = None
        self._slot: int | None = None
        self._counter = Counter()
        self._relay: Relay | None = None
        self._head: bytes | None = None
        """The answer's head until it is sent, which is with its first byte."""
        self._status = 0
        self._bytes_out = 0
        self._sent_at = self._first = self._last = 0.0
        self._finished = False
        self._paused = False
        self._total_deadline = request.started + request.service.shard.timeouts.total_s

    # From the client

    def start(self) -> None:
        try:
            replica = choose(self._request.service, self._context.now(), self._excluded)
        except Refusal as refusal:
            self._refuse_unforwarded(refusal)
        else:
            self._forward(replica)

    def client_gone(self) -> None:
        """The client has closed: the engine must stop at once."""
        if not self._finished:
            self._status = self._status or _CLIENT_CLOSED
            self._finish("client_cut")

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()
            self._extend(self._request.service.shard.timeouts.idle_s)

    def on_deadline(self) -> None:
        """The engine was silent for too long, or the client did not read for as long."""
        if self._finished:
            return
        if self._paused:
            self._finish("client_cut")
            self._client.abort()
        else:
            self._break_off("timed_out", engine_failed(504, "engine_timeout", "The engine did not answer in time."))

    def on_shutdown(self) -> None:
        """The worker ends now."""
        if not self._finished:
            self._break_off("timed_out", unavailable("gateway_restart", "The gateway restarts.", retry_after_s=1))

    # Towards the engine

    def _forward(self, replica: Replica) -> None:
        self._attempt += 1
        self._replica = replica
        self._identity = self._identify(replica)
        self._slot = self._context.slots.claim(self._identity, self._request.started)
        if self._slot is None:
            self._refuse_unforwarded(
                unavailable("overloaded", "The gateway has too many requests in flight.", retry_after_s=1)
            )
            return
        self._context.backends.begin(replica)
        connection = _idle_connection(replica, self._context.now())
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = self._context.loop.create_task(self._connect(replica))

    async def _connect(self, replica: Replica) -> None:
        timeouts = self._request.service.shard.timeouts
        self._extend(timeouts.connect_s + 1.0)
        try:
            connection = await upstream.connect(replica, timeouts.connect_s)
        except OSError as error:
            self._connecting = None
            self._context.log.warning("replica.connect_failed", replica=replica.id, reason=str(error))
            replica.down_until = self._context.now() + _DOWN_S
            self._excluded |= {replica.id}
            self._try_again(replica)
            return
        self._connecting = None
        if self._finished:
            connection.close()
            return
        replica.down_until = 0.0
        self._send(connection)

    def _send(self, connection: upstream.UpstreamConnection) -> None:
        self._connection = connection
        self._sent_at = self._context.now()
        self._extend(self._request.service.shard.timeouts.first_byte_s)
        connection.send(self, self._request.for_engine(self._unique))

    def _try_again(self, replica: Replica) -> None:
        """The engine has not seen the request: as if it had not been chosen."""
        if self._finished:
            return
        self._connection = None
        if self._slot is not None:
            self._context.slots.free(self._slot)
            self._slot = None
        self._replica = None
        self._context.backends.end(replica)
        self.start()

    # From the engine

    def on_head(self, status: int, fields: dict[bytes, bytes]) -> None:
        content_type = answers.content_type_of(fields)
        request = self._request
        self._status = status
        self._relay = relay_for(request.route, status, content_type, request.prepared, self._counter)
        length = fields.get(b"content-length")
        known = int(length) if length is not None and not isinstance(self._relay, StreamRelay) else None
        if status == _NO_CONTENT:
            known = 0
        request.chunked_answer = known is None and not request.head.http_1_0
        if known is None and request.head.http_1_0:
            request.keep_alive = False  # only the connection's end can tell the body's
        self._head = answers.head(
            status,
            self._context.date.line,
            request.request_id,
            content_type,
            known,
            keep_alive=request.keep_alive and not self._context.draining,
            chunked=request.chunked_answer,
            extra=b"cache-control: no-cache\r\n" if isinstance(self._relay, StreamRelay) else b"",
        )

    def on_data(self, data: bytes) -> None:
        relay = self._relay
        if relay is None or self._finished:
            return
        now = self._context.now()
        self._last = now
        if not self._first:
            self._first = now
        try:
            out = relay.feed(data)
        except ValueError:
            self._break_off("upstream_error", engine_failed(502, "engine_error", "The engine's answer is malformed."))
            return
        self._pass_on(out)
        if isinstance(relay, StreamRelay) and relay.failure is not None:
            self._break_off("upstream_error", relay.failure)
            return
        if self._slot is not None:
            self._context.slots.update(self._slot, self._progress())
        self._extend(self._request.service.shard.timeouts.idle_s)

    def on_end(self) -> None:
        """The answer's framing is complete; the connection may already serve another request."""
        relay = self._relay
        self._connection = None
        if relay is None or self._finished:
            return
        out = relay.finish()
        failure = relay.failure
        if failure is not None:
            self._status = failure.status
            self._finish("refused" if failure.status < 500 or failure.status == 503 else "upstream_error")
            self._client.refuse(failure, self._request)
        elif not relay.complete:
            self._pass_on(out)
            self._break_off("upstream_cut", _cut())
        else:
            self._complete(out)

    def on_lost(self, reason: str, *, unread: bool) -> None:
        replica = self._replica
        self._connection = None
        if self._finished or replica is None:
            return
        if unread and self._attempt < _ATTEMPTS:
            replica.close_idle()
            self._try_again(replica)
            return
        self._context.log.warning("replica.answer_cut", replica=replica.id, reason=reason, record=self._unique)
        if self._relay is not None and self._relay.complete and isinstance(self._relay, StreamRelay):
            self._complete(b"")  # [DONE] was there; only the framing's end is missing
            return
        self._break_off("upstream_cut", _cut())

    # Towards the client

    def _pass_on(self, payload: bytes) -> None:
        if not payload:
            return
        self._bytes_out += len(payload)
        framed = encode_chunk(payload) if self._request.chunked_answer else payload
        if self._head is not None:
            framed = self._head + framed
            self._head = None
        self._client.write(framed)

    def _complete(self, last: bytes) -> None:
        request = self._request
        self._bytes_out += len(last)
        framed = (encode_chunk(last) + LAST_CHUNK) if request.chunked_answer else last
        if self._head is not None:
            framed = self._head + framed
            self._head = None
        if framed:
            self._client.write(framed)
        self._finish("completed")
        self._client.answered(keep_alive=request.keep_alive and not self._context.draining)

    def _break_off(self, outcome: Outcome, refusal: Refusal) -> None:
        """The answer cannot be completed. If nothing of it was sent, an error answer; else an error event (in a
        stream) and a connection that closes without the answer's end, so that it cannot be taken for whole.
        """
        begun = self._bytes_out > 0
        if not begun:
            self._status = refusal.status
        self._finish(outcome)
        if not begun:
            self._client.refuse(refusal, self._request)
            return
        if isinstance(self._relay, StreamRelay):
            event = error_event(refusal)
            self._client.write(encode_chunk(event) if self._request.chunked_answer else event)
        self._client.answered(keep_alive=False)

    # The books

    def _refuse_unforwarded(self, refusal: Refusal) -> None:
        self._status = refusal.status
        self._identity = self._identify(None)
        self._finished = True
        self._settle("refused")
        self._client.refuse(refusal, self._request)

    def _finish(self, outcome: Outcome) -> None:
        """Once: stop the engine if it still works on this, give back what was taken, write the record."""
        self._finished = True
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self._replica is not None:
            self._context.backends.end(self._replica)
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        if self._identity is None:
            return
        queue_s = max(self._sent_at - self._request.complete_at, 0.0)
        record = usage_record(
            self._identity,
            self._progress(),
            status=self._status,
            outcome=outcome,
            until=self._context.now(),
            queue_ms=1000 * queue_s,
        )
        self._context.record(record, self._slot)

    def _progress(self) -> Progress:
        counter = self._counter
        return Progress(
            counter.prompt,
            counter.completion,
            counter.largest_chunk,
            self._bytes_out,
            self._request.started,
            self._first,
            self._last,
        )

    def _identify(self, replica: Replica | None) -> RequestIdentity:
        request, prepared = self._request, self._request.prepared
        return RequestIdentity(
            record_id=f"{self._unique}.{self._attempt}",
            request_id=request.request_id.decode("ascii"),
            at=request.at,
            tenant_id=request.service.shard.tenant_id,
            key_id=request.key.key_id,
            service_id=request.service.shard.id,
            deployment_id=replica.deployment_id if replica is not None else "",
            replica_id=replica.id if replica is not None else "",
            route=request.route,
            model=prepared.model[:_MODEL_IN_RECORD] if prepared is not None else "",
            stream=prepared.stream if prepared is not None else False,
            bytes_in=request.bytes_in,
            prompt_estimate=prepared.prompt_estimate if prepared is not None else 0,
            token_limit=prepared.token_limit if prepared is not None else 0,
            choices=prepared.choices if prepared is not None else 1,
        )

    def _extend(self, seconds: float) -> None:
        self._client.deadline = min(self._context.now() + seconds, self._total_deadline)


def _idle_connection(replica: Replica, now: float) -> upstream.UpstreamConnection | None:
    """The connection that was used last; the others age and are closed."""
    while replica.idle:
        connection = replica.idle.pop()
        if connection.usable and now - connection.idle_since < upstream.IDLE_S:
            return connection
        connection.close()
    return None


def _cut() -> Refusal:
    return engine_failed(502, "engine_unavailable", "The engine stopped before the answer was complete.")
