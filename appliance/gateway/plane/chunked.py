"""Decoding of chunked transfer coding, strictly: hexadecimal sizes, CRLF everywhere, extensions bounded and ignored,
trailers refused (RFC 9112, 7.1).
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINE: Final = 1024
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,12})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_CRLF: Final = b"\r\n"


class MalformedChunk(ValueError):
    """The coding is broken: the end of the body cannot be known."""


class ChunkDecoder:
    """Feed it what arrives; it gives back the payload. After `done`, `rest` is what came behind the body."""

    __slots__ = ("_buffer", "_remaining", "chunks", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._remaining = -1
        """Bytes of the chunk's payload to come; 0: its CRLF; -1: a size line; -2: the last CRLF."""
        self.chunks = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """`MalformedChunk` when the coding is broken."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._remaining > 0:
                piece = data[at : at + self._remaining]
                at += len(piece)
                self._remaining -= len(piece)
                pieces.append(piece)
                if self._remaining:
                    break
            line_end = data.find(_CRLF, at)
            if line_end < 0:
                self._keep(data[at:])
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._line(line):
                self.rest = data[at:]
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, rest: bytes) -> None:
        """An unfinished line; refuse at once what cannot become a good one."""
        if len(rest) > MAX_LINE:
            raise MalformedChunk("a line of the chunked coding is too long")
        if self._remaining in (0, -2) and rest not in (b"", b"\r"):
            raise MalformedChunk("a chunk is longer than its size")
        if self._remaining == -1 and b"\n" in rest:
            raise MalformedChunk("a chunk size ends with a bare LF")
        self._buffer = rest

    def _line(self, line: bytes) -> bool:
        """Take one line without its CRLF; True at the end of the body."""
        if self._remaining == -1:
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(line) > MAX_LINE:
                raise MalformedChunk("a chunk size")
            self._remaining = int(match[1], 16) or -2
            self.chunks += 1
            return False
        if line:
            raise MalformedChunk("trailers are not accepted" if self._remaining == -2 else "a chunk's end")
        self.done = self._remaining == -2
        self._remaining = -1
        return self.done


def encode_chunk(payload: bytes) -> bytes:
    """One chunk; an empty payload would end the body, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


LAST_CHUNK: Final = b"0\r\n\r\n"
