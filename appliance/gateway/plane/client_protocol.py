"""HTTP/1.1 from clients: one connection, its requests one after another.

    head -> (body) -> busy -> head ...      or -> ending

Pipelined requests wait in the buffer (bounded; then reading stops) and are answered in order. While the client does
not read, nothing more is taken from the engine, nor is a further request begun: memory stays bounded.

A client that ends its sending direction has left, and its request is cut. HTTP/1.1 would allow it to wait for its
answer (RFC 9112, 9.6 says only how a server ends); but a vanished client looks the same, tokens are dear, and nginx
and Envoy in front of an engine decide alike.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Final

from appliance.gateway.plane import answers
from appliance.gateway.plane.admission import OwnAnswer, admit, request_id_of
from appliance.gateway.plane.body import BodyReader, check_length
from appliance.gateway.plane.connection import CLOSE_S, Connection
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.head import END, RequestHead, check_incomplete, parse_request
from appliance.gateway.plane.own_answers import Own, encode, refused, tell
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.listeners import Listener

MAX_PIPELINED: Final = 64 * 1024
MAX_DISCARD: Final = 256 * 1024
FIRST_REQUEST_S: Final = 1.0
"""How long a new connection may take to send something once the worker drains."""


class State(Enum):
    HEAD = auto()
    BODY = auto()
    DISCARD = auto()
    """The rest of a refused request's body is dropped; the connection is used again."""
    BUSY = auto()


