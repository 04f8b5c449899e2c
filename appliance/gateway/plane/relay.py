"""How an engine's answer becomes the client's: unchanged but for what the gateway owes, metered on its way.

Three kinds: event streams, JSON and other bodies, and errors (which are never passed on whole).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from appliance.gateway.plane.defaults import GENERATIVE, Prepared
from appliance.gateway.plane.errors import INVALID_REQUEST, Refusal, engine_failed, envelope, unavailable
from appliance.gateway.plane.fast_path import Books, FastPath
from appliance.gateway.plane.sse import EventSplitter, event_data
from appliance.gateway.plane.structs import ErrorBody, Told
from appliance.gateway.plane.usage import Counter, StreamMeter, usage_in_tail, usage_of_answer

DONE: Final = b"[DONE]"
_KEEP: Final = 1024 * 1024
_TAIL: Final = 64 * 1024
MAX_ERROR: Final = 64 * 1024
_MAX_MESSAGE: Final = 600
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_PATH = re.compile(r"(?<![\w/])/(?:[\w.@+-]+/)+[\w.@+-]*")


Sink = Callable[[bytes], None]


class Relay(Protocol):
    """`complete` at the upstream's end tells whether the answer is whole."""

    def feed(self, data: bytes) -> bytes:
        """What goes to the client for this piece."""
        ...

    def finish(self) -> bytes:
        """The body has ended properly: the last bytes for the client."""
        ...

    @property
    def complete(self) -> bool: ...

    @property
    def failure(self) -> Refusal | None:
        """The engine's own error within the answer."""
        ...


class BodyRelay:
    """Any body, passed on as it comes; if it is JSON its usage is read at the end."""

    __slots__ = ("_counter", "_kept", "_pieces")

    complete = True
    failure = None

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pieces: list[bytes] = []
        self._kept = 0

    def feed(self, data: bytes) -> bytes:
        self._pieces.append(data)
        self._kept += len(data)
        if self._kept > _KEEP:
            self._pieces = [b"".join(self._pieces)[-_TAIL:]]
            self._kept = _KEEP - _TAIL  # from here on only the tail is of use: joined again each megabyte
        return data

    def finish(self) -> bytes:
        body = b"".join(self._pieces)
        usage = usage_of_answer(body) or usage_in_tail(body[-_TAIL:])
        if usage is not None:
            self._counter.total(usage.prompt, usage.completion)
        return b""


class StreamRelay:
    """An event stream of a generative route. It ends with one `[DONE]`, or with one error of our own."""

    __slots__ = ("_ended", "_fast", "_keep", "_meter", "_splitter", "failure")

    def __init__(self, counter: Counter, prepared: Prepared, keep: Sink | None = None) -> None:
        self._keep = keep
        self._splitter = EventSplitter()
        self._meter = StreamMeter(
            counter,
            choices=prepared.choices,
            include_usage=prepared.include_usage,
            continuous_usage=prepared.continuous_usage,
        )
        self._ended = False
        self._fast: FastPath | None = None
        self.failure: Refusal | None = None

    @property
    def complete(self) -> bool:
        return self._ended and self.failure is None

    def _is_over(self) -> bool:
        """Nothing follows `[DONE]` or an error."""
        return self._ended

    def fast_path(self, books: Books, write: Sink) -> FastPath | None:
        """The short way for what comes next, past `feed`, if there is one now."""
        meter = self._meter
        shape = meter.shape
        if shape is None or self._ended or self._splitter.held or shape.prompt != meter.counter.prompt:
            return None
        if self._fast is None or self._fast.shape is not shape:
            self._fast = FastPath(shape, meter.counter, books, write, usage_asked=meter.continuous, sink=self._keep)
        return self._fast

    def feed(self, data: bytes) -> bytes:
        if self._ended:
            return b""
        alone = self._splitter.data_of(data)
        if alone is not None:
            return self._take(data, alone)
        pieces = []
        for event in self._splitter.feed(data):
            pieces.append(self._event(event))
            if self._is_over():
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        return event if data is None else self._take(event, data)  # without data it is a comment

    def _take(self, event: bytes, data: bytes) -> bytes:
        if data == DONE:
            self._ended = True
            return event
        passed = self._meter.take(event, data)
        if self._meter.error is not None:
            self._ended = True
            self.failure = refusal_of(self._meter.error.status, self._meter.error.message)
        return passed

    def finish(self) -> bytes:
        """Of a stream with lone CRs the last event may be held until here."""
        held = self._splitter.held
        if self._ended or not held:
            return b""
        return self._event(held) if held.endswith((b"\r\r", b"\n\r")) else b""


