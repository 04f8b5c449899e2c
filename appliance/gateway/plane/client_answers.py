"""What a client's connection answers by itself, and how it goes on after each answer.

An answer that leaves the request's body unread gets rid of it first, if it is short and sure to come; else the
connection ends with the answer, as it does where a request's extent is in doubt.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from appliance.gateway.plane.body import BodyReader
from appliance.gateway.plane.connection import Connection
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.own_answers import Own, encode, refused, tell
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.listeners import Listener

MAX_DISCARD: Final = 256 * 1024
"""Bytes of a refused request's body that are read to keep the connection."""


class State(Enum):
    HEAD = auto()
    BODY = auto()
    DISCARD = auto()
    """The rest of a refused request's body is dropped; the connection is used again."""
    BUSY = auto()


class AnsweringConnection(Connection):
    """`_process`, which takes what is in the buffer as far as it goes, is the subclass's."""

    __slots__ = ("_body", "_buffer", "_discarding", "_exchange", "_listener", "_request", "_state")

    def __init__(self, context: Context, listener: Listener) -> None:
        super().__init__(context, listener.idle_s)
        self._listener = listener
        self._buffer = b""
        self._state = State.HEAD
        self._request: Request | None = None
        """The one whose body is being read or whose answer is being given."""
        self._body: BodyReader | None = None
        self._discarding = 0
        """Bytes of a refused request's body that are still to come."""
        self._exchange: Exchange | None = None

    def _process(self) -> None:
        raise NotImplementedError

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
        if self._buffer or self._reading_paused:
            self._process()

    def _answer_own(self, head: RequestHead, request_id: bytes, own: Own, code: str = "") -> None:
        """Of a request that ends with its head. `code`: of a refusal."""
        tell(self._context, head, request_id, self.peer, own.status, code)
        self._answer(head, request_id, own, unread=head.has_body)

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

    def _let_go(self) -> None:
        """The request at hand is over or given up: its body takes no memory any more."""
        body, self._body = self._body, None
        if body is not None:
            body.drop(self._context.bulk)
        request, self._request = self._request, None
        if request is not None:
            request.release_body()
