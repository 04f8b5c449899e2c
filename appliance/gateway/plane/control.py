"""Between the supervisor and a worker: datagrams over a unix socket, with listening sockets as attachments.

The worker listens on `run/worker-<n>.sock` (SOCK_SEQPACKET), so that a supervisor that was restarted finds it again;
the connection that came last is the supervisor's. `Hello` is answered by `Held` messages, in which the worker hands
out duplicates of all its listening sockets; the others are not answered.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.paths import short_path
from appliance.gateway.plane.schemas.listeners import Listener

BATCH: Final = 64
"""Sockets in one message; the kernel's limit is 253."""
MAX_MESSAGE: Final = 128 * 1024


class Hello(msgspec.Struct, tag=True, frozen=True):
    """Who are you, and which sockets do you hold?"""


class Listen(msgspec.Struct, tag=True, frozen=True):
    """Accept on these; the sockets are attached in the same order. A listener that is known gets the new socket."""

    listeners: list[Listener]


class Unlisten(msgspec.Struct, tag=True, frozen=True):
    ids: list[str]


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Accept no more, finish what is in flight within `grace_s` seconds, exit."""

    grace_s: float


class Held(msgspec.Struct, tag=True, frozen=True):
    """Part of the answer to `Hello`; the listeners' sockets are attached. `last`: no more parts follow."""

    pid: int
    draining: bool
    last: bool
    listeners: list[Listener]


ToWorker = Hello | Listen | Unlisten | Drain
_encode = msgspec.msgpack.Encoder().encode
_decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
_decode_held = msgspec.msgpack.Decoder(Held).decode


def listen(path: Path) -> socket.socket:
    """The worker's end. Its lock makes it the only one that may use the path."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    server.bind(short_path(path))
    path.chmod(0o600)
    server.listen(4)
    return server


def connect(path: Path, timeout: float) -> socket.socket:
    """The supervisor's end. `OSError` if no worker listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        connection.connect(short_path(path))
    except OSError:
        connection.close()
        raise
    return connection


def send(connection: socket.socket, message: ToWorker | Held, descriptors: list[int] | None = None) -> None:
    socket.send_fds(connection, [_encode(message)], descriptors or [])


def receive_to_worker(connection: socket.socket) -> tuple[ToWorker, list[int]] | None:
    """None at the end of the connection. `ValueError` for what cannot be understood (its sockets are closed)."""
    data, descriptors = _receive(connection)
    if not data:
        return None
    try:
        return _decode_to_worker(data), descriptors
    except ValueError:
        _close(descriptors)
        raise


def receive_held(connection: socket.socket) -> tuple[Held, list[socket.socket]]:
    """One part of the answer to `Hello`. `ConnectionError` at the end of the connection."""
    data, descriptors = _receive(connection)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if not data:
        raise ConnectionResetError("the worker closed its control connection")
    return _decode_held(data), sockets


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    # One that stayed open over exec would be listened on by nobody, and its clients would wait for ever.
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_MESSAGE, BATCH, socket.MSG_CMSG_CLOEXEC)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(descriptors)
        raise ConnectionError("a control message was truncated")
    return data, descriptors


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
