"""What a connection may take of time and memory, at either end of a request."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import repeat

import msgspec
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.body import MAX_HELD, SMALL
from tests.plane.conformance.cases import BODY, CHUNKED, GOOD, SIZED, post
from tests.plane.fake_engine import FakeEngine, Gate
from tests.plane.harness import KEY, SERVICE, Connection, Gateway, chat, key_entry, request, running, sha256
from tests.plane.test_streaming import resident_kib
from tests.support.ports import free_port
from tests.support.waiting import eventually

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
HASTY = {"head_s": 0.5, "idle_s": 1.0, "body_grace_s": 0.5, "body_min_rate": 1000}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, module_engine: FakeEngine) -> Iterator[Gateway]:
    """One with little patience, and with small bodies only on a second port."""
    gateway = Gateway(tmp_path_factory.mktemp("home"), free_port(), module_engine.path)
    gateway.listeners[0] = msgspec.structs.replace(gateway.listeners[0], **HASTY)
    gateway.listeners.append(wire.Listener("lsn_small", "gwy_1", "::1", free_port(), SERVICE, max_body_bytes=1000))
    with running(gateway):
        yield gateway


def ended(connection: Connection) -> tuple[int, ...]:
    """The statuses of what is still answered, to the end of the connection."""
    statuses = []
    while not connection.at_end():
        statuses.append(connection.answer().status)
    return tuple(statuses)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"", ()),
        (GOOD, (200,)),
        (GOOD[:20], (408,)),
        (GOOD + GOOD[:20], (200, 408)),
        (GOOD[:-1], (408,)),
        (post(CHUNKED, b"d\r\n" + BODY), (408,)),
        (HEALTH + post(SIZED, b"").replace(KEY.encode(), b"sk-no"), (200, 401)),
    ],
    ids=["nothing", "idle", "head", "second head", "body", "chunked body", "body of a refused request"],
)
def test_whoever_stops_sending_is_ended(
    hasty: Gateway, engine: FakeEngine, sent: bytes, statuses: tuple[int, ...]
) -> None:
    with hasty.connect() as connection:
        connection.send(sent)
        assert ended(connection) == statuses


def drip(connection: Connection, pieces: Iterator[bytes]) -> bytes:
    """Send a piece about every 50 ms until something is answered."""
    connection.socket.settimeout(0.05)
    for piece in pieces:
        connection.send(piece)
        with suppress(TimeoutError):
            return connection.receive()
    connection.socket.settimeout(10)
    return connection.receive()


def test_dripping_head_has_one_deadline(hasty: Gateway) -> None:
    begun = time.monotonic()
    with hasty.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        assert drip(connection, repeat(b"a", 200)).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() < begun + 8


@pytest.mark.parametrize(("piece", "status"), [(b"x" * 10, b"408"), (b"x" * 400, b"400")])
def test_body_below_the_least_rate_is_refused(hasty: Gateway, piece: bytes, status: bytes) -> None:
    """Both take longer than the grace; the one that is fast enough is read to its end (and is no JSON)."""
    with hasty.connect() as connection:
        connection.send(post(b"Content-Length: 8000\r\n", b""))
        assert drip(connection, repeat(piece, 8000 // len(piece))).startswith(b"HTTP/1.1 " + status)


def test_body_over_the_listeners_bound_is_refused_unread(hasty: Gateway, engine: FakeEngine) -> None:
    small = hasty.listeners[1]
    with Connection(small.port, host=small.host) as connection:
        connection.send(request(chat(user="x" * 2000)) + GOOD)
        assert [connection.answer().status for _ in range(2)] == [413, 200]
        connection.send(post(b"Content-Length: 10000000000\r\n", b""))
        assert ended(connection) == (413,)
    assert [seen.body for seen in engine.requests] == [BODY]


def test_peer_is_known_on_every_kind_of_address(own_gateway: Gateway) -> None:
    both = wire.Listener("lsn_both", "gwy_1", "::", free_port(), SERVICE)
    own_gateway.listeners.append(both)
    own_gateway.keys = {
        sha256("sk-4"): key_entry(networks=["127.0.0.0/8"]),
        sha256("sk-6"): key_entry(networks=["::1/128"]),
    }
    with running(own_gateway):
        statuses = {}
        for host in ("127.0.0.1", "::1"):
            for key in ("sk-4", "sk-6"):
                with Connection(both.port, host=host) as connection:
                    connection.send(request(chat(), key=key))
                    statuses[host, key] = connection.answer().status
    assert [statuses["127.0.0.1", "sk-4"], statuses["::1", "sk-6"]] == [200, 200]
    assert 200 not in (statuses["127.0.0.1", "sk-6"], statuses["::1", "sk-4"])


def test_bodies_are_bounded_all_together(own_gateway: Gateway) -> None:
    size = 32 * MIB
    fitting = MAX_HELD * 7 // 8 // size
    with running(own_gateway), ExitStack() as stack:
        for _ in range(fitting):
            connection = stack.enter_context(own_gateway.connect())
            connection.send(post(b"Content-Length: %d\r\n" % size, b"x" * (size - 1)))
        pid = own_gateway.worker_pid()
        probe = request(b"x" * (SMALL + 1))  # the least that has no room where all of the others' is there
        eventually(lambda: own_gateway.ask(probe).status == 503, ignoring=(OSError, EOFError), message="all is held")
        with own_gateway.connect() as connection:
            connection.send(post(b"Content-Length: %d\r\n" % size, b""))
            answer = connection.answer()
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        with own_gateway.connect() as connection:
            connection.send(post(CHUNKED, b"%x\r\n" % size + b"x" * MIB))
            assert connection.answer().status == 503
            assert connection.at_end()
        assert own_gateway.ask(GOOD).status == 200
        assert resident_kib(pid) < 2 * MAX_HELD // 1024
        stack.close()
        large = request(b"x" * (size - 10))
        eventually(lambda: own_gateway.ask(large).status == 400, message="the memory is free again")


def test_reader_of_no_answers_is_not_read_from(own_gateway: Gateway) -> None:
    with running(own_gateway), own_gateway.connect(timeout=1.0) as connection:
        sent = 0
        with suppress(TimeoutError):
            while sent < 400 * MIB:
                connection.send(HEALTH * 1000)
                sent += len(HEALTH) * 1000
        assert sent < 400 * MIB
        assert resident_kib(own_gateway.worker_pid()) < 70 * 1024
        connection.socket.settimeout(10)
        for _ in range(sent // len(HEALTH)):
            assert connection.answer().status == 200


def test_first_request_of_a_connection_is_answered_while_draining(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    gate = own_engine.script = Gate()
    with running(own_gateway), own_gateway.connect() as streaming, own_gateway.connect() as idle:
        idle.send(HEALTH)
        assert idle.answer().status == 200
        with own_gateway.connect() as fresh:
            streaming.send(request(chat(stream=True)))
            streaming.read_until(b"first")
            assert own_gateway.process is not None
            own_gateway.process.send_signal(signal.SIGTERM)
            assert idle.at_end()
            fresh.send(HEALTH)
            answer = fresh.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
            gate.open()
            streaming.read_until(b"0\r\n\r\n")
        own_gateway.process.wait(10)
        own_gateway.process = None
