"""Listening sockets: probing, binding, listening.

An address is first bound without SO_REUSEPORT, so that a foreign or stale owner (even one that shares its port) is
noticed and left alone; then one socket with SO_REUSEPORT for each worker, so that the kernel spreads connections.
The kernel gives a socket its share from `listen` on, whether or not anyone accepts.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

BACKLOG: Final = 1024


class AddressUnavailable(OSError):
    """Why an address cannot be listened on, in words for the administrator."""


def probe(host: str, port: int) -> None:
    """`AddressUnavailable` if somebody listens there or the address cannot be used."""
    with _socket(host, port) as candidate:
        _bind(candidate, host, port)
        try:
            candidate.listen(1)
        except OSError as error:
            raise _explained(error, host, port) from None


def bind_shared(host: str, port: int) -> socket.socket:
    """A socket of a group. Nothing queues in it before `listen`."""
    bound = _socket(host, port)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(bound, host, port)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise error if isinstance(error, AddressUnavailable) else _explained(error, host, port) from None
    return bound


def listen(bound: socket.socket, host: str, port: int) -> None:
    """Let connections queue in a socket of `bind_shared`, which may listen already.

    `AddressUnavailable` if somebody else has begun to listen at the address since it was bound.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _explained(error, host, port) from None


def is_at(bound: socket.socket, host: str, port: int) -> bool:
    """Whether the socket is bound to just this address."""
    try:
        family, _, _, _, address = _resolved(host, port)
    except AddressUnavailable:
        return False
    return bound.family == family and bound.getsockname()[:2] == address[:2]


def _resolved(host: str, port: int) -> tuple[int, int, int, str, tuple[Any, ...]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)[
            0
        ]
    except socket.gaierror:
        raise AddressUnavailable(errno.EINVAL, f"{host!r} is not an IP address") from None


def _socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, _ = _resolved(host, port)
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" takes IPv4 as well
    return made


def _bind(candidate: socket.socket, host: str, port: int) -> None:
    try:
        candidate.bind((host, port))
    except OSError as error:
        raise _explained(error, host, port) from None


def _explained(error: OSError, host: str, port: int) -> AddressUnavailable:
    reasons = {
        errno.EADDRINUSE: "is in use by a process that is not this gateway's; stop it or choose another port",
        errno.EACCES: "needs the right to bind ports below net.ipv4.ip_unprivileged_port_start",
        errno.EADDRNOTAVAIL: "is not an address of this machine",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return AddressUnavailable(error.errno, f"{host}:{port} {reason}")