class ErrorRelay:
    """An answer with an error status: read, bounded, and replaced by an envelope of our own."""

    __slots__ = ("_pieces", "_size", "_status")

    complete = True

    def __init__(self, status: int) -> None:
        self._status = status
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        if self._size < MAX_ERROR:
            self._pieces.append(data[: MAX_ERROR - self._size])
            self._size += len(data)
        return b""

    def finish(self) -> bytes:
        return b""

    @property
    def failure(self) -> Refusal:
        return refusal_of(self._status, _message(b"".join(self._pieces)))


class KeptBodyRelay(BodyRelay):
    """One whose answer is captured."""

    __slots__ = ("_sink",)

    def __init__(self, counter: Counter, sink: Sink) -> None:
        super().__init__(counter)
        self._sink = sink

    def feed(self, data: bytes) -> bytes:
        self._sink(data)
        return super().feed(data)


class KeptStreamRelay(StreamRelay):
    """One whose answer is captured."""

    __slots__ = ("_sink",)

    def __init__(self, counter: Counter, prepared: Prepared, sink: Sink) -> None:
        super().__init__(counter, prepared, sink)
        self._sink = sink

    def feed(self, data: bytes) -> bytes:
        passed = super().feed(data)
        self._sink(passed)
        return passed

    def finish(self) -> bytes:
        passed = super().finish()
        self._sink(passed)
        return passed


def relay_for(
    route: str,
    status: int,
    content_type: bytes,
    prepared: Prepared | None,
    counter: Counter,
    sink: Sink | None = None,
) -> Relay:
    """`sink` gets what goes to the client, too."""
    if status >= 300:  # a redirect of an engine leads nowhere
        return ErrorRelay(status)
    if sink is not None:
        if prepared is not None and route in GENERATIVE and content_type.startswith(b"text/event-stream"):
            return KeptStreamRelay(counter, prepared, sink)
        return KeptBodyRelay(counter, sink)
    if prepared is not None and route in GENERATIVE and content_type.startswith(b"text/event-stream"):
        return StreamRelay(counter, prepared)
    return BodyRelay(counter)


def error_event(refusal: Refusal) -> bytes:
    """How a stream that has begun tells of its failure; no `[DONE]` follows."""
    return b"data: " + envelope(refusal.message, refusal.kind, refusal.code, refusal.param) + b"\n\n"


def refusal_of(status: int, message: str) -> Refusal:
    """Our words for an engine's error. What it says about the request's content is passed on, bounded and without
    control characters and paths; what it says about itself is not.
    """
    if status in (429, 503):
        return unavailable("overloaded", "The engine is overloaded; try again shortly.", retry_after_s=2)
    if status in (400, 404, 413, 415, 422):
        told = _PATH.sub("[path]", _CONTROL.sub(" ", message)).strip()[:_MAX_MESSAGE]
        text = told or "The engine refused the request as invalid."
        return Refusal(400 if status == 422 else status, "invalid_request", text, kind=INVALID_REQUEST)
    return engine_failed(502, "engine_error", "The engine failed to answer the request.")


def _message(body: bytes) -> str:
    """The engine's message in the shapes that engines use; empty if it is none of them."""
    try:
        told = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        return ""
    if isinstance(told.error, Told):
        return told.error.message
    if isinstance(told.error, str):
        return told.error
    return told.message or (told.detail if isinstance(told.detail, str) else "")
