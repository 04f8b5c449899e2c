"""How many connections a worker has open: bounded in all and for each peer, refused before a byte is read."""

import asyncio
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.client_protocol import ClientConnection
from appliance.gateway.plane.connections import Connections, counted_as
from appliance.gateway.plane.local import METRICS, ask
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import SERVICE, Connection, Gateway, chat, request, running
from tests.plane.test_tls import client_context, write_certificate
from tests.support.ports import free_port
from tests.support.waiting import eventually

ONE, OTHER = "127.0.0.1", "127.0.0.2"


class Peer:
    """A connection of which only the address matters."""

    def __init__(self, peer: str) -> None:
        self.peer = peer


def opened(connections: Connections, peer: str, count: int) -> list[ClientConnection]:
    """As many of `count` as there is room for."""
    made = []
    for _ in range(count):
        if connections.has_room(peer):
            made.append(cast("ClientConnection", Peer(peer)))
            connections.add(made[-1])
    return made


@pytest.fixture
def connections() -> Connections:
    bounded = Connections()
    bounded.bound(100, 10)
    return bounded


def test_a_peer_gets_no_more_than_its_share(connections: Connections) -> None:
    made = opened(connections, ONE, 20)
    assert (len(made), len(connections), connections.refused) == (10, 10, {"worker": 0, "peer": 10})
    assert len(opened(connections, OTHER, 1)) == 1
    connections.remove(made[0])
    connections.remove(made[0])
    assert len(opened(connections, ONE, 5)) == 1


def test_all_together_are_bounded(connections: Connections) -> None:
    for number in range(20):
        opened(connections, f"10.0.0.{number}", 10)
    assert (len(connections), connections.refused) == (100, {"worker": 100, "peer": 0})


def test_one_peer_never_gets_all_of_a_worker() -> None:
    bounded = Connections()
    bounded.bound(100, 1_000_000)
    assert len(opened(bounded, ONE, 200)) == 75
    assert len(opened(bounded, OTHER, 1)) == 1


def test_descriptors_bound_what_is_asked_for() -> None:
    bounded = Connections()
    bounded.bound(1 << 40, 1 << 40)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    assert len(opened(bounded, ONE, most + 1)) == most * 3 // 4


def test_what_is_closed_is_forgotten(connections: Connections) -> None:
    for number in range(1000):
        (made,) = opened(connections, f"10.0.{number // 250}.{number % 250}", 1)
        connections.remove(made)
    assert vars(connections)["_by_peer"] == {}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_ipv6_peer_is_its_network(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a table's column
    assert (counted_as(one) == counted_as(other)) is same


def told(gateway: Gateway, name: str) -> float:
    text = asyncio.run(ask(gateway.home, 0, METRICS)).decode()
    found = re.search(rf"^appliance_gateway_{name} (\S+)", text, re.MULTILINE)
    assert found is not None, name
    return float(found.group(1))


@contextmanager
def at_rest(gateway: Gateway) -> Iterator[None]:
    """Running, with no connection left of those that saw it start."""
    with running(gateway):
        eventually(lambda: told(gateway, 'connections{worker="0"}') == 0)
        yield


def answered(gateway: Gateway, source: str) -> int:
    """The status of a request from an address of the machine."""
    plain = socket.create_connection((ONE, gateway.port), 10, source_address=(source, 0))
    with plain:
        plain.sendall(request(chat()))
        return int(plain.recv(65536).split(b" ")[1])


@pytest.mark.usefixtures("many_descriptors")
def test_ten_thousand_idle_connections_of_one_peer_keep_no_other_out(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    own_gateway.settings = wire.NodeSettings(connections=4000, connections_per_peer=1_000_000)
    (plain,) = own_gateway.listeners
    own_gateway.listeners = [msgspec.structs.replace(plain, head_s=300.0, idle_s=300.0)]
    with at_rest(own_gateway), ExitStack() as stack:
        for _ in range(10_000):
            stack.enter_context(socket.create_connection((ONE, own_gateway.port), 30))
        eventually(lambda: told(own_gateway, 'connections_refused_total{worker="0",reason="peer"}') >= 7000)
        assert told(own_gateway, 'connections{worker="0"}') == 3000
        for _ in range(20):
            assert answered(own_gateway, OTHER) == 200
    assert own_engine.connections > 0


def test_a_refused_connection_is_reset_and_there_is_room_again_when_one_ends(own_gateway: Gateway) -> None:
    own_gateway.settings = wire.NodeSettings(connections=8, connections_per_peer=2)
    with at_rest(own_gateway), ExitStack() as stack:
        first, _ = (stack.enter_context(Connection(own_gateway.port)) for _ in range(2))
        eventually(lambda: told(own_gateway, 'connections{worker="0"}') == 2)
        with Connection(own_gateway.port) as third:
            assert third.at_end()
        assert answered(own_gateway, OTHER) == 200
        first.socket.close()
        eventually(lambda: told(own_gateway, 'connections{worker="0"}') == 1)
        with Connection(own_gateway.port) as fourth:
            fourth.send(request(chat()))
            assert fourth.answer().status == 200


def test_a_refused_connection_takes_no_part_in_tls(own_gateway: Gateway, tmp_path: Path) -> None:
    port, files = free_port(), write_certificate(tmp_path, "localhost")
    own_gateway.listeners.append(wire.Listener("lsn_tls", "gwy_1", ONE, port, SERVICE, files))
    own_gateway.settings = wire.NodeSettings(connections=8, connections_per_peer=1)
    with at_rest(own_gateway), Connection(port, tls=client_context()) as only:
        with pytest.raises(OSError, match=r"reset|EOF"):
            Connection(port, tls=client_context())
        only.send(request(chat()))
        assert only.answer().status == 200
