"""The open connections of one worker, and how many there may be: in all, and of one peer.

A connection beyond a bound is reset as soon as it was accepted, before TLS and before a byte is read, and counted. No
one peer is given more than three quarters of what the worker may have, so that another is always served. An IPv6 peer
is its /64 network, of which a single host has every address.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from appliance.gateway.plane.client_protocol import ClientConnection

MAPPED: Final = "::ffff:"
"""How an IPv6 socket tells of an IPv4 peer."""
_NETWORK_BYTES: Final = 8
"""The first of an IPv6 address: its /64 network."""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The client's IP address, an IPv4 one always in its own form; empty if it is gone already."""
    address = transport.get_extra_info("peername")
    return address[0].removeprefix(MAPPED) if address else ""


def counted_as(peer: str) -> str | bytes:
    """What the connections of a peer are counted under."""
    if ":" not in peer:
        return peer
    return socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])[:_NETWORK_BYTES]


class Connections:
    """`refused` counts by reason: `worker` (too many in all) or `peer` (too many of one)."""

    def __init__(self) -> None:
        self._open: set[ClientConnection] = set()
        self._by_peer: dict[str | bytes, int] = {}
        self._most = self._most_per_peer = 0
        self.refused = {"worker": 0, "peer": 0}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._possible = max(descriptors // 2, 1)
        """Each may need a second descriptor, for its engine."""
        self.bound(self._possible, self._possible)

    def bound(self, most: int, most_per_peer: int) -> None:
        """From now on; those that are open stay. The process's descriptors bound both, too."""
        self._most = min(most, self._possible)
        self._most_per_peer = min(most_per_peer, max(self._most * 3 // 4, 1))

    def has_room(self, peer: str) -> bool:
        """Whether one more of this peer may be opened; counts the one that may not."""
        if len(self._open) >= self._most:
            self.refused["worker"] += 1
            return False
        if self._by_peer.get(counted_as(peer), 0) >= self._most_per_peer:
            self.refused["peer"] += 1
            return False
        return True

    def add(self, connection: ClientConnection) -> None:
        self._open.add(connection)
        key = counted_as(connection.peer)
        self._by_peer[key] = self._by_peer.get(key, 0) + 1

    def remove(self, connection: ClientConnection) -> None:
        """Idempotent."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        key = counted_as(connection.peer)
        left = self._by_peer[key] - 1
        if left:
            self._by_peer[key] = left
        else:
            del self._by_peer[key]

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._open)


class Bounded(asyncio.Protocol):
    """Stands at a new connection until it is known whether there is room for it; `made` makes its real protocol."""

    def __init__(self, connections: Connections, made: Callable[[], asyncio.BaseProtocol]) -> None:
        self._connections = connections
        self._made = made

    def connection_made(self, transport: Any) -> None:
        if not self._connections.has_room(peer_of(transport)):
            transport.abort()
            return
        protocol = self._made()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
