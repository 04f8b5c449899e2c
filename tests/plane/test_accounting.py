"""What is billed against the engines' own books (invariant I4), and that nothing is left over afterwards (I11)."""

import asyncio
import os
import random
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.plane.fake_engine import DONE, Answer, EngineRequest, FakeEngine, chunk_event, final_event
from tests.plane.harness import SERVICE, Gateway, chat, request, running, service
from tests.support.waiting import eventually

PROMPT = 9


class Books:
    """An engine that keeps its own: tokens generated, by the id that the gateway gave the request."""

    def __init__(self, tokens: int) -> None:
        self.generated: dict[str, int] = {}
        self._tokens = tokens

    async def __call__(self, seen: EngineRequest, answer: Answer) -> None:
        request_id = seen.field("x-request-id")
        assert request_id is not None
        self.generated[request_id] = 0
        await answer.stream_head()
        for number in range(1, self._tokens + 1):
            with suppress(TimeoutError):
                await asyncio.wait_for(seen.gone(), 0.002)  # a token's time
            if seen.gone.is_set():
                return
            self.generated[request_id] = number
            await answer.chunk(chunk_event(f"t{number} ", PROMPT, number))
        await answer.chunk(final_event(PROMPT, self._tokens))
        await answer.chunk(DONE)
        await answer.end()


def stream_and_leave(gateway: Gateway, after: int) -> None:
    """Read `after` tokens of a stream, then go."""
    with gateway.connect() as connection, suppress(EOFError):
        connection.send(request(chat(stream=True)))
        connection.read_until(b"t%d " % after)


def test_bill_and_tail_hold_what_the_engine_generated(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    books = own_engine.script = Books(tokens=60)
    chance = random.Random(7)
    with running(own_gateway) as gateway:
        descriptors = open_descriptors(gateway.worker_pid())
        for round_ in range(4):
            leavers = [
                threading.Thread(target=stream_and_leave, args=(gateway, chance.randint(1, 60))) for _ in range(10)
            ]
            for leaver in leavers:
                leaver.start()
            if round_ == 2:
                eventually(lambda: gateway.statuses()[0].in_flight_total >= 5)
                os.kill(gateway.worker_pid(), signal.SIGKILL)
            for leaver in leavers:
                leaver.join(20)
        eventually(lambda: gateway.statuses()[0].in_flight_total == 0)
        eventually(lambda: books.generated.keys() <= set(ids(gateway)), message="each request has its record")
        eventually(lambda: open_descriptors(gateway.worker_pid()) <= descriptors + 2, message="descriptors are back")

    outcomes = set()
    for record in gateway.records().values():
        # A request on its way to the engine when the worker was killed may never have been read.
        generated = books.generated.get(record.record_id.partition(".")[0], 0)
        assert record.completion_tokens <= generated <= record.completion_tokens + record.tail_tokens
        assert record.prompt_tokens == PROMPT or record.estimated
        outcomes.add(record.outcome)
    assert {"client_cut", "worker_lost"} <= outcomes
    assert len(set(ids(gateway))) == len(gateway.records()) <= 40


def ids(gateway: Gateway) -> list[str]:
    return [record_id.partition(".")[0] for record_id in gateway.records()]


def open_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def engine_that_closes_on_the_second_request(path: Path) -> Iterator[list[str]]:
    """It answers once over a connection and closes when more comes, without reading it: what an engine does whose
    keep-alive limit ends at the wrong moment.
    """
    events: list[str] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"}]}"):
                    data += connection.recv(65536)
                events.append("answered")
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                select.select([connection], [], [], 10)
                events.append("closed")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield events
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(15)


def test_request_that_a_closing_engine_never_read_is_sent_again(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "closing.sock"
    with engine_that_closes_on_the_second_request(path) as events:
        gateway.services = {SERVICE: service(path)}
        gateway.publish()
        with gateway.connect() as connection:
            for _ in range(3):
                connection.send(request(chat()))
                assert connection.answer().status == 200
        gateway.services = {}
        gateway.publish()
    assert events.count("answered") == 3
