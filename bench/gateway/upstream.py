"""The engine of the benchmark: `upstream.c`, compiled on first use, on a unix socket and on a TCP port at once."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.gateway.environments import bench_home
from bench.gateway.machine import find, started
from bench.gateway.target import get
from tests.support.ports import free_port
from tests.support.waiting import eventually

SOURCE: Final = Path(__file__).with_name("upstream.c")
MODEL: Final = "bench"
TICK_US: Final = 1000
TICKS_PER_TOKEN: Final = 20
PROMPT_TOKENS: Final = 24
COMPLETION_TOKENS: Final = 12
HELD_TOKENS: Final = 100_000
"""A stream of so many tokens falls silent after its first ones."""


class Stats(msgspec.Struct):
    """`chunks`: events sent, `[DONE]` among them."""

    requests: int
    streams: int
    chunks: int
    connections: int
    malformed: int


@dataclass(frozen=True)
class Upstream:
    socket: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stats(self) -> Stats:
        return msgspec.json.decode(get(self.port, "/stats")[1], type=Stats)


@contextmanager
def running(home: Path, core: int) -> Iterator[Upstream]:
    upstream = Upstream(home / "engine.sock", free_port())
    command = [_compiled(), str(upstream.socket), str(upstream.port), str(TICK_US), str(TICKS_PER_TOKEN)]
    with started(command, core=core, log=home / "upstream.log"):
        eventually(lambda: upstream.stats().malformed == 0, message="the upstream answers", ignoring=(OSError,))
        yield upstream


def _compiled() -> str:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = bench_home() / f"upstream-{digest}"
    if not binary.exists():
        unfinished = binary.with_suffix(".new")
        subprocess.run([find("cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-o", unfinished, SOURCE], check=True)
        unfinished.rename(binary)
    return str(binary)
