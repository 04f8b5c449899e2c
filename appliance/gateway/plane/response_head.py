"""Heads of an engine's answers, read by llhttp.

An engine writes the same head time and again but for the length of the body, which decides nothing about the rest: so
heads are known by all their other bytes, and most are taken apart once a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import httptools

from appliance.gateway.plane.head import length_in

_MAX_KEPT: Final = 2048
"""Bytes of a head that is kept."""

ResponseHead = tuple[int, dict[bytes, bytes], bool]
"""Status, fields by lower-case names (for reading alone: others get the same ones), and whether the connection may be
used again.
"""


class _Sink:
    """Where llhttp leaves what it found. The callbacks are bound methods of built-in containers, so that no Python
    frame is entered for a header.
    """

    __slots__ = ("on_header",)

    def __init__(self, on_header: Callable[[bytes, bytes], None]) -> None:
        self.on_header = on_header


def parse_response(head: bytes) -> ResponseHead:
    """`ValueError` if it is malformed."""
    at, end = length_in(head)
    if len(head) > _MAX_KEPT:
        return _parse(head)
    if not at:
        return _known(head)
    status, fields, reusable = _known(b"%b1%b" % (head[:at], head[end:]))
    return status, {**fields, b"content-length": head[at:end]}, reusable


def _parse(head: bytes) -> ResponseHead:
    raw: dict[bytes, bytes] = {}
    parser = httptools.HttpResponseParser(_Sink(raw.__setitem__))
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


_known = lru_cache(maxsize=256)(_parse)
"""The same bytes mean the same. An engine's heads differ in their date, new once a second, and their length."""
