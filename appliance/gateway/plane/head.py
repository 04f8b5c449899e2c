"""Heads of HTTP/1.1 messages: bounded, parsed strictly by llhttp, then checked for what llhttp lets pass.

What cannot be understood in exactly one way is refused: `Content-Length` with `Transfer-Encoding`, several
lengths or hosts, obsolete line folding, bare LF or CR, NUL, codings other than `chunked`, request targets that
are not a plain path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from appliance.gateway.plane.errors import Refusal, bad_framing

MAX_HEAD: Final = 32 * 1024
MAX_FIELDS: Final = 100
END: Final = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[A-Z]{1,16} [!-~]{1,8192} HTTP/1\.[01]\r\n")
_VERSION = re.compile(rb"[^\r\n]* HTTP/[0-9.]+\r\n")
_TARGET = re.compile(rb"/[!\"$-~]*")
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


class _Sink:
    """Where httptools leaves what it found. The callbacks are bound methods of built-in containers, so that no
    Python frame is entered for a header.
    """

    __slots__ = ("on_header", "on_status", "on_url")

    def __init__(
        self,
        on_header: Callable[[bytes, bytes], None],
        on_url: Callable[[bytes], None],
    ) -> None:
        self.on_header = on_header
        self.on_url = on_url
        self.on_status = _ignore


def _ignore(_: bytes) -> None:
    return


class RequestHead:
    """`fields` have lower-case names; of a name that came several times and may, the last value."""

    __slots__ = ("chunked", "content_length", "fields", "http_1_0", "keep_alive", "method", "path", "query")

    def __init__(self, method: bytes, target: bytes, fields: dict[bytes, bytes], *, http_1_0: bool) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.fields = fields
        self.http_1_0 = http_1_0
        self.chunked = b"transfer-encoding" in fields
        length = fields.get(b"content-length")
        self.content_length: int | None = None if length is None else int(length)
        connection = fields.get(b"connection", b"").lower()
        self.keep_alive = not http_1_0 and b"close" not in connection

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
    if not _REQUEST_LINE.match(head):
        if _VERSION.match(head) and b" HTTP/1." not in head.partition(b"\r\n")[0]:
            raise Refusal(505, "http_version_not_supported", "Only HTTP/1.1 and 1.0 are spoken here.", close=True)
        raise bad_framing("the request line")
    check_incomplete(head)
    raw: dict[bytes, bytes] = {}
    urls: list[bytes] = []
    parser = httptools.HttpRequestParser(_Sink(raw.__setitem__, urls.append))
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # every field was read; an upgrade is not taken, as HTTP allows
    except httptools.HttpParserError as error:
        raise bad_framing(str(error)) from None
    fields = {name.lower(): value for name, value in raw.items()}
    if len(fields) != head.count(b"\r\n") - 2:
        _refuse_repeated(head)
    request = RequestHead(parser.get_method(), urls[0], fields, http_1_0=parser.get_http_version() == "1.0")
    _check(request, urls[0])
    return request


def parse_response(head: bytes) -> tuple[int, dict[bytes, bytes], bool]:
    """Status, fields and whether the connection may be used again. `ValueError` if it is malformed."""
    raw: dict[bytes, bytes] = {}
    parser = httptools.HttpResponseParser(_Sink(raw.__setitem__, _ignore))
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise ValueError(str(error)) from None
    fields = {name.lower(): value for name, value in raw.items()}
    coding = fields.get(b"transfer-encoding")
    if coding is not None and coding.strip().lower() != b"chunked":
        raise ValueError("unknown transfer coding")
    return parser.get_status_code(), fields, parser.should_keep_alive()


def _refuse_repeated(head: bytes) -> None:
    """Some name came more than once: refuse it where the values could be told apart differently elsewhere."""
    seen: set[bytes] = set()
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) > MAX_FIELDS:
        raise _too_large()
    for line in lines:
        name = line.partition(b":")[0].lower()
        if name in seen and name in _SINGLE:
            raise bad_framing(f"more than one {name.decode()}")
        seen.add(name)


def _check(request: RequestHead, target: bytes) -> None:
    fields = request.fields
    if len(fields) > MAX_FIELDS:
        raise _too_large()
    if request.method == b"CONNECT" or not _TARGET.fullmatch(target):
        raise bad_framing("the request target is not a path")
    if b"host" not in fields and not request.http_1_0:
        raise bad_framing("no Host")
    if request.chunked:
        if request.http_1_0:
            raise bad_framing("Transfer-Encoding in HTTP/1.0")
        if fields[b"transfer-encoding"].strip().lower() != b"chunked":
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
