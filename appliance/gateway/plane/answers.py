"""Heads of the answers to clients. What is sent is written here; nothing of an engine's head passes but its type."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

JSON: Final = b"application/json"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus if status >= 200
}
_CONTENT_TYPE = re.compile(rb"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:; ?[a-z0-9-]+=[A-Za-z0-9._-]+)*")


class DateHeader:
    """The Date field, made once a second."""

    def __init__(self) -> None:
        self.line = b""
        self.tick()

    def tick(self) -> None:
        self.line = b"date: %b\r\n" % formatdate(usegmt=True).encode()


def head(
    status: int,
    date: bytes,
    request_id: bytes,
    content_type: bytes,
    length: int | None,
    *,
    keep_alive: bool,
    chunked: bool = False,
    extra: bytes = b"",
) -> bytes:
    """`length` None: `chunked`, or else delimited by the connection's end (which HTTP/1.0 can do only)."""
    framing = b"content-length: %d\r\n" % length if length is not None else b""
    if chunked:
        framing = b"transfer-encoding: chunked\r\n"
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    connection = b"" if keep_alive else b"connection: close\r\n"
    return b"%b%bcontent-type: %b\r\nx-request-id: %b\r\n%b%b%b\r\n" % (
        line,
        date,
        content_type,
        request_id,
        extra,
        framing,
        connection,
    )


def content_type_of(fields: dict[bytes, bytes]) -> bytes:
    """The engine's content type if it is well-formed."""
    value = fields.get(b"content-type", JSON)
    if value == JSON:
        return value
    return value if len(value) <= 100 and _CONTENT_TYPE.fullmatch(value) else b"application/octet-stream"
