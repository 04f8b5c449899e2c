"""Workers killed mid-stream under load; then the independent checker looks at bills, streams and what is left."""

import os
import random
import signal
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tests.checker import traffic
from tests.checker.traffic import Generated
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import Gateway, chat, request, running
from tests.plane.test_accounting import PROMPT, Books
from tests.support.waiting import eventually

KILLS: Final = 20
CLIENTS: Final = 8
TOKENS: Final = 40


class Streams(threading.Thread):
    """Asks for one stream after the other; some it leaves before the end."""

    def __init__(self, gateway: Gateway, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self._gateway, self._chance, self._until = gateway, random.Random(seed), stop
        self.received: list[tuple[bytes, bool]] = []
        """Bodies, and whether their framing ended."""

    def run(self) -> None:
        while not self._until.is_set():
            with suppress(OSError, EOFError), self._gateway.connect(20) as connection:
                connection.send(request(chat(stream=True)))
                if self._chance.random() < 0.3:
                    connection.read_until(b"t%d " % self._chance.randint(1, TOKENS))
                    continue
                answer = connection.answer()
                if answer.status == 200:
                    self.received.append((answer.body, answer.complete))

    def wholes(self) -> int:
        return sum(is_whole for _, is_whole in self.received)


def test_killed_again_and_again_the_books_agree(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    books = own_engine.script = Books(tokens=TOKENS)
    with running(own_gateway) as gateway:
        status = gateway.home / "gateway" / "status" / "worker-0"
        eventually(lambda: is_idle(gateway, 0), message="nobody is connected yet")
        before = traffic.rest_of(status)
        stop = threading.Event()
        clients = [Streams(gateway, seed, stop) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            killed = 0
            for _ in range(KILLS):
                killed = eventually(partial(busy_worker, gateway, killed), 30, ignoring=(OSError, ValueError))
                os.kill(killed, signal.SIGKILL)
            eventually(lambda: sum(client.wholes() for client in clients) >= CLIENTS, 30, message="streams end well")
        finally:
            stop.set()
            for client in clients:
                client.join(30)
        eventually(lambda: is_idle(gateway, killed), 20, ignoring=(OSError, ValueError), message="all is over")
        spool = gateway.home / "gateway" / "spool"
        eventually(lambda: billed(spool) >= books.generated.keys(), 20, message="each request has its record")
        records = traffic.usage_records(spool)
        eventually(
            lambda: not list(traffic.at_rest(before, traffic.rest_of(status), kept=CLIENTS)),
            20,
            message="nothing is left over",
        )
    engine = {request_id: Generated(PROMPT, tokens) for request_id, tokens in books.generated.items()}
    received = [each for client in clients for each in client.received]
    ends = [
        violation
        for number, (body, is_whole) in enumerate(received)
        for violation in traffic.stream_end(str(number), body, is_whole=is_whole)
    ]
    # A request that was on its way to the engine when the worker was killed may never have been read.
    known = [record for record in records if record["record_id"].partition(".")[0] in engine]
    assert [*traffic.bills(known, engine), *ends] == []
    assert sum(record["outcome"] == "worker_lost" for record in records) >= KILLS


def busy_worker(gateway: Gateway, but: int) -> int:
    """The pid of the worker once it has streams to lose, 0 before; `but` is one that was killed."""
    (status,) = gateway.statuses()
    return status.pid if status.pid != but and status.in_flight_total >= CLIENTS // 2 else 0


def is_idle(gateway: Gateway, but: int) -> bool:
    (status,) = gateway.statuses()
    return status.pid != but and status.connections == status.in_flight_total == 0


def billed(spool: Path) -> set[str]:
    return {record["record_id"].partition(".")[0] for record in traffic.usage_records(spool)}
