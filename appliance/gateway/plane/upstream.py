"""Connections to replicas: unix sockets, opened without following links, their owner checked, kept alive in a pool.

An engine is not trusted (its image may be the tenant's own): its answer's head is bounded and parsed strictly, its
body's end is known or the connection is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import time
from typing import Final, Protocol

from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.chunked import ChunkDecoder
from appliance.gateway.plane.fast_path import FastPath
from appliance.gateway.plane.head import END
from appliance.gateway.plane.response_head import parse_response

MAX_RESPONSE_HEAD: Final = 64 * 1024
IDLE_S: Final = 3.0
"""Idle connections are dropped before the engine's own limit (5 s in uvicorn), so that they rarely cross."""
MAX_IDLE: Final = 256
_BACKLOG_RETRY_S: Final = 0.01
_CREDENTIALS = struct.Struct("=iII")
_NO_BODY: Final = frozenset({204, 304})


class ResponseHandler(Protocol):
    """Receives one answer: a head, then data, then an end or a loss. Nothing follows an end or a loss."""

    def on_head(self, status: int, fields: dict[bytes, bytes]) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def fast_path(self) -> FastPath | None:
        """A short way for the chunks that come next, past `on_data`. Asked whenever all that came was whole chunks."""
        ...

    def on_end(self) -> None: ...

    def on_lost(self, reason: str, *, unread: bool) -> None:
        """`unread`: nothing came back and the engine cannot have read the whole request."""


class UpstreamConnection(asyncio.Protocol):
    __slots__ = (
        "_buffer",
        "_decoder",
        "_fast",
        "_handler",
        "_in_body",
        "_paused",
        "_remaining",
        "_reusable",
        "_seen",
        "_transport",
        "idle_since",
        "replica",
        "used",
    )

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.used = False
        """Whether an answer has come over it before."""
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._handler: ResponseHandler | None = None
        self._buffer = b""
        self._in_body = False
        self._decoder: ChunkDecoder | None = None
        self._fast: FastPath | None = None
        self._remaining: int | None = None
        """Bytes of the body to come; None: until the connection ends (unless chunked)."""
        self._reusable = True
        self._paused = False
        self._seen = False

    def send(self, handler: ResponseHandler, request: bytes, body: bytes = b"") -> None:
        """`body`: what of it is not in `request`; its bytes are not copied."""
        if self._transport is None:
            raise RuntimeError("the connection is closed; ask `usable` first")
        self._handler = handler
        self._in_body = False
        self._seen = False
        if body:
            self._transport.writelines((request, body))
        else:
            self._transport.write(request)

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def pause(self) -> None:
        """Read no more until `resume`: the client is slower than the engine."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once, so that the engine stops generating; the handler hears nothing more."""
        self._handler = self._fast = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport has both directions

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._fast = None
        if self in self.replica.idle:
            self.replica.idle.remove(self)
        handler, self._handler = self._handler, None
        if handler is None:
            return
        if exc is None and self._in_body and self._decoder is None and self._remaining is None:
            handler.on_end()  # a body that is delimited by the connection's end
            return
        # A unix socket reports a reset only if its peer closed with data unread, and a broken pipe only if the
        # peer had closed before.
        unread = not self._seen and self.used and isinstance(exc, ConnectionResetError | BrokenPipeError)
        handler.on_lost(str(exc) if exc else "the engine closed the connection", unread=unread)

    def data_received(self, data: bytes) -> None:
        fast = self._fast
        if fast is not None:
            if fast.take(data):
                return
            self._fast = None
        handler = self._handler
        if handler is None:
            self.abort()  # an answer to nothing
            return
        self._seen = True
        try:
            if not self._in_body:
                data = self._take_head(handler, data)
            if self._in_body and self._handler is handler:
                self._take_body(handler, data)
        except ValueError as error:
            self._fail(f"the engine's answer is malformed: {error}")

    def _take_head(self, handler: ResponseHandler, data: bytes) -> bytes:
        """What follows the head, if it is complete."""
        data = self._buffer + data if self._buffer else data
        while True:
            end = data.find(END)
            if end < 0:
                if len(data) > MAX_RESPONSE_HEAD:
                    raise ValueError("its head is too large")
                self._buffer = data
                return b""
            head, data = data[: end + 4], data[end + 4 :]
            status, fields, self._reusable = parse_response(head)
            if status >= 200:
                break  # interim answers are skipped
        self._buffer = b""
        self._in_body = True
        self._decoder = ChunkDecoder() if b"transfer-encoding" in fields else None
        length = fields.get(b"content-length")
        self._remaining = 0 if status in _NO_BODY else int(length) if length is not None else None
        handler.on_head(status, fields)
        return data

    def _take_body(self, handler: ResponseHandler, data: bytes) -> None:
        decoder = self._decoder
        if decoder is not None:
            payload = decoder.feed(data)
            ended, excess = decoder.done, bool(decoder.rest)
        elif self._remaining is not None:
            payload = data[: self._remaining]
            excess = len(data) > self._remaining
            self._remaining -= len(payload)
            ended = self._remaining == 0
        else:
            payload, ended, excess = data, False, False
        if ended:
            self._reusable = self._reusable and not excess
        if payload:
            handler.on_data(payload)
            if decoder is not None and decoder.at_rest and self._handler is handler:
                self._fast = handler.fast_path()
        if ended and self._handler is handler:
            self._end(handler)

    def _end(self, handler: ResponseHandler) -> None:
        """Back to the pool first: the handler may want a connection for the next request at once."""
        self._handler = None
        self.used = True
        self.resume()
        replica = self.replica
        if self._reusable and self.usable and not replica.retired and len(replica.idle) < MAX_IDLE:
            self.idle_since = time.monotonic()
            replica.idle.append(self)
        else:
            self.close()
        handler.on_end()

    def _fail(self, reason: str) -> None:
        handler = self._handler
        self.abort()
        if handler is not None:
            handler.on_lost(reason, unread=False)


