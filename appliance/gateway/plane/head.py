"""Heads of HTTP/1.1 requests: bounded and understood in exactly one way, or refused.

A request is taken apart here, in a few passes over its bytes: what most parsers let pass for old clients' sake is
what requests are smuggled with. Refused are `Content-Length` with `Transfer-Encoding`, several lengths or hosts,
obsolete line folding, any control character (bare LF or CR and NUL among them), codings other than `chunked`, and
targets that are not a plain path.
"""

from __future__ import annotations

import string
from typing import Final

from appliance.gateway.plane.errors import Refusal, bad_framing

MAX_HEAD: Final = 32 * 1024
MAX_TARGET: Final = 8 * 1024
MAX_FIELDS: Final = 100
END: Final = b"\r\n\r\n"
MAX_LENGTH_DIGITS: Final = 15

_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LENGTH_BYTES: Final = len(_LENGTHS[0])
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"})
_VERSIONS: Final = {b"HTTP/1.1": False, b"HTTP/1.0": True}
_CONTROLS: Final = bytes({*range(32), 127} - {9})
_ALPHANUMERIC: Final = (string.ascii_letters + string.digits).encode()
_TOKEN: Final = b"!#$%&'*+-.^_`|~" + _ALPHANUMERIC
_TARGET: Final = bytes({*range(33, 127)} - {ord("#")})
_HOST: Final = b"-._:[]" + _ALPHANUMERIC
_SINGLE: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"content-type",
        b"expect",
        b"content-encoding",
    }
)


class RequestHead:
    """`fields` have lower-case names; the values of a name that came several times and may are joined by commas. The
    framing's are told by `content_length` and `chunked`: read the length there.
    """

    __slots__ = ("chunked", "content_length", "fields", "http_1_0", "keep_alive", "method", "path", "query")

    def __init__(self, method: bytes, target: bytes, fields: dict[bytes, bytes], *, http_1_0: bool) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.fields = fields
        self.http_1_0 = http_1_0
        self.chunked = b"transfer-encoding" in fields
        length = fields.get(b"content-length")
        self.content_length: int | None = None if length is None else int(length)
        connection = fields.get(b"connection")
        self.keep_alive = not http_1_0 and (connection is None or b"close" not in connection.lower())

    def of_length(self, length: int) -> RequestHead:
        """This head with another Content-Length."""
        if length == self.content_length:
            return self
        other = RequestHead(self.method, self.path, self.fields, http_1_0=self.http_1_0)
        other.query, other.content_length = self.query, length
        return other

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)


def check_incomplete(data: bytes | bytearray) -> None:
    """Refuse a head that cannot become a good one, before it is complete."""
    if len(data) > MAX_HEAD:
        raise _too_large()
    line_feeds = data.count(b"\n")
    if line_feeds != data.count(b"\r\n"):
        raise bad_framing("a line ends with a bare LF")
    if data.count(b"\r") - line_feeds > (data[-1:] == b"\r"):
        raise bad_framing("a bare CR")
    if b"\0" in data:
        raise bad_framing("a NUL character")


def parse_request(head: bytes) -> RequestHead:
    """`head` includes the blank line. `Refusal` if it is not a request that can be understood in one way only."""
    if len(head) > MAX_HEAD:
        raise _too_large()
    lines = head.split(b"\r\n")
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * (len(lines) - 1):
        check_incomplete(head)
        raise bad_framing("a control character")
    method, target, http_1_0 = _request_line(lines[0])
    if len(lines) - 3 > MAX_FIELDS:
        raise _too_large()
    fields: dict[bytes, bytes] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise bad_framing("a line that is no header field")
        name = name.lower()
        value = value.strip(b" \t")
        if name in fields:
            if name in _SINGLE:
                raise bad_framing(f"more than one {name.decode()}")
            value = b"%b, %b" % (fields[name], value)
        fields[name] = value
    if b"" in fields or b"".join(fields).translate(None, _TOKEN):
        raise bad_framing("the name of a header field")
    _check(fields, http_1_0=http_1_0)
    return RequestHead(method, target, fields, http_1_0=http_1_0)


def length_in(head: bytes) -> tuple[int, int]:
    """Where the digits of a head's Content-Length are, if it is written as most write it; (0, 0) if it is not."""
    at = head.find(_LENGTHS[0])
    if at < 0:
        at = head.find(_LENGTHS[1])
        if at < 0:
            return 0, 0
    at += _LENGTH_BYTES
    end = head.find(b"\r", at)
    digits = head[at:end]
    return (at, end) if digits.isdigit() and len(digits) <= MAX_LENGTH_DIGITS else (0, 0)


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Method, target and whether it is HTTP/1.0."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    http_1_0 = _VERSIONS.get(version)
    if http_1_0 is None:
        if version.startswith(b"HTTP/") and version[5:6].isdigit() and version[5:7] != b"1.":
            raise Refusal(505, "http_version_not_supported", "Only HTTP/1.1 and 1.0 are spoken here.", close=True)
        raise bad_framing("the request line")
    if method not in _METHODS:
        raise bad_framing("the request's method")
    if not target.startswith(b"/") or len(target) > MAX_TARGET or target.translate(None, _TARGET):
        raise bad_framing("the request target is not a path")
    return method, target, http_1_0


def _check(fields: dict[bytes, bytes], *, http_1_0: bool) -> None:
    """What decides where the request ends and whom it is for."""
    host = fields.get(b"host")
    if host is None:
        if not http_1_0:
            raise bad_framing("no Host")
    elif not host or host.translate(None, _HOST):
        raise bad_framing("the Host")
    length = fields.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) <= MAX_LENGTH_DIGITS):
        raise bad_framing("the Content-Length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise bad_framing("Content-Length with Transfer-Encoding")
        if http_1_0:
            raise bad_framing("Transfer-Encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise bad_framing("a transfer coding other than chunked")
    expect = fields.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise Refusal(417, "expectation_failed", "Only 'Expect: 100-continue' is understood.", close=True)


def _too_large() -> Refusal:
    return Refusal(
        431,
        "request_header_fields_too_large",
        f"The request head is larger than {MAX_HEAD} bytes or {MAX_FIELDS} fields.",
        close=True,
    )
