"""Around every request: an id, log context, and the headers that a browser should see."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from appliance.kernel.logging import bind, clear, get_logger

log = get_logger(__name__)
_GOOD_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_HEADERS: Final = (
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    ),
    (b"cache-control", b"no-store"),
)


class RequestContext:
    """Pure ASGI: takes or makes `X-Request-Id`, binds it to the logs, adds security headers, logs the end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        clear()
        bind(request_id=request_id)
        begun, status = time.monotonic(), 0

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                present = {name.lower() for name, _ in headers}
                headers += [pair for pair in _HEADERS if pair[0] not in present]
                headers.append((b"x-request-id", request_id.encode()))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, add_headers)
        finally:
            elapsed = round((time.monotonic() - begun) * 1000, 1)
            log.info("request.served", method=scope["method"], path=scope["path"], status=status, ms=elapsed)
            clear()


def _request_id(scope: HTTPScope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _GOOD_ID.fullmatch(given):
                return given
    return f"req_{secrets.token_hex(12)}"