def take_idle(replica: Replica, now: float) -> UpstreamConnection | None:
    """The connection that was used last; the others age and are closed. `now`: the loop's clock."""
    while replica.idle:
        connection = replica.idle.pop()
        if connection.usable and now - connection.idle_since < IDLE_S:
            return connection
        connection.close()
    return None


async def connect(replica: Replica, timeout: float) -> UpstreamConnection:
    """A new connection. `OSError` (with `TimeoutError`) if it cannot be had within `timeout` seconds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        connected = await _open(replica)
        connection = UpstreamConnection(replica)
        try:
            await loop.create_unix_connection(lambda: connection, sock=connected)
        except BaseException:
            connection.abort()
            connected.close()
            raise
    return connection


async def _open(replica: Replica) -> socket.socket:
    """Nobody tells when a full accept queue has room again: one request tries for all, and in their order."""
    gate = replica.gate
    if not gate.locked():
        with contextlib.suppress(BlockingIOError):
            return open_socket(replica.socket, replica.owner_uid)
    async with gate:
        while True:
            with contextlib.suppress(BlockingIOError):
                return open_socket(replica.socket, replica.owner_uid)
            await asyncio.sleep(_BACKLOG_RETRY_S)


def open_socket(path: str, owner_uid: int | None) -> socket.socket:
    """A connected, non-blocking socket. `PermissionError` if the socket is a link, no socket, or another's.

    The socket file is opened first and connected to through its descriptor, so that what was checked is what is
    used; that also lifts the 107 bytes limit of a socket's path.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            raise PermissionError(f"{path} is not a socket")
        if owner_uid is not None and found.st_uid != owner_uid:
            raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {owner_uid}")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}")
            _check_peer(connection, path, owner_uid)
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(descriptor)


def _check_peer(connection: socket.socket, path: str, owner_uid: int | None) -> None:
    """Who listens (since `listen(2)`), as the kernel knows it."""
    if owner_uid is None:
        return
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid != owner_uid:
        raise PermissionError(f"{path} is served by user {uid}, not by {owner_uid}")
