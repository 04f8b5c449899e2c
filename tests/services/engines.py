"""An engine as far as the control plane sees one: an HTTP server on a unix socket, in the test's own loop."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

HEALTHY = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@dataclass
class Manners:
    """How the engines of a test answer; may change while they run."""

    completion: bytes = json.dumps(HEALTHY).encode()
    metrics: bytes = b""
    status: int = 200
    health: int = 200
    """An engine that loads answers its health path with something else."""
    chunk_pause_s: float = 0.0
    """Between the bytes of a body; 0 sends it at once."""


class FakeEngine:
    def __init__(self, socket: Path, manners: Manners) -> None:
        self._socket, self._manners = socket, manners
        self._server: asyncio.Server | None = None
        self._sent = 0

    @property
    def bytes_sent(self) -> int:
        """Of bodies, to all clients."""
        return self._sent

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._socket)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(line[16:]) for line in head.lower().split("\r\n") if line[:15] == "content-length:"), 0)
            await reader.readexactly(length)
            await self._answer(head.split(" ")[1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        body = {"/metrics": self._manners.metrics, "/health": b""}.get(path, self._manners.completion)
        status = self._manners.health if path == "/health" else self._manners.status
        writer.write(f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        step = 1 if self._manners.chunk_pause_s else 65536
        for at in range(0, len(body), step):
            writer.write(body[at : at + step])
            await writer.drain()
            self._sent += step
            if self._manners.chunk_pause_s:
                await asyncio.sleep(self._manners.chunk_pause_s)
