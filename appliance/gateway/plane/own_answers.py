"""Answers of the gateway's own: refusals, health, lists of models. Counted and logged here, as nobody else settles
them.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from appliance.gateway.plane import answers
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.route import PUBLIC


class Own(NamedTuple):
    """`extra`: whole header lines. `close`: what follows on the connection is not read."""

    status: int
    content_type: bytes
    body: bytes
    extra: bytes = b""
    close: bool = False


def refused(context: Context, refusal: Refusal, path: bytes = b"", extra: bytes = b"") -> Own:
    """In the form of errors on `path`."""
    context.metrics.refused(refusal.code)
    return Own(refusal.status, answers.JSON, refusal.body(path), extra + refusal.headers, refusal.close)


def encode(context: Context, own: Own, request_id: bytes, *, head_only: bool, keep_alive: bool) -> bytes:
    """`head_only`: it answers HEAD."""
    head = answers.head(
        own.status,
        context.date.line,
        request_id,
        own.content_type,
        len(own.body),
        keep_alive=keep_alive,
        extra=own.extra,
    )
    return head if head_only else head + own.body


def tell(context: Context, head: RequestHead, request_id: bytes, peer: str, status: int, code: str = "") -> None:
    """The access log is told of the others when they are settled; of health checks it is not."""
    if code or (head.method, head.path) not in PUBLIC:
        context.access_log.tell_own(head, request_id, peer, time.time(), status, code)
