"""Which ports a gateway may have, and whether a port can be bound on this machine now."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol

from appliance.gateway.errors import PortRangeRefused
from appliance.kernel.settings import Settings

MOST_PORTS: Final = 16
EPHEMERAL: Final = range(32768, 61000)
"""Linux hands these to outgoing connections, so one of them may be taken at any moment."""

_CAP_NET_BIND_SERVICE: Final = 10


@dataclass(frozen=True, slots=True)
class PortRules:
    """`node`: the name of this machine. `lowest`: the first port that may be bound. `reserved`: ports of the
    appliance's own, with what they are for.
    """

    node: str
    lowest: int
    reserved: Mapping[int, str]

    def check(self, ports: range) -> None:
        """Raise `PortRangeRefused` for a range that no gateway may have."""
        said = f"ports {ports.start} to {ports.stop - 1}"
        if not 1 <= len(ports) <= MOST_PORTS:
            raise PortRangeRefused(f"a gateway has 1 to {MOST_PORTS} ports, not {len(ports)}")
        if ports.start < self.lowest or ports.stop > 65536:
            raise PortRangeRefused(f"{said}: the appliance may bind {self.lowest} to 65535 here")
        if ports.start < EPHEMERAL.stop and ports.stop > EPHEMERAL.start:
            raise PortRangeRefused(
                f"{said}: {EPHEMERAL.start} to {EPHEMERAL.stop - 1} are used by outgoing connections; stay outside"
            )
        for port, purpose in self.reserved.items():
            if port in ports:
                raise PortRangeRefused(f"{said}: {port} is {purpose}; choose a range without it")


def rules(settings: Settings, node: str) -> PortRules:
    """The rules on this machine, which is called `node`; a port that is left to chance (0) reserves nothing."""
    own = {
        settings.admin_port: "the administrators' port",
        settings.tenant_port: "the tenants' port",
        settings.metrics_port: "the metrics port",
    }
    return PortRules(node, lowest_port(), {port: purpose for port, purpose in own.items() if port})


def lowest_port() -> int:
    """The first port that this process may bind: capabilities(7), ip(7) `ip_unprivileged_port_start`."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if effective >> _CAP_NET_BIND_SERVICE & 1:
        return 1
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return max(int(start.read_text(encoding="ascii")), 1) if start.exists() else 1024


class PortUse(IntEnum):
    """Ordered by how good a choice the port is.

    `shared`: somebody listens who would let us listen too: our own supervisor, which has not yet heard that a
    listener is gone, or a stranger of the same user. The supervisor tells the two apart and has the last word.
    """

    free = 0
    shared = 1
    held = 2


class PortProbe(Protocol):
    """Asks the machine; takes some microseconds and never waits."""

    def __call__(self, host: str, port: int) -> PortUse: ...


def probe(host: str, port: int) -> PortUse:
    """How the port is used at `host` (an address). For a wildcard both families are asked, since a client that
    resolves the machine's name may come by either.
    """
    return max(_use(family, address, port) for family, address in _addresses(host))


def _addresses(host: str) -> Iterator[tuple[socket.AddressFamily, str]]:
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        yield socket.AF_INET, "0.0.0.0"  # noqa: S104 - asked about, not listened on
        yield socket.AF_INET6, "::"
    else:
        yield (socket.AF_INET if address.version == 4 else socket.AF_INET6), host


def _use(family: socket.AddressFamily, address: str, port: int) -> PortUse:
    if _can_bind(family, address, port):
        return PortUse.free
    return PortUse.shared if _can_bind(family, address, port, socket.SO_REUSEPORT) else PortUse.held


def _can_bind(family: socket.AddressFamily, address: str, port: int, *options: int) -> bool:
    """Whether binding meets nobody. Any other trouble (no IPv6, no such address) is the supervisor's to report."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            if family == socket.AF_INET6:
                attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option in (socket.SO_REUSEADDR, *options):
                attempt.setsockopt(socket.SOL_SOCKET, option, 1)
            attempt.bind((address, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
