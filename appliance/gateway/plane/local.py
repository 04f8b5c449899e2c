"""A worker's own little server on a unix socket (0600): `GET /metrics` for Prometheus, `GET /debug/state` as JSON.

It is for processes of the same user on the same machine. Each connection is answered once and closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from appliance.gateway.plane.paths import metrics_path, short_path

METRICS: Final = "/metrics"
STATE: Final = "/debug/state"
_MAX_REQUEST: Final = 4096
_MAX_ANSWER: Final = 64 * 1024 * 1024
_ANSWER_S: Final = 2.0

Page = tuple[str, Callable[[], bytes]]
"""Content type, and what makes the content."""


async def serve(loop: asyncio.AbstractEventLoop, path: Path, pages: Mapping[str, Page]) -> asyncio.AbstractServer:
    """Answer `pages` (by path) at `path` until the server is closed."""
    path.unlink(missing_ok=True)
    server = await loop.create_unix_server(lambda: _Answers(pages), short_path(path))
    path.chmod(0o600)
    return server


class _Answers(asyncio.Protocol):
    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._transport: asyncio.Transport | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport has both directions

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) < _MAX_REQUEST:
            return
        self._transport.write(self._answer(self._head.partition(b"\r\n")[0].decode("latin-1").split(" ")))
        self._transport.close()

    def _answer(self, line: list[str]) -> bytes:
        path = line[1] if len(line) > 1 else ""
        if path not in self._pages:
            return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        content_type, make = self._pages[path]
        body = make()
        return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
            content_type.encode(),
            len(body),
            body,
        )


async def ask(home: Path, index: int, page: str) -> bytes:
    """A page of worker `index`. `OSError` (with `TimeoutError`) if the worker does not answer it whole."""
    async with asyncio.timeout(_ANSWER_S):
        reader, writer = await asyncio.open_unix_connection(short_path(metrics_path(home, index)))
        try:
            writer.write(b"GET %b HTTP/1.1\r\nhost: worker\r\n\r\n" % page.encode())
            content = b""
            while piece := await reader.read(_MAX_ANSWER):
                content += piece
        finally:
            writer.close()
    head, _, body = content.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or f"content-length: {len(body)}" not in head.decode("latin-1"):
        raise ConnectionError(f"worker {index} did not answer {page}")
    return body


async def scrape(home: Path, index: int) -> str:
    """A worker's exposition. `OSError` (with `TimeoutError`) if it does not answer."""
    return (await ask(home, index, METRICS)).decode()