class ClientConnection(Connection):
    """Its listener's bounds are those of the moment it was accepted."""

    __slots__ = (
        "_body",
        "_buffer",
        "_discarding",
        "_exchange",
        "_fresh",
        "_head_begun",
        "_listener",
        "_processing",
        "_request",
        "_state",
    )

    def __init__(self, context: Context, listener: Listener) -> None:
        super().__init__(context, listener.idle_s)
        self._listener = listener
        self._buffer = b""
        self._state = State.HEAD
        self._head_begun = False
        """Whether a part of the next head has come: its own deadline runs."""
        self._fresh = True
        """Whether no request has come yet."""
        self._request: Request | None = None
        """The one whose body is being read or whose answer is being given."""
        self._body: BodyReader | None = None
        self._discarding = 0
        """Bytes of a refused request's body that are still to come."""
        self._exchange: Exchange | None = None
        self._processing = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._context.disconnected(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
        self._let_go()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._process()

    def eof_received(self) -> None:
        """The client has left; what is written is still sent."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
            self._let_go()
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            self.drop(data)
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._state is State.BUSY or self._writing_paused:
            if len(self._buffer) > MAX_PIPELINED:
                self.pause_reading()
            return
        self._process()

    # Called by the worker

    def check_deadline(self, now: float) -> None:
        if now < self.deadline:
            return
        if self._exchange is not None:
            self.deadline = now + CLOSE_S  # unless the exchange says otherwise
            self._exchange.on_deadline()
        elif self._writing_paused or self._ending or self._state is State.DISCARD:
            self.abort()
        elif self._state is State.HEAD and not self._buffer:
            self.close()
        else:
            self._refuse_framing(Refusal(408, "request_timeout", "The request did not arrive in time.", close=True))

    def drain(self) -> None:
        """Close as soon as no answer is owed. A new connection's first request may already be on its way."""
        if self._state is not State.HEAD or self._buffer:
            return
        if self._fresh:
            self.deadline = min(self.deadline, self._context.now() + FIRST_REQUEST_S)
        else:
            self.close()

    def shut_down(self) -> None:
        """The time for draining is over: end with an error where an answer is owed."""
        if self._exchange is not None:
            self._exchange.on_shutdown()
        self.close()

    # Requests

    def _process(self) -> None:
        """Take what is in the buffer as far as it goes. Not reentered: an answer that is given at once returns
        here, to the loop.
        """
        if self._processing:
            return
        self._processing = True
        try:
            while not self._ending and not self._writing_paused and self._step():
                pass
        except Refusal as refusal:
            self._refuse_framing(refusal)
        finally:
            self._processing = False
        waits = self._state is State.BUSY or self._writing_paused
        if self._reading_paused and not waits and len(self._buffer) <= MAX_PIPELINED:
            self.resume_reading()

    def _step(self) -> bool:
        """One step of the state machine; False when it needs more bytes or an event."""
        state = self._state
        if state is State.HEAD:
            return bool(self._buffer) and self._take_head()
        if state is State.BODY:
            return self._take_body()
        return state is State.DISCARD and self._take_discarded()

    def _take_head(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: one empty line before a request is let pass
            buffer = self._buffer = buffer[2:]
        end = buffer.find(END)
        if end < 0:
            check_incomplete(buffer)
            if not self._head_begun:  # the whole head has one deadline, however slowly its bytes drip
                self._head_begun = True
                self.deadline = self._context.now() + self._listener.head_s
            return False
        head = parse_request(buffer[: end + 4])
        self._head_begun = self._fresh = False
        self._buffer = buffer[end + 4 :]
        self.deadline = self._context.now() + self._listener.idle_s
        self._begin(head)
        return self._state is not State.BUSY

    def _begin(self, head: RequestHead) -> None:
        """Route and admit by the head alone: a body is read only of a request that may be made."""
        context = self._context
        request_id = request_id_of(head, context)
        length = head.content_length or 0
        try:
            admitted = admit(head, self._listener.id, request_id, context, self.peer)
            if isinstance(admitted, Request):
                check_length(length, admitted.max_body_bytes, context.bodies)
                if context.limiter.active and (head.chunked or length > len(self._buffer)):
                    context.limiter.check(admitted)  # before the body is waited for
        except Refusal as refusal:
            tell(context, head, request_id, self.peer, refusal.status, refusal.code)
            self._answer(head, request_id, refused(context, refusal, head.path), unread=head.has_body)
            return
        if isinstance(admitted, OwnAnswer):
            tell(context, head, request_id, self.peer, 200)
            self._answer(head, request_id, Own(200, *admitted), unread=head.has_body)
            return
        self._request = admitted
        if length <= len(self._buffer) and not head.chunked:  # it is here as a whole, as most are
            body = self._buffer[:length]
            self._buffer = self._buffer[length:]
            context.bodies.take(length, length)
            self._start(admitted, body)
            return
        self._body = BodyReader(head, admitted.max_body_bytes, self._listener, context.bodies, started=context.now())
        self._state = State.BODY
        if b"expect" in head.fields and not self._buffer and not head.http_1_0:
            self.write(answers.CONTINUE)

    def _take_body(self) -> bool:
        reader, request = self._body, self._request
        if reader is None or request is None:
            return False
        self._buffer = reader.feed(self._buffer)
        self.deadline = reader.deadline
        if not reader.complete:
            return False
        self._body = None
        self._start(request, reader.content())
        return self._state is not State.BUSY

    def _take_discarded(self) -> bool:
        taken = min(len(self._buffer), self._discarding)
        self._buffer = self._buffer[taken:]
        self._discarding -= taken
        if self._discarding:
            return False
        self._state = State.HEAD
        self.deadline = self._context.now() + self._listener.idle_s
        return True

    def _start(self, request: Request, body: bytes) -> None:
        now = self._context.now()
        request.hold_body(len(body), self._context.bodies)
        request.complete_at = now
        self.deadline = now + self._listener.idle_s
        try:
            request.prepared = prepare(request, body, self._context.limiter)
            request.grant = self._context.limiter.acquire(request)
        except Refusal as refusal:
            tell(self._context, request.head, request.request_id, self.peer, refusal.status, refusal.code)
            self._state = State.HEAD
            self._let_go()
            self._answer(request.head, request.request_id, refused(self._context, refusal, request.head.path))
            return
        self._state = State.BUSY
        exchange = self._exchange = Exchange(self._context, self, request)
        exchange.start()

    def _let_go(self) -> None:
        """The request at hand is over or given up: its body takes no memory any more."""
        body, self._body = self._body, None
        if body is not None:
            body.drop()
        request, self._request = self._request, None
        if request is not None:
            request.release_body()

    # Answers

    def answered(self, *, keep_alive: bool) -> None:
        """The exchange is over and its answer is written."""
        self._exchange = None
        self._let_go()
        if keep_alive:
            self._next()
        else:
            self.close()

    def refuse(self, refusal: Refusal, request: Request) -> None:
        """The exchange is over and nothing of an answer was written."""
        self._exchange = None
        self._let_go()
        own = refused(self._context, refusal, request.head.path, request.answer_headers)
        self._answer(request.head, request.request_id, own)
        if not self._ending:
            self._next()

    def _next(self) -> None:
        self._state = State.HEAD
        self.deadline = self._context.now() + self._listener.idle_s
        self._process()

    def _answer(self, head: RequestHead, request_id: bytes, own: Own, *, unread: bool = False) -> None:
        """`unread`: the request's body has not been read; it is got rid of."""
        keep_alive = head.keep_alive and not own.close and not self._context.draining
        if keep_alive and unread:
            keep_alive = self._discard(head)
        head_only = head.method == b"HEAD"
        self.write(encode(self._context, own, request_id, head_only=head_only, keep_alive=keep_alive))
        if not keep_alive:
            self._end()

    def _refuse_framing(self, refusal: Refusal) -> None:
        """A request whose extent is in doubt: answer if an answer is possible, then end the connection."""
        context, request = self._context, self._request
        request_id = request.request_id if request is not None else context.ids.next().encode()
        if request is not None:
            tell(context, request.head, request_id, self.peer, refusal.status, refusal.code)
        own = refused(context, refusal)
        self.write(encode(self._context, own, request_id, head_only=False, keep_alive=False))
        self._end()

    def _discard(self, head: RequestHead) -> bool:
        """Read and drop a refused request's body, if it is short and sure to come; whether it is."""
        if head.chunked or b"expect" in head.fields or (head.content_length or 0) > MAX_DISCARD:
            return False
        self._discarding = head.content_length or 0
        self._state = State.DISCARD
        self.deadline = self._context.now() + self._listener.body_grace_s
        return True

    def _end(self) -> None:
        self._buffer = b""
        self._let_go()
        self.linger()
