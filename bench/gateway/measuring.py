"""What is measured of a peer in one round, and of its memory once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.gateway.load import closed_loop, open_loop
from bench.gateway.machine import Cores
from bench.gateway.memory import per_idle_connection, per_open_stream
from bench.gateway.target import Target, chat_body
from bench.gateway.upstream import HELD_TOKENS, TICK_US, TICKS_PER_TOKEN, Upstream

CONNECTIONS: Final = 32
STREAMS: Final = 200
STREAM_TOKENS: Final = 100
STREAM_SECONDS: Final = STREAM_TOKENS * TICKS_PER_TOKEN * TICK_US / 1e6
RATE: Final = 200.0

Sample = Mapping[str, float]
"""Figures of one peer in one round; the unit ends each name."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share. `seconds` is the length of each."""

    upstream: Upstream
    cores: Cores
    home: Path
    seconds: float

    def body(self, *, stream_tokens: int = 0) -> Path:
        path = self.home / f"body-{stream_tokens}.json"
        path.write_bytes(msgspec.json.encode(chat_body(stream_tokens=stream_tokens)))
        return path


def requests(bench: Bench, target: Target) -> Sample:
    """As many requests as the peer takes. `busy` is how much of its core it had: less than all of it means that
    something else (the load, other work on the machine) held it up.
    """
    before = target.cpu_seconds()
    result = closed_loop(target, bench.body(), core=bench.cores.load, connections=CONNECTIONS, seconds=bench.seconds)
    used = target.cpu_seconds() - before
    return {
        "requests_per_s": result.rate,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "cpu_us_per_request": 1e6 * used / result.requests,
        "busy": used / result.seconds,
    }


def tls_requests(bench: Bench, target: Target) -> Sample:
    return {f"tls_{name}": value for name, value in requests(bench, target.over_tls()).items()}


def streams(bench: Bench, target: Target) -> Sample:
    """CPU time per event of many streams at an engine's pace; the requests that begin them are part of it."""
    before, sent = target.cpu_seconds(), bench.upstream.stats().chunks
    closed = bench.body(stream_tokens=STREAM_TOKENS)
    duration = max(bench.seconds, 2 * STREAM_SECONDS)
    result = closed_loop(target, closed, core=bench.cores.load, connections=STREAMS, seconds=duration)
    used, chunks = target.cpu_seconds() - before, bench.upstream.stats().chunks - sent
    return {"cpu_us_per_chunk": 1e6 * used / chunks, "chunks_per_s": chunks / result.seconds}


def latency(bench: Bench, target: Target) -> Sample:
    result = open_loop(target, bench.body().read_bytes(), rate=RATE, seconds=bench.seconds)
    return {"open_p50_ms": result.p50_ms, "open_p99_ms": result.p99_ms}


def idle_memory(bench: Bench, target: Target, count: int) -> float:
    """Bytes per connection that waits for its next request."""
    return per_idle_connection(target, bench.body().read_bytes(), count)


def stream_memory(bench: Bench, target: Target, count: int) -> float:
    """Bytes per stream that is open and silent."""
    return per_open_stream(target, bench.body(stream_tokens=HELD_TOKENS).read_bytes(), count)


MEASUREMENTS: Final[Mapping[str, Callable[[Bench, Target], Sample]]] = {
    "requests": requests,
    "streams": streams,
    "latency": latency,
    "tls": tls_requests,
}
