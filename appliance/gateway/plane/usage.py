"""The engine's usage numbers: found in an answer, counted, and taken out again where the client did not ask.

In a stream the counts are cumulative. vLLM counts each choice by itself until the last chunk, which has the sum.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from appliance.gateway.plane.fast_path import EventShape, shape_of
from appliance.gateway.plane.structs import MOST_TOKENS, Answer, Chunk, EngineError, Usage

_MEMBER: Final = b',"usage":{'
_AT_END = re.compile(
    rb',"usage":\{"prompt_tokens":(\d{1,9}),"total_tokens":\d{1,9}(?:,"completion_tokens":(\d{1,9}))?'
    rb'(?:,"prompt_tokens_details":null)?\}\}'
)
_IN_TAIL = re.compile(rb'"usage"\s*:\s*(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')
_NO_CHOICES: Final = b'"choices":[]'
_DATA_AT: Final = len(b"data: ")
"""Where an event's data stands as engines write it."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]', re.DOTALL)


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_usage = msgspec.json.Decoder(Usage).decode


class Counter:
    """The tokens of one request so far. `told`: by the engine, else counted from the chunks."""

    __slots__ = ("_by_choice", "_of_choices", "completion", "largest_chunk", "prompt", "told")

    def __init__(self) -> None:
        self.prompt = 0
        self.completion = 0
        self.largest_chunk = 0
        self.told = False
        self._by_choice: dict[int, int] = {}
        self._of_choices = 0
        """The sum of them: an engine may tell of any number of choices."""

    def total(self, prompt: int, completion: int) -> None:
        """Cumulative counts over all choices."""
        self.told = True
        self.prompt = prompt
        grown = completion - self.completion
        if grown > self.largest_chunk:  # noqa: PLR1730 - once for each streamed chunk
            self.largest_chunk = grown
        self.completion = completion

    def of_choice(self, index: int, prompt: int, completion: int) -> None:
        """Cumulative counts of one choice."""
        self._of_choices += completion - self._by_choice.get(index, 0)
        self._by_choice[index] = completion
        self.total(prompt, min(self._of_choices, MOST_TOKENS))

    def chunk(self) -> None:
        """A chunk without counts: at least one token."""
        if not self.told:
            self.completion += 1
            self.largest_chunk = max(self.largest_chunk, 1)


class StreamMeter:
    """Reads the usage of a stream's chunks into `counter` and takes out what the client did not ask for."""

    __slots__ = ("_final", "_single", "continuous", "counter", "error", "shape")

    def __init__(self, counter: Counter, *, choices: int, include_usage: bool, continuous_usage: bool) -> None:
        self.counter = counter
        self.error: EngineError | None = None
        """The engine's error event, once there was one."""
        self.shape: EventShape | None = None
        """What the events looked like last that told their usage at the end."""
        self._single = choices == 1
        self._final = include_usage
        self.continuous = continuous_usage
        """Whether the client asked for usage in each chunk."""

    def take(self, event: bytes, data: bytes) -> bytes:
        """What of the event goes to the client (nothing of a chunk that has only usage it did not ask for)."""
        at = data.rfind(_MEMBER)
        if self._single and at >= 0:
            match = _AT_END.fullmatch(data, at)
            if match is not None:
                # The last brace ends the chunk and the one before it the usage, so the member is the chunk's own.
                prompt, completion = match.groups()
                self.counter.total(int(prompt), int(completion or 0))
                bare = data.endswith(_NO_CHOICES, 0, at)
                if bare or _NO_CHOICES not in data:
                    if completion is not None and not (self.shape and self.shape.fits(event, int(prompt))):
                        self.shape = shape_of(data, at, int(prompt), data[match.end(2) :])
                    return self._strip(event, data, at, len(data) - 1, bare=bare)
        return self._decoded(event, data)

    def _decoded(self, event: bytes, data: bytes) -> bytes:
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, RecursionError):
            return event  # nothing that is understood: as it came
        if chunk.error is not None:
            self.error = _engine_error(chunk.error)
            return b""
        choices = chunk.choices or []
        if chunk.usage is None:
            if choices:
                self.counter.chunk()
            return event
        if self._single or len(choices) != 1:
            self.counter.total(chunk.usage.prompt, chunk.usage.completion)
        else:
            self.counter.of_choice(choices[0].index, chunk.usage.prompt, chunk.usage.completion)
        start, end = find_member(data, b'"usage"')
        return self._strip(event, data, start, end, bare=not choices)

    def _strip(self, event: bytes, data: bytes, start: int, end: int, *, bare: bool) -> bytes:
        if bare:
            return event if self._final else b""
        if self.continuous or start == end:
            return event
        at = _DATA_AT if event.startswith(data, _DATA_AT) else event.find(data)
        if at < 0:
            return event  # JSON over several data lines: no engine sends it, and taking it apart could harm it
        return event[: at + start] + event[at + end :]


def _engine_error(told: object) -> EngineError:
    if not isinstance(told, dict):
        return EngineError(told if isinstance(told, str) else "")
    message, code = told.get("message"), told.get("code")
    return EngineError(message if isinstance(message, str) else "", code if isinstance(code, int) else 500)


def find_member(data: bytes, name: bytes) -> tuple[int, int]:
    """Where the top-level object's member `name` (with its quotes) stands, with one of its commas; (0, 0) if
    it has none. `data` is valid JSON.
    """
    depth = 0
    comma = start = 0
    found = expecting_name = False
    for match in _TOKEN.finditer(data):
        token = match[0]
        if token in b"{[":
            depth += 1
            expecting_name = depth == 1
        elif depth == 1 and token in b",}":
            if found:
                return (comma, match.start()) if comma else (start, match.end() if token == b"," else match.start())
            comma = match.start()
            expecting_name = True
            depth -= token == b"}"
        elif token in b"}]":
            depth -= 1
        elif depth == 1 and expecting_name:
            expecting_name = False
            if token == name:
                found, start = True, match.start()
    return 0, 0


def usage_of_answer(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer."""
    try:
        return _decode_answer(body).usage
    except (msgspec.DecodeError, RecursionError):
        return None


def usage_in_tail(tail: bytes) -> Usage | None:
    """The last usage member near the end of an answer that was too long to keep."""
    found = _IN_TAIL.findall(tail)
    if not found:
        return None
    try:
        return _decode_usage(found[-1])
    except msgspec.DecodeError:
        return None
