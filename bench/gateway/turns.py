"""How long the turns of a worker's event loop are beside bad neighbours, by its thread's own processor time.

    python -m bench.gateway.turns [--seconds 4] [--json]

Beside each kind of neighbour in turn a client asks 200 times a second, as in `bench.gateway.neighbours`. Nobody is
served while a turn lasts, so the longest one bounds what a neighbour can cost the others; other work on the machine,
which moves the latencies there, does not move it. The worker's loop is watched by a callback in each turn, which keeps
it from sleeping: latencies are not told.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.paths import pid_path
from bench.gateway import upstream
from bench.gateway.certificate import write_certificate
from bench.gateway.load import connected, paced
from bench.gateway.machine import two_cores
from bench.gateway.neighbours import KINDS, RATE, beside
from bench.gateway.peers import ours
from bench.gateway.target import Target, chat_body
from tests.support.waiting import eventually

_FILE: Final = "BENCH_TURNS"
_WATCH: Final = '''
"""Imported by each Python process as it starts; only a gateway worker is watched."""
import asyncio, json, os, signal, sys, time

def watch(loop, path):
    took, last = [], time.thread_time()
    def turn():
        nonlocal last
        now = time.thread_time()
        if now - last > 0.0005:
            took.append(now - last)
        last = time.thread_time()
        loop.call_soon(turn)
    def tell():
        nonlocal last
        with open(path + ".new", "w") as file:
            json.dump(took, file)
        os.replace(path + ".new", path)
        took.clear()
        last = time.thread_time()
    loop.call_soon(turn)
    loop.add_signal_handler(signal.SIGUSR1, tell)

if os.environ.get("BENCH_TURNS") and "appliance.gateway.plane.worker" in sys.orig_argv:
    import uvloop
    run = uvloop.run
    def watched(main, **options):
        async def within():
            watch(asyncio.get_running_loop(), os.environ["BENCH_TURNS"])
            await main
        return run(within(), **options)
    uvloop.run = watched
'''


class Turns(msgspec.Struct):
    """Of those above 0.5 ms: how many were longer than a millisecond, and the longest, in milliseconds."""

    over_1_ms: int
    median_of_these_ms: float
    longest_ms: float


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    cores = two_cores()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="bench-turns-", ignore_cleanup_errors=True) as home:
        folder = Path(home)
        with (
            _watching(folder),
            upstream.running(folder, cores.load) as engine,
            ours.appliance(folder / "gateway", engine, write_certificate(folder), cores.peer) as target,
        ):
            took = _measure(target, folder, options.seconds)
    if options.json:
        print(msgspec.json.encode(took).decode())
        return 0
    print(f"load {os.getloadavg()[0]:.1f} at the end; {options.seconds:g} s each")
    print(f"{'':16}  turns over 1 ms  their median ms  longest ms")
    for kind, turns in took.items():
        name = kind.replace("_", " ")
        print(f"{name:16}{turns.over_1_ms:17}{turns.median_of_these_ms:17.2f}{turns.longest_ms:12.2f}")
    return 0


@contextmanager
def _watching(folder: Path) -> Iterator[None]:
    (folder / "sitecustomize.py").write_text(_WATCH)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{before}" if before else f"{folder}{os.pathsep}{Path.cwd()}"
    os.environ[_FILE] = str(folder / "turns")
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = before
        del os.environ[_FILE]


def _measure(target: Target, folder: Path, seconds: float) -> dict[str, Turns]:
    body = msgspec.json.encode(chat_body())
    took: dict[str, Turns] = {}
    with connected(target) as clients:
        paced(target, clients, body, rate=RATE, seconds=1.0)
        _told(folder)
        paced(target, clients, body, rate=RATE, seconds=seconds)
        took["alone"] = _told(folder)
        for kind in KINDS:
            with beside(kind, target):
                paced(target, clients, body, rate=RATE, seconds=seconds)
            took[kind] = _told(folder)
    return took


def _told(folder: Path) -> Turns:
    """What the worker has taken since it was asked last."""
    path = folder / "turns"
    path.unlink(missing_ok=True)
    os.kill(int(pid_path(folder / "gateway", 0).read_text()), signal.SIGUSR1)
    eventually(path.exists, 10.0, message="the worker tells its turns")
    took = [1000 * seconds for seconds in msgspec.json.decode(path.read_bytes(), type=list[float])]
    long = [each for each in took if each > 1.0]
    return Turns(len(long), statistics.median(long) if long else 0.0, max(took, default=0.0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway.turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="each measurement takes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
