"""What one connection takes of one turn of the event loop, counted: reads, requests, chunks, memory given back."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from appliance.gateway.plane import paths, wire
from appliance.gateway.plane.body import CHUNKS_A_TURN, BodyMemory, BodyReader
from appliance.gateway.plane.chunked import encode_chunk
from appliance.gateway.plane.client_protocol import BULK, STEPS_A_TURN, ClientConnection
from appliance.gateway.plane.context import NEWCOMERS, Context
from appliance.gateway.plane.head import parse_request
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.turns import Turns
from appliance.gateway.plane.worker import Worker
from tests.plane.harness import KEY, SERVICE, TENANT, key_entry, service, sha256

MIB = 1024 * 1024
LISTENER = wire.Listener("lsn_1", "gwy_1", "127.0.0.1", 1, SERVICE)
UPLOAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    % KEY.encode()
)
ASKED = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Transport:
    """A client of which everything has arrived: it gives what there is as often as it is read."""

    def __init__(self) -> None:
        self.reading, self.closing = True, False
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name == "peername" else default

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closing = True

    abort = close

    @property
    def answers(self) -> int:
        return b"".join(self.written).count(b"HTTP/1.1 ")


class Bench:
    """The parts of a worker that does not run, on a loop that is stepped turn by turn."""

    def __init__(self, home: Path, loop: asyncio.AbstractEventLoop) -> None:
        paths.prepare(home)
        shards: dict[str, Any] = {
            wire.LISTENERS_SHARD: wire.ListenersShard([LISTENER], 1),
            wire.TENANTS_SHARD: wire.TenantsShard({TENANT: wire.TenantEntry("acme")}),
            wire.service_shard(SERVICE): service(home / "engine.sock"),
        }
        keys: dict[str, dict[str, wire.KeyEntry]] = {f"keys-{n:02d}": {} for n in range(wire.KEY_BUCKETS)}
        keys[wire.key_shard(sha256(KEY))][sha256(KEY)] = key_entry()
        wire.SnapshotWriter(wire.snapshot_directory(home)).publish(
            shards | {name: wire.KeysShard(entries) for name, entries in keys.items()}
        )
        worker = Worker(home, 0, loop, Log(process="test"))
        worker._take_snapshot()
        self.context: Context = worker._context

    def connect(self) -> tuple[ClientConnection, Transport]:
        transport = Transport()
        connection = ClientConnection(self.context, LISTENER)
        connection.connection_made(cast("asyncio.BaseTransport", transport))
        return connection, transport


def stepped(home: Path, test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await test(Bench(home, asyncio.get_running_loop()))

    uvloop.run(run())


async def turn() -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


def test_one_read_of_a_large_body_in_a_turn_whoever_sends(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        senders = [bench.connect() for _ in range(20)]
        piece = encode_chunk(b"x" * BULK)
        for connection, transport in senders:
            connection.data_received(UPLOAD)
            while not transport.reading:  # it is new, and waits for its turn as such
                await turn()
        for connection, transport in senders:
            connection.data_received(piece)
            assert not transport.reading, "its next read comes in another turn"
        order: list[int] = []
        while len(order) < 3 * len(senders):
            await turn()
            reading = [number for number, (_, transport) in enumerate(senders) if transport.reading]
            assert len(reading) <= 1
            for number in reading:
                connection, transport = senders[number]
                connection.data_received(piece)
                assert not transport.reading
                order.append(number)
        assert sorted(order[:20]) == sorted(order[20:40]) == sorted(order[40:]) == list(range(20)), "each in its turn"

    stepped(tmp_path, test)


def test_small_request_is_read_on_at_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        for count in range(1, 10):
            connection.data_received(ASKED)
            assert (transport.answers, transport.reading) == (count, True)

    stepped(tmp_path, test)


def test_what_the_gateway_answers_itself_is_bounded_in_a_turn(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(ASKED * 1000)
        before = 0
        while transport.answers < 1000:
            assert 0 < transport.answers - before <= STEPS_A_TURN
            assert not transport.reading
            before = transport.answers
            await turn()
        assert transport.reading

    stepped(tmp_path, test)


def test_new_connections_are_begun_a_few_in_a_turn_and_do_not_hold_up_others(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        old, answered = bench.connect()
        old.data_received(ASKED)
        await turn()
        newcomers = [bench.connect() for _ in range(100)]
        for connection, _ in newcomers:
            connection.data_received(ASKED)
        old.data_received(ASKED)
        assert answered.answers == 2
        begun = 0
        while begun < len(newcomers):
            now = sum(transport.answers for _, transport in newcomers)
            assert 0 < now - begun <= NEWCOMERS
            begun = now
            await turn()
        assert all(transport.reading for _, transport in newcomers)

    stepped(tmp_path, test)


def test_client_that_leaves_while_it_waits_for_a_turn_is_forgotten(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        newcomers = [bench.connect() for _ in range(NEWCOMERS + 1)]
        for connection, _ in newcomers:
            connection.data_received(ASKED)
        for connection, _ in newcomers:
            connection.connection_lost(None)
        await turn()
        await turn()
        assert (len(bench.context.newcomers), len(bench.context.connections)) == (0, 0)
        assert newcomers[-1][1].answers == 0

    stepped(tmp_path, test)


def test_tiny_chunks_are_decoded_over_many_turns(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(UPLOAD + encode_chunk(b"x") * 10_000)
        steps = [bench.context.bodies.held]
        while steps[-1] < 10_000:
            assert not transport.reading
            await turn()
            steps.append(bench.context.bodies.held)
        assert max(after - before for before, after in pairwise([0, *steps])) <= CHUNKS_A_TURN
        assert transport.reading

    stepped(tmp_path, test)


def test_memory_of_a_large_body_is_given_back_over_many_turns() -> None:
    async def test() -> None:
        memory, turns = BodyMemory(), Turns(asyncio.get_running_loop(), 1)
        head = parse_request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))
        body = BodyReader(head, 16 * MIB, LISTENER, memory, started=0.0)
        for _ in range(63):
            body.feed(b"x" * (MIB // 4))
        body.drop(turns)
        held = [memory.held]
        while held[-1]:
            await turn()
            held.append(memory.held)
        assert len(held) == 16
        assert max(before - after for before, after in pairwise(held)) <= MIB

    uvloop.run(test())


def test_steps_go_in_their_order_and_one_that_fails_holds_up_none() -> None:
    done: list[int] = []
    failures: list[object] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, problem: failures.append(problem["exception"]))
        turns = Turns(loop, 2)
        assert [turns.take() for _ in range(3)] == [True, True, False]

        def step(number: int) -> None:
            done.append(number)
            if number == 2:
                raise ZeroDivisionError

        for number in range(6):
            turns.later(lambda number=number: step(number))  # type: ignore[misc] # mypy cannot infer it
        seen = []
        while len(turns):
            await turn()
            seen.append(len(done))
        assert done == [0, 1, 2, 3, 4, 5]
        assert max(after - before for before, after in pairwise([0, *seen])) <= 2
        assert turns.take()

    uvloop.run(test())
    assert [type(each) for each in failures] == [ZeroDivisionError]


@pytest.mark.parametrize("size", [1, BULK - 1])
def test_read_that_brings_little_is_followed_by_the_next_at_once(tmp_path: Path, size: int) -> None:
    async def test(bench: Bench) -> None:
        connection, transport = bench.connect()
        connection.data_received(UPLOAD)
        connection.data_received(encode_chunk(b"x" * 2 * BULK)[:size])
        assert transport.reading

    stepped(tmp_path, test)
