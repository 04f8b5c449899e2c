"""Decoding of chunked transfer coding, strictly: hexadecimal sizes, CRLF everywhere (RFC 9112, 7.1).

Extensions and trailers are checked, bounded over the whole body, and dropped: nothing here has a use for them, and
what is forwarded is framed anew.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINE: Final = 1024
MAX_EXTRA: Final = 8 * 1024
"""Bytes of all extensions and trailers of one body together."""
MAX_DIGITS: Final = 12
NO_BOUND: Final = 1 << 60
_EXTENDED = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*;[\t -~\x80-\xff]*")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
_CRLF: Final = b"\r\n"
_HEX: Final = b"0123456789abcdefABCDEF"

_PAYLOAD_END: Final = 0
_SIZE: Final = -1
_TRAILER: Final = -2


class MalformedChunk(ValueError):
    """The coding is broken: the end of the body cannot be known."""


class ChunkDecoder:
    """Feed it what arrives; it gives back the payload. After `done`, `rest` is what came behind the body. `most`
    chunks are taken of one piece, about; `more` says that others are kept and nothing has to come for them.
    """

    __slots__ = ("_buffer", "_extra", "_most", "_remaining", "chunks", "done", "more", "rest")

    def __init__(self, most: int = NO_BOUND) -> None:
        self._buffer = b""
        self._most = most
        self.more = False
        self._remaining = _SIZE
        """Bytes of the chunk's payload to come, or what else is expected next."""
        self._extra = 0
        self.chunks = 0
        self.done = False
        self.rest = b""

    @property
    def at_rest(self) -> bool:
        """Whether all that came was whole chunks: a size is next."""
        return self._remaining == _SIZE and not self._buffer

    def feed(self, data: bytes) -> bytes:
        """`MalformedChunk` when the coding is broken."""
        if self._remaining == _SIZE and not self._buffer and data.endswith(_CRLF):
            payload = self._whole(data)
            if payload:
                return payload
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        at, last = 0, self.chunks + self._most
        self.more = False
        while True:
            if self._remaining > 0:
                piece = data[at : at + self._remaining]
                at += len(piece)
                self._remaining -= len(piece)
                pieces.append(piece)
                if self._remaining:
                    break
            line_end = at if data.startswith(_CRLF, at) else data.find(_CRLF, at)
            if line_end < 0:
                self._keep(data[at:])
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._line(line):
                self.rest = data[at:]
                break
            if self.chunks >= last:
                self._buffer = data[at:]
                self.more = bool(self._buffer)
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _whole(self, data: bytes) -> bytes:
        """The payload of exactly one chunk, as engines write their events; nothing if it is anything else."""
        at = data.find(_CRLF)
        line = data[:at]
        size = len(data) - at - 4
        if 0 < at <= MAX_DIGITS and size > 0 and not line.translate(None, _HEX) and int(line, 16) == size:
            self.chunks += 1
            return data[at + 2 : -2]
        return b""

    def _keep(self, rest: bytes) -> None:
        """An unfinished line; refuse at once what cannot become a good one."""
        if len(rest) > MAX_LINE:
            raise MalformedChunk("a line of the chunked coding is too long")
        if self._remaining == _PAYLOAD_END and rest not in (b"", b"\r"):
            raise MalformedChunk("a chunk is longer than its size")
        if b"\n" in rest or b"\r" in rest[:-1]:
            raise MalformedChunk("a bare CR or LF in the chunked coding")
        self._buffer = rest

    def _line(self, line: bytes) -> bool:
        """Take one line without its CRLF; True at the end of the body."""
        if self._remaining == _SIZE:
            self._remaining = self._size(line) or _TRAILER
            self.chunks += 1
            return False
        if self._remaining == _PAYLOAD_END:
            if line:
                raise MalformedChunk("a chunk is longer than its size")
            self._remaining = _SIZE
            return False
        if line:
            if not _FIELD.fullmatch(line):
                raise MalformedChunk("a trailer")
            self._count(line)
            return False
        self.done = True
        return True

    def _size(self, line: bytes) -> int:
        digits = line
        if not line or line.translate(None, _HEX):  # what `int` takes beyond digits is none here
            match = _EXTENDED.fullmatch(line)
            if match is None:
                raise MalformedChunk("a chunk size")
            self._count(line)
            digits = match[1]
        if len(digits) > MAX_DIGITS:
            raise MalformedChunk("a chunk size")
        return int(digits, 16)

    def _count(self, line: bytes) -> None:
        self._extra += len(line)
        if len(line) > MAX_LINE or self._extra > MAX_EXTRA:
            raise MalformedChunk("too many bytes in extensions or trailers")


def size_line(length: int) -> bytes:
    """How a piece of `length` bytes begins that is exactly one chunk, as engines write them; a blank, which no chunk
    begins with, if there is no such chunk.
    """
    for digits in range(1, MAX_DIGITS):
        size = b"%x" % max(length - digits - 4, 0)
        if len(size) == digits and size != b"0":
            return size + _CRLF
    return b" "


def encode_chunk(payload: bytes) -> bytes:
    """One chunk; an empty payload would end the body, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


LAST_CHUNK: Final = b"0\r\n\r\n"
