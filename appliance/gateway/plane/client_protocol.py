"""HTTP/1.1 from clients: one connection, its requests one after another.

    head -> (body) -> busy -> head ...      or -> ending

Pipelined requests wait in the buffer (bounded; then reading stops) and are answered in order. While the client does
not read, nothing more is taken from the engine, nor is a further request begun: memory stays bounded. Of a client that
is not read any more, the kernel is asked a few times a second whether it has left; only an end that it could not send,
because all buffers on its way are full, is seen with the next byte that is written to it, or at the request's end.

A client that ends its sending direction has left, and its request is cut. HTTP/1.1 would allow it to wait for its
answer (RFC 9112, 9.6 says only how a server ends); but a vanished client looks the same, tokens are dear, and nginx
and Envoy in front of an engine decide alike.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import Final

from appliance.gateway.plane import answers
from appliance.gateway.plane.admission import OwnAnswer, admit, request_id_of
from appliance.gateway.plane.admitted import Admitted
from appliance.gateway.plane.body import BodyReader, check_length
from appliance.gateway.plane.client_answers import AnsweringConnection, State
from appliance.gateway.plane.connection import CLOSE_S
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.head import END, RequestHead, check_incomplete, parse_request
from appliance.gateway.plane.own_answers import Own, refused, tell
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.turns import Turns

MAX_PIPELINED: Final = 64 * 1024
BULK: Final = 64 * 1024
"""A read of a body that brings as many bytes is followed by the next one in another turn of the loop."""
STEPS_A_TURN: Final = 16
"""Of one connection: requests that the gateway answers itself, as it does refusals, follow one another at once."""
FIRST_REQUEST_S: Final = 1.0
"""How long a new connection may take to send something once the worker drains."""


class ClientConnection(AnsweringConnection):
    """Its listener's bounds are those of the moment it was accepted."""

    __slots__ = ("_fresh", "_head_begun", "_processing", "_waits")

    def __init__(self, context: Context, listener: Listener) -> None:
        super().__init__(context, listener)
        self._head_begun = False
        """Whether a part of the next head has come: its own deadline runs."""
        self._fresh = True
        """Whether no request has come yet."""
        self._processing = False
        self._waits = False
        """For a turn of the loop; until then nothing is read or taken from the buffer."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._context.held_back.discard(self)
        self._context.disconnected(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
        self._let_go()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._exchange is not None:
            self._exchange.pause()
        elif self._head_begun:  # the gateway does not read on before the client has read its answers
            self.deadline = self._context.now() + self._listener.idle_s

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.resume()
            return
        if self._head_begun:
            self.deadline = self._context.now() + self._listener.head_s
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
                self._context.held_back.add(self)
            return
        if self._fresh and not self._context.newcomers.take():
            self._wait(self._context.newcomers)
            return
        self._process()
        if len(data) >= BULK and self._state is State.BODY and not self._waits and not self._ending:
            self._wait(self._context.bulk)

    # Turns of the loop

    def _wait(self, turns: Turns) -> None:
        """Go on in another turn."""
        self._waits = True
        self.pause_reading()
        turns.later(self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        if self._ending:
            return
        self._process()
        if not self._waits and self._reading_paused:
            if len(self._buffer) <= MAX_PIPELINED:
                self.resume_reading()
            else:
                self._context.held_back.add(self)

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

    def look_for_end(self) -> None:
        """The loop does not tell of an end that stands behind what is not read: ask the kernel."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        poller = select.poll()
        poller.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poller.poll(0):
            self.eof_received()
            self.abort()

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
        if self._processing or self._waits:
            return
        self._processing = True
        steps = 0
        try:
            while not self._ending and not self._writing_paused and self._step():
                steps += 1
                if steps >= STEPS_A_TURN and not self._ending:
                    self._wait(self._context.bulk)
                    break
        except Refusal as refusal:
            self._refuse_framing(refusal)
        finally:
            self._processing = False
        waits = self._state is State.BUSY or self._writing_paused or self._waits
        if self._reading_paused and not waits and len(self._buffer) <= MAX_PIPELINED:
            self._context.held_back.discard(self)
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
        head = buffer[: end + 4]
        familiar = self._context.familiar.find(head, self._listener.id, self._context.tables)
        understood = parse_request(head) if familiar is None else familiar[1]
        self._head_begun = self._fresh = False
        self._buffer = buffer[end + 4 :]
        self.deadline = self._context.now() + self._listener.idle_s
        request = self._admit(head, understood, None if familiar is None else familiar[0])
        if request is not None:
            self._begin(request)
        return self._state is not State.BUSY

    def _admit(self, head: bytes, understood: RequestHead, known: Admitted | None) -> Request | None:
        """The request, by its head alone: a body is read only of one that may be made. None if it was answered.
        `known`: what came of such a head before.
        """
        context, listener = self._context, self._listener
        unique, request_id, at = context.ids.next(), request_id_of(understood), time.time()
        try:
            if known is not None:
                known.check_again(self.peer, at)
            else:
                admitted = admit(understood, listener.id, context.tables, self.peer, at)
                if isinstance(admitted, OwnAnswer):
                    self._answer_own(understood, request_id or unique.encode(), Own(200, *admitted))
                    return None
                context.familiar.keep(head, listener.id, admitted)
                known = admitted
            request = Request(known, understood, unique, request_id, at, context.now(), self.peer)
            check_length(understood.content_length or 0, request.max_body_bytes, context.bodies)
            if context.limiter.active and not self._is_whole(understood):
                context.limiter.check(request)  # before the body is waited for
        except Refusal as refusal:
            own = refused(context, refusal, understood.path)
            self._answer_own(understood, request_id or unique.encode(), own, refusal.code)
            return None
        return request

    def _is_whole(self, head: RequestHead) -> bool:
        """Whether the body has come with the head, as most do."""
        return (head.content_length or 0) <= len(self._buffer) and not head.chunked

    def _begin(self, request: Request) -> None:
        self._request = request
        head, context = request.head, self._context
        if self._is_whole(head):
            length = head.content_length or 0
            body = self._buffer[:length]
            self._buffer = self._buffer[length:]
            context.bodies.take(length, length)
            self._start(request, body)
            return
        self._body = BodyReader(head, request.max_body_bytes, self._listener, context.bodies, started=context.now())
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
            if reader.more:
                self._wait(self._context.bulk)
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
