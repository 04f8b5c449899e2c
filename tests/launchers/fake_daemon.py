"""A Docker daemon as far as pulling goes: it has no image, and answers a pull with what a test gave it.

The answers have the form of a real daemon's (`POST /images/create`, API 1.41); a registry cannot be had in a test.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.24", "Version": "20.10.24"}


class FakeDaemon(ThreadingUnixStreamServer):
    """`pulled` are the names that were asked for, with their tags or digests."""

    daemon_threads = True

    def __init__(self, path: Path, events: Sequence[dict[str, Any]], status: int) -> None:
        super().__init__(str(path), _Handler)
        self.host = f"unix://{path}"
        self.events, self.status = events, status
        self.pulled: list[tuple[str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    server: FakeDaemon
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(200, VERSION)
        else:
            self._answer(404, {"message": "No such image"})

    def do_POST(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        self.server.pulled.append((asked["fromImage"][0], asked["tag"][0]))
        if self.server.status != 200:
            self._answer(self.server.status, {"message": self.server.events[0]["error"]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server.events:
            line = json.dumps(event).encode() + b"\r\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, body_of: dict[str, Any]) -> None:
        body = json.dumps(body_of).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nobody reads it."""


@contextmanager
def fake_daemon(*events: dict[str, Any], status: int = 200) -> Iterator[FakeDaemon]:
    with (
        tempfile.TemporaryDirectory(prefix="fake-", dir="/tmp") as folder,
        FakeDaemon(Path(folder) / "d.sock", events, status) as daemon,
    ):
        thread = threading.Thread(target=daemon.serve_forever)
        thread.start()
        try:
            yield daemon
        finally:
            daemon.shutdown()
            thread.join()
