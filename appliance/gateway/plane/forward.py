"""One request at the engines: a replica is chosen, asked, and its answer relayed to the client.

Where no replica has room the request waits (see `waiting`). Another replica is tried only while it is certain that
the first has not worked on the request: no connection could be had (each replica is tried once), or, at most
`_ATTEMPTS` times, the engine had closed a kept-alive connection without reading the request from it, or it said that
it is saturated (503, 429) and another has room. Who has waited once tries again before those who still wait.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final

from appliance.gateway.plane import ejection, upstream
from appliance.gateway.plane.answering import Answering, Client
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.balance import choose
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal, engine_failed, unavailable
from appliance.gateway.plane.fast_path import FastPath
from appliance.gateway.plane.mirroring import mirror
from appliance.gateway.plane.relay import StreamRelay
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.records import Outcome
from appliance.gateway.plane.service_queue import Waiter

_ATTEMPTS: Final = 5
"""Times that a request may be sent."""
_SATURATED: Final = frozenset({429, 503})
_ERROR: Final = 500
_OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What keeps a connection from being made and is not the replica's fault."""
_CLIENT_CLOSED: Final = 499
"""The status in the record of a request whose client left before an answer (nginx's number)."""


class Exchange(Answering):
    """From a complete request to its answer's end. The client calls `start`, then `client_gone`, `pause`, `resume`,
    `on_deadline` or `on_shutdown`; the upstream connection calls the `on_...` of `ResponseHandler`; while it waits the
    waiting room calls what `Waits` has.
    """

    __slots__ = (
        "_connecting",
        "_connection",
        "_excluded",
        "_finished",
        "_mirrored",
        "_timeouts",
        "_total_deadline",
        "_waiter",
    )

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        super().__init__(context, client, request)
        self._timeouts = request.service.shard.timeouts
        self._total_deadline = request.started + self._timeouts.total_s
        self._excluded: frozenset[str] = frozenset()
        self._connection: upstream.UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiter: Waiter | None = None
        self._finished = False
        self._mirrored = False

    # From the client

    def start(self) -> None:
        request, waiting, is_new = self._request, self._context.waiting, self._ledger.attempt == 0
        if waiting.queues and is_new and request.service.shard.id in waiting.queues:
            self._wait()
            return
        try:
            replica = choose(request, self._context.now(), self._excluded)
            if replica is not None and not (is_new and replica.is_awaited()):
                self._begin(replica)
                return
        except Refusal as refusal:
            if refusal.code != "no_replica" or not request.service.shard.asleep:
                self._break_off("refused", refusal)
                return
        self._wait()

    def _begin(self, replica: Replica) -> None:
        """`Refusal` if the worker has no slot for it."""
        if not self._ledger.begin(replica):
            raise unavailable("overloaded", "The gateway has too many requests in flight.", retry_after_s=1)
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
        if self._ledger.last:  # what came is not told to the client's clock each time
            due = min(self._ledger.last + self._timeouts.idle_s, self._total_deadline)
            if self._context.now() < due:
                self._client.deadline = due
                return
        if self._paused:
            self._finish("client_cut")
            self._client.abort()
        elif self._waiter is not None:
            self.give_up(self._context.waiting.expire(self._waiter))
        else:
            replica = self._ledger.replica
            if replica is not None and self._connection is not None and self._relay is None:
                ejection.failed(self._context, replica, "timeout")
            self._break_off("timed_out", engine_failed(504, "engine_timeout", "The engine did not answer in time."))

    def on_shutdown(self) -> None:
        """The worker ends now."""
        if not self._finished:
            self._break_off("timed_out", unavailable("gateway_restart", "The gateway restarts.", retry_after_s=1))

    # While it waits

    def _wait(self) -> None:
        self._excluded = frozenset()  # they may be back by then
        try:
            self._waiter = self._context.waiting.join(self, self._request)
        except Refusal as refusal:
            self._break_off("refused", refusal)

    def wait_until(self, deadline: float) -> None:
        self._client.deadline = min(deadline, self._total_deadline)

    def try_begin(self) -> bool:
        replica = choose(self._request, self._context.now())
        if replica is None:
            return False
        self._begin(replica)
        self._stop_waiting()
        return True

    def give_up(self, refusal: Refusal) -> None:
        self._stop_waiting()
        self._break_off("refused", refusal)

    def _stop_waiting(self) -> None:
        if self._waiter is not None:
            self._ledger.queued_ms += 1000 * (self._context.now() - self._waiter.since)
            self._waiter = None

    # Towards the engine

    async def _connect(self, replica: Replica) -> None:
        self._extend(self._timeouts.connect_s + 1.0)
        try:
            connection = await upstream.connect(replica, self._timeouts.connect_s)
        except OSError as error:
            self._connecting = None
            if error.errno in _OUT_OF_MEANS:
                self._context.log.error("worker.exhausted", reason=str(error))  # noqa: TRY400 - the reason says it all
                self._break_off(
                    "refused", unavailable("overloaded", "The gateway is out of connections.", retry_after_s=1)
                )
                return
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
        if self._paused:  # by what was written while it waited
            connection.pause()
        self._ledger.sent()
        self._extend(self._timeouts.first_byte_s)
        connection.send(self, *self._request.for_engine())
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

    def _ask_elsewhere(self) -> bool:
        """The engine said that it is saturated: whether another replica has room, which is then asked."""
        replica = self._ledger.replica
        if replica is None or self._ledger.attempt >= _ATTEMPTS:
            return False
        self._excluded |= {replica.id}
        try:
            other = choose(self._request, self._context.now(), self._excluded)
            if other is None:
                return False
            self._relay, self._head, self._status = None, None, 0
            self._ledger.withdraw()
            self._begin(other)
        except Refusal:
            return False
        return True

    # From the engine

    def on_head(self, status: int, fields: dict[bytes, bytes]) -> None:
        replica = self._ledger.replica
        if replica is not None and (replica.troubled or status >= _ERROR):
            ejection.answered(self._context, replica, status)
        if not self._prepare(status, fields):
            self._break_off("upstream_error", engine_failed(502, "engine_error", "The engine did not answer a stream."))
        elif status not in _SATURATED:
            self._request.release_body()

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
        self._client.deadline = min(now + self._timeouts.idle_s, self._total_deadline)

    def fast_path(self) -> FastPath | None:
        relay = self._relay
        if self._head is not None or not self._request.chunked_answer or not isinstance(relay, StreamRelay):
            return None
        return None if self._finished else relay.fast_path(self._ledger, self._client.write)

    def on_end(self) -> None:
        """The answer's framing is complete; the connection may already serve another request."""
        relay = self._relay
        self._connection = None
        if relay is None or self._finished:
            return
        out = relay.finish()
        failure = relay.failure
        if failure is not None:
            if self._status in _SATURATED and self._ask_elsewhere():
                return
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
        self._context.log.warning("replica.answer_cut", replica=replica.id, reason=reason, record=self._request.unique)
        if isinstance(self._relay, StreamRelay) and self._relay.complete:
            self._complete(b"")  # [DONE] was there; only the framing's end is missing
        else:
            self._break_off("upstream_cut", _cut())

    def _finish(self, outcome: Outcome) -> None:
        """Stop the engine if it still works on this, and close the books."""
        self._finished = True
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        waiting = self._context.waiting
        if self._waiter is not None:
            waiting.leave(self._waiter)
            self._stop_waiting()
        self._ledger.settle(self._status, outcome)
        if waiting.queues and self._ledger.replica is not None:
            waiting.freed(self._request.service.shard.id)

    def _extend(self, seconds: float) -> None:
        self._client.deadline = min(self._context.now() + seconds, self._total_deadline)


def _cut() -> Refusal:
    return engine_failed(502, "engine_unavailable", "The engine stopped before the answer was complete.")
