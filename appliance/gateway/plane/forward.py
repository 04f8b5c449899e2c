"""One request at the engines: a replica is chosen, asked, and its answer relayed to the client.

Another replica is tried only while it is certain that the first has not worked on the request: no connection could
be had, or the engine had closed a kept-alive connection without reading the request from it. An answer that was
begun is completed, or is broken off so that it cannot be taken for whole.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from appliance.gateway.plane import answers, ejection, upstream
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.balance import choose
from appliance.gateway.plane.chunked import LAST_CHUNK, encode_chunk
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal, engine_failed, unavailable
from appliance.gateway.plane.infer import header_length_line
from appliance.gateway.plane.ledger import Ledger
from appliance.gateway.plane.mirroring import mirror
from appliance.gateway.plane.relay import Relay, StreamRelay, error_event, relay_for
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas import Outcome

_ATTEMPTS: Final = 3
"""Times that a kept-alive connection may turn out to be closed."""
_NO_CONTENT: Final = 204
_ERROR: Final = 500
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
    """From a complete request to its answer's end. The client calls `start`, then `client_gone`, `pause`, `resume`,
    `on_deadline` or `on_shutdown`; the upstream connection calls the `on_...` of `ResponseHandler`.
    """

    __slots__ = (
        "_client",
        "_connecting",
        "_connection",
        "_context",
        "_excluded",
        "_finished",
        "_head",
        "_ledger",
        "_mirrored",
        "_paused",
        "_relay",
        "_request",
        "_status",
        "_timeouts",
        "_total_deadline",
    )

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._ledger = Ledger(context, request)
        self._timeouts = request.service.shard.timeouts
        self._total_deadline = request.started + self._timeouts.total_s
        self._excluded: frozenset[str] = frozenset()
        self._connection: upstream.UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self._head: bytes | None = None
        """The answer's head until it is sent, which is with its first byte."""
        self._status = 0
        self._finished = False
        self._mirrored = False
        self._paused = False

    # From the client

    def start(self) -> None:
        try:
            replica = choose(self._request, self._context.now(), self._excluded)
            if replica is None:
                raise unavailable("overloaded", "All replicas of this service are busy.", retry_after_s=2)
            if not self._ledger.begin(replica):
                raise unavailable("overloaded", "The gateway has too many requests in flight.", retry_after_s=1)
        except Refusal as refusal:
            self._break_off("refused", refusal)
            return
        connection = upstream.take_idle(replica, self._context.now())
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = self._context.loop.create_task(self._connect(replica))

    def client_gone(self) -> None:
        """The client has closed: the engine must stop at once. Many clients close when they have read `[DONE]`."""
        if self._finished:
            return
        if isinstance(self._relay, StreamRelay) and self._relay.complete:
            self._finish("completed")
        else:
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
            self._extend(self._timeouts.idle_s)

    def on_deadline(self) -> None:
        """The engine was silent for too long, or the client did not read for as long."""
        if self._finished:
            return
        if self._paused:
            self._finish("client_cut")
            self._client.abort()
        else:
            replica = self._ledger.replica
            if replica is not None and self._connection is not None and self._relay is None:
                ejection.failed(self._context, replica, "timeout")
            self._break_off("timed_out", engine_failed(504, "engine_timeout", "The engine did not answer in time."))

    def on_shutdown(self) -> None:
        """The worker ends now."""
        if not self._finished:
            self._break_off("timed_out", unavailable("gateway_restart", "The gateway restarts.", retry_after_s=1))

    # Towards the engine

    async def _connect(self, replica: Replica) -> None:
        self._extend(self._timeouts.connect_s + 1.0)
        try:
            connection = await upstream.connect(replica, self._timeouts.connect_s)
        except OSError as error:
            self._connecting = None
            self._context.log.warning("replica.connect_failed", replica=replica.id, reason=str(error))
            ejection.failed(self._context, replica, "connect")
            self._excluded |= {replica.id}
            self._try_again()
            return
        self._connecting = None
        if self._finished:
            connection.close()
            return
        self._send(connection)

    def _send(self, connection: upstream.UpstreamConnection) -> None:
        self._connection = connection
        self._ledger.sent()
        self._extend(self._timeouts.first_byte_s)
        connection.send(self, self._request.for_engine(self._ledger.unique))
        if not self._mirrored and self._request.service.mirror is not None:
            self._mirrored = True
            mirror(self._context, self._request, self._request.service.mirror)

    def _try_again(self) -> None:
        """The engine has not seen the request: choose anew."""
        if self._finished:
            return
        self._connection = None
        self._ledger.withdraw()
        self.start()

    # From the engine

    def on_head(self, status: int, fields: dict[bytes, bytes]) -> None:
        request, replica = self._request, self._ledger.replica
        if replica is not None and (replica.troubled or status >= _ERROR):
            ejection.answered(self._context, replica, status)
        content_type = answers.content_type_of(fields)
        ledger = self._ledger
        relay = relay_for(request.route, status, content_type, request.prepared, ledger.counter, ledger.sink)
        self._status, self._relay = status, relay
        request.release_body()
        streams = isinstance(relay, StreamRelay)
        length = 0 if status == _NO_CONTENT else None
        if b"content-length" in fields and not streams:
            length = int(fields[b"content-length"])
        request.chunked_answer = length is None and not request.head.http_1_0
        self._head = answers.head(
            status,
            self._context.date.line,
            request.request_id,
            content_type,
            length,
            keep_alive=request.keep_alive and not self._context.draining,
            chunked=request.chunked_answer,
            extra=request.answer_headers + (b"cache-control: no-cache\r\n" if streams else header_length_line(fields)),
        )

    def on_data(self, data: bytes) -> None:
        relay = self._relay
        if relay is None or self._finished:
            return
        now = self._ledger.received()
        try:
            out = relay.feed(data)
        except ValueError:
            self._break_off("upstream_error", engine_failed(502, "engine_error", "The engine's answer is malformed."))
            return
        self._pass_on(out)
        if isinstance(relay, StreamRelay) and relay.failure is not None:
            self._break_off("upstream_error", relay.failure)
            return
        deadline = now + self._timeouts.idle_s
        self._client.deadline = min(deadline, self._total_deadline)

    def on_end(self) -> None:
        """The answer's framing is complete; the connection may already serve another request."""
        relay = self._relay
        self._connection = None
        if relay is None or self._finished:
            return
        out = relay.finish()
        failure = relay.failure
        if failure is not None:
            answered = failure.status < 500 or failure.status == 503
            self._break_off("refused" if answered else "upstream_error", failure)
        elif relay.complete:
            self._complete(out)
        else:
            self._pass_on(out)
            self._break_off("upstream_cut", _cut())

    def on_lost(self, reason: str, *, unread: bool) -> None:
        replica = self._ledger.replica
        self._connection = None
        if self._finished or replica is None:
            return
        if unread and self._ledger.attempt < _ATTEMPTS:
            replica.close_idle()
            self._try_again()
            return
        if self._relay is None and not unread:
            ejection.failed(self._context, replica, "reset")
        self._context.log.warning("replica.answer_cut", replica=replica.id, reason=reason, record=self._ledger.unique)
        if isinstance(self._relay, StreamRelay) and self._relay.complete:
            self._complete(b"")  # [DONE] was there; only the framing's end is missing
        else:
            self._break_off("upstream_cut", _cut())

    # Towards the client

    def _pass_on(self, payload: bytes, end: bytes = b"") -> None:
        """`payload`, framed, after the head if that is still to be sent; `end` is framing of its own."""
        self._ledger.bytes_out += len(payload)
        self._ledger.keep()  # first: a worker that is killed here has billed no less than the client got
        framed = (encode_chunk(payload) if self._request.chunked_answer else payload) + end
        if not framed:
            return
        if self._head is not None:
            framed = self._head + framed
            self._head = None
        self._client.write(framed)

    def _complete(self, last: bytes) -> None:
        self._pass_on(last, LAST_CHUNK if self._request.chunked_answer else b"")
        if self._head is not None:  # an answer without a body
            self._client.write(self._head)
            self._head = None
        self._finish("completed")
        self._client.answered(keep_alive=self._request.keep_alive and not self._context.draining)

    def _break_off(self, outcome: Outcome, refusal: Refusal) -> None:
        """The answer cannot be completed. If nothing of it was sent, an error answer; else an error event (in a
        stream) and a connection that closes without the answer's end, so that it cannot be taken for whole.
        """
        begun = self._ledger.bytes_out > 0
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

    def _finish(self, outcome: Outcome) -> None:
        """Stop the engine if it still works on this, and close the books."""
        self._finished = True
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self._ledger.settle(self._status, outcome)

    def _extend(self, seconds: float) -> None:
        self._client.deadline = min(self._context.now() + seconds, self._total_deadline)


def _cut() -> Refusal:
    return engine_failed(502, "engine_unavailable", "The engine stopped before the answer was complete.")
