"""HTTP/1.1 from clients: one connection, its requests one after another.

    head -> (body) -> busy -> head ...      or -> linger -> closed

Pipelined requests wait in the buffer (bounded; then reading stops) and are answered in order. While the client does
not read, nothing more is taken from the engine, nor is a further request begun: memory stays bounded. A client that
closes, even in one direction, has left: its request is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from appliance.gateway.plane import answers
from appliance.gateway.plane.admission import OwnAnswer, admit, request_id_of
from appliance.gateway.plane.body import BodyReader
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.head import END, RequestHead, check_incomplete, parse_request
from appliance.gateway.plane.request import Request

IDLE_S: Final = 75.0
HEAD_S: Final = 10.0
LINGER_S: Final = 2.0
"""How long what a refused client still sends is read and dropped, so that it gets to read its answer."""
CLOSE_S: Final = 10.0
"""How long the last bytes of an answer may take to be read by the client."""
MAX_PIPELINED: Final = 64 * 1024
MAX_DISCARD: Final = 256 * 1024
WRITE_HIGH: Final = 64 * 1024


class State(Enum):
    HEAD = auto()
    BODY = auto()
    DISCARD = auto()
    """The rest of a refused request's body is dropped; the connection is used again."""
    BUSY = auto()
    LINGER = auto()
    """Everything is dropped; the connection ends soon."""


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_body",
        "_buffer",
        "_context",
        "_exchange",
        "_listener_id",
        "_processing",
        "_reading_paused",
        "_request",
        "_state",
        "_transport",
        "_write_paused",
        "deadline",
    )

    def __init__(self, context: Context, listener_id: str) -> None:
        self._context = context
        self._listener_id = listener_id
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._state = State.HEAD
        self._request: Request | None = None
        self._body: BodyReader | None = None
        self._exchange: Exchange | None = None
        self._processing = False
        self._reading_paused = False
        self._write_paused = False
        self.deadline = context.now() + IDLE_S

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport has both directions
        transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[attr-defined] # as above
        self._context.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it came about
        self._transport = None
        self._context.disconnected(self)
        self._state = State.LINGER
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._process()

    def eof_received(self) -> None:
        """The client has left, as it does not write any more (what nginx takes it for, too)."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._state is State.LINGER:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._state is State.BUSY:
            if len(self._buffer) > MAX_PIPELINED:
                self._pause_reading()
            return
        self._process()

    # Called by the worker

    def check_deadline(self, now: float) -> None:
        if now < self.deadline:
            return
        if self._exchange is not None:
            self.deadline = now + CLOSE_S  # unless the exchange says otherwise
            self._exchange.on_deadline()
        elif self._write_paused or self._state is State.LINGER:
            self.abort()
        elif self._state is State.HEAD and not self._buffer:
            self._close()
        else:
            self._refuse_framing(Refusal(408, "request_timeout", "The request did not arrive in time.", close=True))

    def drain(self) -> None:
        """Close as soon as no answer is owed."""
        if self._state is State.HEAD and not self._buffer:
            self._close()

    def shut_down(self) -> None:
        """The time for draining is over: end with an error where an answer is owed."""
        if self._exchange is not None:
            self._exchange.on_shutdown()
        self._close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Requests

    def _process(self) -> None:
        """Take what is in the buffer as far as it goes. Not reentered: an answer that is given at once returns
        here, to the loop.
        """
        if self._processing:
            return
        self._processing = True
        try:
            while self._transport is not None and not self._write_paused and self._step():
                pass
        except Refusal as refusal:
            self._refuse_framing(refusal)
        finally:
            self._processing = False
        if self._state is not State.BUSY and len(self._buffer) <= MAX_PIPELINED:
            self._resume_reading()

    def _step(self) -> bool:
        """One step of the state machine; False when it needs more bytes or an event."""
        if self._state is State.HEAD:
            return bool(self._buffer) and self._take_head()
        if self._state in (State.BODY, State.DISCARD):
            return self._take_body()
        return False

    def _take_head(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: one empty line before a request is let pass
            buffer = self._buffer = buffer[2:]
        end = buffer.find(END)
        if end < 0:
            check_incomplete(buffer)
            # The whole head has one deadline, however slowly its bytes drip.
            self.deadline = min(self.deadline, self._context.now() + HEAD_S)
            return False
        head = parse_request(buffer[: end + 4])
        self._buffer = buffer[end + 4 :]
        self.deadline = self._context.now() + IDLE_S
        self._begin(head)
        return self._state is not State.BUSY

    def _begin(self, head: RequestHead) -> None:
        """Route and admit by the head alone: a body is read only of a request that may be made."""
        request_id = request_id_of(head, self._context)
        try:
            admitted = admit(head, self._listener_id, request_id, self._context)
            if isinstance(admitted, Request) and head.has_body:
                limit = admitted.service.shard.max_body_bytes
                self._body = BodyReader(head, limit, started=self._context.now())
        except Refusal as refusal:
            self._refuse(refusal, head, request_id, unread=head.has_body)
            return
        if isinstance(admitted, OwnAnswer):
            self._answer(head, request_id, 200, *admitted, unread=head.has_body)
        elif head.has_body:
            self._request = admitted
            self._state = State.BODY
            if b"expect" in head.fields and not self._buffer:
                self.write(answers.CONTINUE)
        else:
            self._start(admitted, b"")

    def _take_body(self) -> bool:
        reader = self._body
        if reader is None:
            return False
        self._buffer = reader.feed(self._buffer)
        self.deadline = reader.deadline
        if not reader.complete:
            return False
        self._body = None
        request, self._request = self._request, None
        self.deadline = self._context.now() + IDLE_S
        if request is None:  # it was refused before; its body is over now
            self._state = State.HEAD
            return True
        self._start(request, reader.content())
        return self._state is not State.BUSY

    def _start(self, request: Request, body: bytes) -> None:
        request.bytes_in = len(body)
        request.complete_at = self._context.now()
        if request.head.method != b"GET":
            try:
                request.prepared = prepare(request.route, body, request.service)
            except Refusal as refusal:
                self._state = State.HEAD
                self._refuse(refusal, request.head, request.request_id)
                return
        self._state = State.BUSY
        exchange = self._exchange = Exchange(self._context, self, request)
        exchange.start()

    # Answers

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def answered(self, *, keep_alive: bool) -> None:
        """The exchange is over and its answer is written."""
        self._exchange = None
        if not keep_alive:
            self._close()
            return
        self._state = State.HEAD
        self.deadline = self._context.now() + IDLE_S
        self._process()

    def refuse(self, refusal: Refusal, request: Request) -> None:
        """The exchange is over and nothing of an answer was written."""
        self._exchange = None
        self._state = State.HEAD
        self.deadline = self._context.now() + IDLE_S
        self._refuse(refusal, request.head, request.request_id)
        self._process()

    def _answer(
        self,
        head: RequestHead,
        request_id: bytes,
        status: int,
        content_type: bytes,
        body: bytes,
        *,
        extra: bytes = b"",
        close: bool = False,
        unread: bool = False,
    ) -> None:
        """An answer of the gateway's own. `unread`: the request's body has not been read; it is got rid of."""
        keep_alive = head.keep_alive and not close and not self._context.draining
        if keep_alive and unread:
            keep_alive = self._discard(head)
        answer = answers.head(
            status,
            self._context.date.line,
            request_id,
            content_type,
            len(body),
            keep_alive=keep_alive,
            extra=extra,
        )
        self.write(answer if head.method == b"HEAD" else answer + body)
        if not keep_alive:
            self._linger()

    def _refuse(self, refusal: Refusal, head: RequestHead, request_id: bytes, *, unread: bool = False) -> None:
        self._context.metrics.refused(refusal.code)
        self._answer(
            head,
            request_id,
            refusal.status,
            answers.JSON,
            refusal.body(),
            extra=refusal.headers,
            close=refusal.close,
            unread=unread,
        )

    def _refuse_framing(self, refusal: Refusal) -> None:
        """A request whose extent is in doubt: answer if an answer is possible, then end the connection."""
        self._context.metrics.refused(refusal.code)
        request_id = self._request.request_id if self._request is not None else self._context.ids.next().encode()
        body = refusal.body()
        date = self._context.date.line
        head = answers.head(
            refusal.status, date, request_id, answers.JSON, len(body), keep_alive=False, extra=refusal.headers
        )
        self.write(head + body)
        self._linger()

    def _discard(self, head: RequestHead) -> bool:
        """Read and drop a refused request's body, if it is short and sure to come; whether it is."""
        if head.chunked or b"expect" in head.fields or (head.content_length or 0) > MAX_DISCARD:
            return False
        self._body = BodyReader(head, MAX_DISCARD, started=self._context.now())
        self._state = State.DISCARD
        return True

    # The end

    def _linger(self) -> None:
        """Send what is written, then end; until the client ends too, drop what it sends (closing at once could
        destroy the answer on its way).
        """
        self._state = State.LINGER
        self._buffer = b""
        self._body = None
        self._request = None
        self.deadline = self._context.now() + LINGER_S
        if self._transport is None:
            return
        self._resume_reading()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._close()

    def _close(self) -> None:
        self._state = State.LINGER
        self._buffer = b""
        self.deadline = self._context.now() + CLOSE_S
        if self._transport is not None:
            self._transport.close()

    def _pause_reading(self) -> None:
        # The loop refuses to change a transport whose handle is closed but whose loss it has not told yet.
        if self._transport is not None and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()


def connection_factory(context: Context, listener_id: str) -> Callable[[], ClientConnection]:
    return lambda: ClientConnection(context, listener_id)
