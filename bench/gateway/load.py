"""Load: `wrk` for as many requests as a peer can take, and a small open-loop client for latency at a given rate."""

from __future__ import annotations

import gc
import select
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench.gateway.machine import find
from bench.gateway.target import Target

SCRIPT: Final = Path(__file__).with_name("load.lua")
_ANSWER_S: Final = 10.0


class Closed(msgspec.Struct):
    """What wrk saw: each of its connections asks again as soon as it is answered."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int
    refused: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Open(NamedTuple):
    """Milliseconds from the moment at which a request was due, whether or not the ones before it were answered."""

    p50_ms: float
    p99_ms: float


def closed_loop(target: Target, body: Path, *, core: int, connections: int, seconds: float) -> Closed:
    """`OSError` if anything but a good answer came."""
    command = ["taskset", "--cpu-list", str(core), find("wrk"), "--threads", "1", "--connections", str(connections)]
    command += [
        "--duration",
        f"{max(round(seconds), 1)}s",
        "--timeout",
        "30s",
        "--script",
        str(SCRIPT),
        target.chat_url,
    ]
    done = subprocess.run([*command, "--", str(body), target.key], check=True, capture_output=True, text=True)
    result = msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Closed)
    if result.failed or result.refused or not result.requests:
        raise OSError(f"{target.name}: {result.failed} failed and {result.refused} refused of {result.requests}")
    return result


def open_loop(target: Target, body: bytes, *, rate: float, seconds: float, connections: int = 16) -> Open:
    """Requests at fixed times over kept-alive connections. `OSError` if one fails."""
    with connected(target, connections) as clients:
        return paced(target, clients, body, rate=rate, seconds=seconds)


@contextmanager
def connected(target: Target, connections: int = 16) -> Iterator[list[Client]]:
    """Clients that have connected and not asked yet."""
    clients = [Client(target) for _ in range(connections)]
    try:
        yield clients
    finally:
        for client in clients:
            client.connection.close()


def paced(target: Target, clients: list[Client], body: bytes, *, rate: float, seconds: float) -> Open:
    """As `open_loop`, over these connections; they may be used again."""
    gc.collect()
    gc.disable()
    try:
        took = _paced(list(clients), target.request(body), interval=1.0 / rate, count=round(rate * seconds))
    finally:
        gc.enable()
    cuts = statistics.quantiles(took, n=100)
    return Open(1000 * cuts[49], 1000 * cuts[98])


class Client:
    def __init__(self, target: Target) -> None:
        self.connection = target.connect()
        self.due = 0.0
        self.received = b""

    def read(self) -> bool:
        """Whether the answer is whole now."""
        self.received += self.connection.recv(65536)
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(f"refused: {self.received[:300]!r}")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return len(body) >= int(lengths[0].partition(b":")[2]) if lengths else body.endswith(b"0\r\n\r\n")


def _paced(clients: list[Client], request: bytes, *, interval: float, count: int) -> list[float]:
    idle, busy = clients, dict[socket.socket, Client]()
    took: list[float] = []
    begin = time.perf_counter() + interval
    sent = 0
    while len(took) < count:
        due = begin + sent * interval
        now = time.perf_counter()
        if sent < count and now >= due and idle:
            client = idle.pop(0)
            client.due, client.received = due, b""
            client.connection.sendall(request)
            busy[client.connection] = client
            sent += 1
            continue
        pause = max(due - now, 0.0) if sent < count and idle else _ANSWER_S
        ready, _, _ = select.select(list(busy), [], [], pause)
        if not ready and pause == _ANSWER_S:
            raise OSError(f"no answer within {_ANSWER_S:g} s")
        for connection in ready:
            client = busy[connection]
            if client.read():
                took.append(time.perf_counter() - client.due)
                idle.append(busy.pop(connection))
    return took
