"""Resident memory of connections: many are opened, and what they added to the peer is divided by their number."""

from __future__ import annotations

import resource
import socket
import ssl

from bench.gateway.target import Target, client_context


def per_idle_connection(target: Target, body: bytes, count: int) -> float:
    """Bytes for each of `count` connections that have had one answer and wait for their next request."""
    return _held(target, target.request(body), count, whole=True)


def per_open_stream(target: Target, body: bytes, count: int) -> float:
    """Bytes for each of `count` streams in flight, the connections to the upstream included."""
    return _held(target, target.request(body), count, whole=False)


def _held(target: Target, request: bytes, count: int, *, whole: bool) -> float:
    raise_descriptor_limit()
    context = client_context() if target.tls else None
    _one(target, request, context, whole=whole).close()  # what the first connection makes is not each one's
    before = target.resident_bytes()
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(_one(target, request, context, whole=whole))  # noqa: PERF401 - closed if one fails
        return (target.resident_bytes() - before) / count
    finally:
        for connection in connections:
            connection.close()


def _one(target: Target, request: bytes, context: ssl.SSLContext | None, *, whole: bool) -> socket.socket:
    connection = target.connect(context)
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received or (whole and not received.endswith(b"}")):
        piece = connection.recv(65536)
        if not piece:
            raise OSError(f"{target.name} closed: {received[:300]!r}")
        received += piece
    if not received.startswith(b"HTTP/1.1 200"):
        raise OSError(f"{target.name} refused: {received[:300]!r}")
    return connection


def raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
