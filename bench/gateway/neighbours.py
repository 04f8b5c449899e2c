"""How much clients that misbehave lengthen what a well-behaved one waits for.

    python -m bench.gateway.neighbours [--rounds 3] [--seconds 5] [--json]

A client asks this gateway 200 times a second over connections that it keeps, alone and beside each kind of bad
neighbour in turn; the ratios of its p50 and p99 to those it had alone in the same round are told, as medians. The
neighbours are in a process of their own, on the core of the upstream and the load and behind these, so that they take
no processor from the gateway or the client but by what they send.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from bench.gateway import upstream
from bench.gateway.certificate import write_certificate
from bench.gateway.load import Open, connected, paced
from bench.gateway.machine import two_cores
from bench.gateway.memory import raise_descriptor_limit
from bench.gateway.peers import ours
from bench.gateway.target import PATH, Features, Target, chat_body

RATE: Final = 200.0
_WARM_S: Final = 0.5
IDLE: Final = 5_000
MANY: Final = 200
_PIECE: Final = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
_PIECES: Final = 10 * 1024**3 // 65_536


def idle(target: Target) -> Iterator[None]:
    """5,000 connections that had an answer and ask for nothing more."""
    request = target.request(msgspec.json.encode(chat_body()))
    held = []
    for _ in range(IDLE):
        connection = target.connect()
        connection.sendall(request)
        connection.recv(65_536)
        held.append(connection)
    while True:
        yield
        time.sleep(0.1)


def slow_senders(target: Target) -> Iterator[None]:
    """200 that send a body byte by byte, five bytes a second, and come back when they are refused."""
    head = target.request(b"x" * 100_000)[:-100_000]

    def begin() -> socket.socket:
        connection = target.connect()
        connection.sendall(head)
        return connection

    yield from _each(begin, lambda connection: connection.sendall(b"x"), pause_s=0.2)


def slow_readers(target: Target) -> Iterator[None]:
    """200 that ask for a stream and do not read it, with a receive buffer that holds none of it."""
    request = target.request(msgspec.json.encode(chat_body(stream_tokens=100)))

    def begin() -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", target.port))
        connection.sendall(request)
        return connection

    yield from _each(begin, lambda _: None, pause_s=0.5)


def ten_gigabytes(target: Target) -> Iterator[None]:
    """One that sends a body of 10 GB in chunks as fast as it is taken, and begins anew when it is refused."""
    head = b"POST %b HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        with suppress(ConnectionError), target.connect() as connection:
            connection.sendall(head % (PATH.encode(), target.key.encode()))
            for _ in range(_PIECES):
                connection.sendall(_PIECE)
                yield
        yield


def _each(
    begin: Callable[[], socket.socket], step: Callable[[socket.socket], None], *, pause_s: float
) -> Iterator[None]:
    """`step` for each of 200 connections again and again; one that the gateway ended is begun anew."""
    connections = [begin() for _ in range(MANY)]
    while True:
        for number, connection in enumerate(connections):
            try:
                step(connection)
                if _is_ended(connection):
                    raise ConnectionResetError
            except ConnectionError:
                connection.close()
                connections[number] = begin()
        yield
        time.sleep(pause_s)


def _is_ended(connection: socket.socket) -> bool:
    """Whether the gateway has closed it behind everything that could be read."""
    waiting = select.poll()
    waiting.register(connection, select.POLLRDHUP)
    return bool(waiting.poll(0))


KINDS: Final = {kind.__name__: kind for kind in (idle, slow_senders, slow_readers, ten_gigabytes)}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.be:
        return _be(options.be, options.port, options.key)
    cores = two_cores()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="bench-neighbours-", ignore_cleanup_errors=True) as home:
        folder = Path(home)
        with (
            upstream.running(folder, cores.load) as engine,
            ours.appliance(folder / "gateway", engine, write_certificate(folder), cores.peer) as target,
        ):
            rounds = [_round(target, options.seconds) for _ in range(options.rounds)]
    if options.json:
        print(msgspec.json.encode(rounds).decode())
        return 0
    print(f"load {os.getloadavg()[0]:.1f} at the end; medians of {options.rounds} rounds, {options.seconds:g} s each")
    print(f"{'':16}  p50 ms  p99 ms  p50 x alone  p99 x alone")
    for kind in ("alone", *KINDS):
        p50, p99 = (statistics.median(getattr(each[kind], name) for each in rounds) for name in ("p50_ms", "p99_ms"))
        by50, by99 = (
            statistics.median(getattr(each[kind], name) / getattr(each["alone"], name) for each in rounds)
            for name in ("p50_ms", "p99_ms")
        )
        print(f"{kind.replace('_', ' '):16}{p50:8.2f}{p99:8.2f}{by50:13.2f}{by99:13.2f}")
    return 0


def _round(target: Target, seconds: float) -> dict[str, Open]:
    """The client's connections are open and used before a neighbour comes, and stay so."""
    body = msgspec.json.encode(chat_body())
    with connected(target) as clients:
        paced(target, clients, body, rate=RATE, seconds=_WARM_S)
        took = {"alone": paced(target, clients, body, rate=RATE, seconds=seconds)}
        for kind in KINDS:
            with beside(kind, target):
                took[kind] = paced(target, clients, body, rate=RATE, seconds=seconds)
    return took


@contextmanager
def beside(kind: str, target: Target) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.gateway.neighbours", "--be", kind]
    command += ["--port", str(target.port), "--key", target.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{kind} did not begin")
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{kind} ended before it was told to")
        finally:
            process.send_signal(signal.SIGTERM)


def _be(kind: str, port: int, key: str) -> int:
    os.nice(19)
    raise_descriptor_limit()
    going = KINDS[kind](Target(kind, port, 0, Features(), key))
    next(going)
    print("ready", flush=True)
    for _ in going:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway.neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="each measurement takes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print all samples, not their medians")
    parser.add_argument("--be", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--key", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
