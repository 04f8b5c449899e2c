"""The short way of an event that looks like those before it: recognised, cut, counted and written in one step.

The events of a stream differ in a few words and in their counts. Of such an event all is known once it is certain how
it begins and ends: it is one chunk of the engine's and one line of data, it has choices, and its usage stands last.
What is not exactly so goes the long way (`chunked`, `sse`, `usage`), which leads to the same bytes and counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from appliance.gateway.plane.chunked import size_line
from appliance.gateway.plane.structs import MOST_TOKENS

if TYPE_CHECKING:
    from appliance.gateway.plane.usage import Counter

_LONGEST: Final = 2048
"""Bytes of a chunk with its framing; longer ones go the long way."""
_SIZE_LINES: Final = [size_line(length) for length in range(_LONGEST)]
_CHOICES: Final = b'"choices":[{'
_COMPLETION: Final = b'"completion_tokens":'
_TOLD = re.compile(_COMPLETION + rb"(\d{1,9})")
_END: Final = b"}\n\n"
"""What is left behind the usage: the chunk's brace and the event's end."""
_CHUNK_END: Final = b"\n\n\r\n"


class EventShape(NamedTuple):
    """How the events of a stream begin, up to their first choice, and how they end, from their usage on."""

    prefix: bytes
    tail: bytes
    """To be formatted with the total and the completion tokens; the prompt's are in it."""
    prompt: int

    def fits(self, event: bytes, prompt: int) -> bool:
        """Whether it is the shape of this event too, as far as it can be told without its counts."""
        return prompt == self.prompt and event.startswith(self.prefix)


def shape_of(data: bytes, at: int, prompt: int, rest: bytes) -> EventShape | None:
    """The shape of the event that has this data. Its usage stands at `at`, `rest` is what follows the completion
    tokens. None unless `choices` is certainly the chunk's own member and not empty.
    """
    choices = data.find(_CHOICES, 0, at)
    if choices < 0 or data.find(b"{", 1, choices) >= 0:
        return None
    counts = b',"usage":{"prompt_tokens":%d,"total_tokens":%%d,' % prompt
    tail = counts + _COMPLETION + b"%d" + rest + _CHUNK_END
    return EventShape(b"data: " + data[: choices + len(_CHOICES)], tail, prompt)


class Books(Protocol):
    def streamed(self, size: int) -> None:
        """`size` bytes more of the answer came, and their tokens are counted."""
        ...


class FastPath:
    """For a stream of one choice, at any moment between two of its events."""

    __slots__ = (
        "_books",
        "_completion",
        "_counter",
        "_prefix",
        "_prompt",
        "_sink",
        "_tail",
        "_whole",
        "_write",
        "shape",
    )

    def __init__(
        self,
        shape: EventShape,
        counter: Counter,
        books: Books,
        write: Callable[[bytes], None],
        *,
        usage_asked: bool,
        sink: Callable[[bytes], None] | None,
    ) -> None:
        """`write` gets a chunk for each read, `sink` (if any) what is in it. `usage_asked`: usage is left in."""
        self.shape = shape
        self._prefix, self._tail, self._prompt = shape
        self._counter = counter
        self._completion = 0
        """What the event that was cut last tells."""
        self._books = books
        self._write = write
        self._whole = usage_asked
        self._sink = sink

    def take(self, data: bytes) -> bool:
        """Whether `data`, read from the engine, are events of the shape and nothing else; then they are on their way
        to the client. If not, nothing has happened.
        """
        counter = self._counter
        payload = self._cut(data, counter.completion)
        if payload is not None:
            counter.total(self._prompt, self._completion)
        else:
            payload = self._cut_all(data)
            if payload is None:
                return False
        size = len(payload)
        self._books.streamed(size)
        if self._sink is not None:
            self._sink(payload)
        self._write(b"%x\r\n%b\r\n" % (size, payload))
        return True

    def _cut(self, piece: bytes, before: int) -> bytes | None:
        """What the client gets of a piece that is one event of the shape, with more than `before` tokens."""
        size = len(piece)
        if size >= _LONGEST:
            return None
        line = _SIZE_LINES[size]
        at = len(line)
        if not (piece.startswith(line) and piece.startswith(self._prefix, at)):
            return None
        completion = before + 1
        tail = self._tail % (self._prompt + completion, completion)
        if not piece.endswith(tail):
            completion = _told(piece)
            tail = self._tail % (self._prompt + completion, completion)
            if completion <= before or not piece.endswith(tail):
                return None
        end = size - len(tail)
        if completion > MOST_TOKENS or piece.find(b"\n", at, end) >= 0 or piece.find(b"\r", at, end) >= 0:
            return None
        self._completion = completion
        return piece[at:-2] if self._whole else piece[at:end] + _END

    def _cut_all(self, data: bytes) -> bytes | None:
        """As `_cut` for several pieces that were read at once, and their tokens counted."""
        payloads: list[bytes] = []
        counts = [self._counter.completion]
        at = 0
        while at < len(data):
            found = data.find(_CHUNK_END, at)
            if found < 0:
                return None
            end = found + len(_CHUNK_END)
            payload = self._cut(data[at:end], counts[-1])
            if payload is None:
                return None
            payloads.append(payload)
            counts.append(self._completion)
            at = end
        for completion in counts[1:]:
            self._counter.total(self._prompt, completion)
        return b"".join(payloads)


def _told(piece: bytes) -> int:
    """The last count of completion tokens in it; 0 if there is none."""
    match = _TOLD.match(piece, max(piece.rfind(_COMPLETION), 0))
    return int(match[1]) if match is not None else 0
