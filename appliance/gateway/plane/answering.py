"""The client's side of an exchange: the answer's head, its framing, and how it ends.

A head is sent with the first byte of its body, so that whatever fails before can still be told with a status. The one
exception is a client that waits for a stream from a service that has to start: its head is sent at once, and comments
after it. From then on an error is an event in the stream.

An answer that cannot be completed is broken off so that it cannot be taken for whole: no `[DONE]`, no last chunk.
"""

from __future__ import annotations

from typing import Final, Protocol

from appliance.gateway.plane import answers
from appliance.gateway.plane.chunked import LAST_CHUNK, encode_chunk
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.defaults import GENERATIVE
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.infer import header_length_line
from appliance.gateway.plane.ledger import Ledger
from appliance.gateway.plane.relay import ErrorRelay, Relay, StreamRelay, error_event, relay_for
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.records import Outcome

_NO_CONTENT: Final = 204
_NO_CACHE: Final = b"cache-control: no-cache\r\n"
_EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"


class Client(Protocol):
    """The connection that the request came over. `deadline` is on the loop's clock."""

    deadline: float

    def write(self, data: bytes) -> None: ...

    def refuse(self, refusal: Refusal, request: Request) -> None: ...

    def answered(self, *, keep_alive: bool) -> None: ...

    def abort(self) -> None: ...


class Answering:
    """What `Exchange` is towards its client. `_finish` is the exchange's."""

    __slots__ = ("_begun", "_client", "_context", "_head", "_ledger", "_paused", "_relay", "_request", "_status")

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._ledger = Ledger(context, request)
        self._relay: Relay | None = None
        self._head: bytes | None = None
        """The answer's head until it is sent, which is with its first byte."""
        self._begun = False
        """Whether a stream's head was sent before there was an answer."""
        self._status = 0
        self._paused = False

    def _finish(self, outcome: Outcome) -> None:
        raise NotImplementedError

    def _prepare(self, status: int, fields: dict[bytes, bytes]) -> bool:
        """Be ready for the body of an engine's answer with this head; False if it cannot be told to the client any
        more.
        """
        request, ledger = self._request, self._ledger
        content_type = answers.content_type_of(fields)
        relay = relay_for(request.route, status, content_type, request.prepared, ledger.counter, ledger.sink)
        self._status, self._relay = status, relay
        streams = isinstance(relay, StreamRelay)
        if self._begun:
            return streams or isinstance(relay, ErrorRelay)
        length = 0 if status == _NO_CONTENT else None
        if length is None and b"content-length" in fields and not streams:
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
            extra=request.answer_headers + (_NO_CACHE if streams else header_length_line(fields)),
        )
        return True

    def tell_progress(self, comment: bytes) -> None:
        """While nothing is there: begin the stream, if one was asked for, with a comment (whole, with its end)."""
        request = self._request
        prepared = request.prepared
        if self._paused or prepared is None or not prepared.stream or request.route not in GENERATIVE:
            return
        if request.head.http_1_0:
            return  # an answer without chunks could not be told from a broken one
        if not self._begun:
            self._begun = request.chunked_answer = True
            self._client.write(
                answers.head(
                    200,
                    self._context.date.line,
                    request.request_id,
                    _EVENT_STREAM,
                    None,
                    keep_alive=request.keep_alive and not self._context.draining,
                    chunked=True,
                    extra=request.answer_headers + _NO_CACHE,
                )
            )
        self._client.write(encode_chunk(comment))

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
        if last or self._request.chunked_answer:
            self._pass_on(last, LAST_CHUNK if self._request.chunked_answer else b"")
        if self._head is not None:  # an answer without a body
            self._client.write(self._head)
            self._head = None
        self._finish("completed")
        self._client.answered(keep_alive=self._request.keep_alive and not self._context.draining)

    def _break_off(self, outcome: Outcome, refusal: Refusal) -> None:
        """The answer cannot be completed. If nothing of it was sent, an error answer; else an error event (in a
        stream) and a connection that closes without the answer's end.
        """
        answered = self._ledger.bytes_out > 0
        if not answered:
            self._status = refusal.status
        self._finish(outcome)
        if not answered and not self._begun:
            self._client.refuse(refusal, self._request)
            return
        if self._begun or isinstance(self._relay, StreamRelay):
            event = error_event(refusal)
            self._client.write(encode_chunk(event) if self._request.chunked_answer else event)
        self._client.answered(keep_alive=False)
