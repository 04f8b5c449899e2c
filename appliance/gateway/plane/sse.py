"""Server-sent events: cutting a stream into events without changing a byte of it.

An event ends at an empty line; lines end with LF, CRLF or CR (WHATWG HTML, 9.2.6). What an event does not own, such
as a second LF of a split terminator, stays at the beginning of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MAX_EVENT: Final = 1024 * 1024
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_PLAIN_END: Final = b"\n\n"
_DATA: Final = b"data: "


class EventTooLarge(ValueError):
    """An event that is longer than `MAX_EVENT`."""


class EventSplitter:
    """Feed it pieces of any size; it yields whole events with their terminators."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    @property
    def held(self) -> bytes:
        """The beginning of an event whose end has not come."""
        return self._held

    def data_of(self, piece: bytes) -> bytes | None:
        """The data of a piece that is exactly one event of one line, as engines write them: `feed` would yield it as
        it is. None if it is anything else.
        """
        if self._held or not piece.startswith(_DATA) or not piece.endswith(_PLAIN_END):
            return None
        return piece[6:-2] if piece.find(b"\n") == len(piece) - 2 and b"\r" not in piece else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._held:
            data = self._held + data
            self._held = b""
        if b"\r" not in data:
            yield from self._plain(data)
            return
        at = 0
        for match in _BOUNDARY.finditer(data):
            if match.end() == len(data) and match[0].endswith(b"\r"):
                break  # an LF may follow and belong to it
            yield data[at : match.end()]
            at = match.end()
        self._hold(data[at:])

    def _plain(self, data: bytes) -> Iterator[bytes]:
        """Lines that end with LF alone: what engines send."""
        at = 0
        while (end := data.find(_PLAIN_END, at)) >= 0:
            yield data[at : end + 2] if at or end + 2 < len(data) else data
            at = end + 2
        self._hold(data[at:] if at else data)

    def _hold(self, rest: bytes) -> None:
        if len(rest) > MAX_EVENT:
            raise EventTooLarge("an event is longer than 1 MiB")
        self._held = rest


def event_data(event: bytes) -> bytes | None:
    """The event's data, lines joined by LF; None if it has none (a comment)."""
    if event.startswith(_DATA) and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
