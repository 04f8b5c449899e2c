"""A running peer as the load generators see it."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from bench.gateway.machine import cpu_seconds, steady_resident_bytes, tree

PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class TlsPair:
    """PEM files of a self-signed certificate for localhost."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Features:
    """What this peer does with a request besides passing it on; each that is claimed is verified before the run."""

    key: bool = False
    limits: bool = False
    usage: bool = False
    log: bool = False


@dataclass(frozen=True)
class Target:
    """`limited_key` may make one request a minute; `root` is the process whose tree does the work."""

    name: str
    port: int
    root: int
    features: Features
    key: str = ""
    limited_key: str = ""
    tls_port: int | None = None
    tls: bool = False

    def over_tls(self) -> Self:
        if self.tls_port is None:
            raise ValueError(f"{self.name} has no listener with TLS")
        return replace(self, port=self.tls_port, tls=True)

    @property
    def chat_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{PATH}"

    def pids(self) -> Sequence[int]:
        return list(tree(self.root))

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids())

    def resident_bytes(self) -> int:
        return steady_resident_bytes(self.pids())

    def headers(self, key: str | None = None) -> dict[str, str]:
        given = self.key if key is None else key
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {given}"} if given else {})

    def request(self, body: bytes) -> bytes:
        lines = [f"POST {PATH} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers().items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def connect(self, context: ssl.SSLContext | None = None) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return connection
        return (context or client_context()).wrap_socket(connection, server_hostname="localhost")


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a plain GET. `OSError` or `HTTPException` when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def chat_body(*, stream_tokens: int = 0) -> dict[str, Any]:
    """What every peer is asked: a chat of two messages; as a stream, its usage asked for as clients do."""
    body: dict[str, Any] = {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": "What does the quick brown fox do when it meets the lazy dog on its way home?"},
        ],
        "max_tokens": stream_tokens or 64,
    }
    if stream_tokens:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body
