"""The rules of port ranges, and what a port's probe sees."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appliance.gateway.errors import PortRangeRefused
from appliance.gateway.ports import PortRules, PortUse, probe
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("ports", "complaint"),
    [
        (range(9000, 9017), "1 to 16 ports, not 17"),
        (range(9000, 9000), "not 0"),
        (range(80, 90), "may bind 1024"),
        (range(65530, 65540), "may bind 1024 to 65535"),
        (range(32760, 32769), "32768 to 60999"),
        (range(60999, 61001), "32768 to 60999"),
        (range(40000, 40016), "outgoing"),
        (range(4420, 4436), "4430 is the administrators' port"),
    ],
)
def test_range_is_refused_with_the_reason(rules: PortRules, ports: range, complaint: str) -> None:
    with pytest.raises(PortRangeRefused, match=complaint):
        rules.check(ports)


@pytest.mark.parametrize("ports", [range(9000, 9016), range(32767, 32768), range(61000, 61016), range(65535, 65536)])
def test_range_beside_the_borders_is_taken(rules: PortRules, ports: range) -> None:
    rules.check(ports)


@contextmanager
def listening(family: socket.AddressFamily, host: str, port: int, *options: int) -> Iterator[None]:
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_REUSEADDR, *options):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind((host, port))
        holder.listen(1)
        yield


def test_free_port_is_free() -> None:
    assert probe("0.0.0.0", free_port()) is PortUse.free
    assert probe("127.0.0.1", free_port()) is PortUse.free


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")],
)
def test_stranger_on_either_family_holds_the_port(family: socket.AddressFamily, host: str) -> None:
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("a machine without IPv6")
    port = free_port()
    with listening(family, host, port):
        assert probe("0.0.0.0", port) is PortUse.held


def test_stranger_on_another_address_does_not_matter() -> None:
    port = free_port()
    with listening(socket.AF_INET, "127.0.0.2", port):
        assert probe("127.0.0.1", port) is PortUse.free


def test_listener_that_shares_is_told_apart() -> None:
    port = free_port()
    with listening(socket.AF_INET, "0.0.0.0", port, socket.SO_REUSEPORT):
        assert probe("0.0.0.0", port) is PortUse.shared
