"""A gateway worker: one process, one event loop, any number of listeners.

It gets its listening sockets from the supervisor, everything else from the snapshot; it runs on without both the
supervisor and the control plane, and outlives either's restart. `python -m appliance.gateway.plane.worker`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from appliance.gateway.plane import COMPILED, debug, local, tables
from appliance.gateway.plane.acceptor import Acceptor
from appliance.gateway.plane.access_log import AccessLog
from appliance.gateway.plane.capture import CaptureStore
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.control_server import ControlServer
from appliance.gateway.plane.demands import demand_directory
from appliance.gateway.plane.exposition import exposition
from appliance.gateway.plane.limits.layout import limits_directory
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.meter import encode_record, recover
from appliance.gateway.plane.paths import (
    access_log_path,
    capture_directory,
    metrics_path,
    pid_path,
    snapshot_directory,
    spool_directory,
    status_path,
    take_worker_lock,
)
from appliance.gateway.plane.schemas.listeners import ListenersShard
from appliance.gateway.plane.slots import SLOTS, SlotTable
from appliance.gateway.plane.snapshot import Snapshot, SnapshotReader
from appliance.gateway.plane.spool import Spool
from appliance.gateway.plane.status import StatusWriter
from appliance.gateway.plane.upstream import IDLE_S

TICK_S: Final = 0.05
_SNAPSHOT_TICKS: Final = 2
_SWEEP_TICKS: Final = 5
_LAST_REQUEST_S: Final = 1.0
"""A draining worker tells clients with its next answer to close; idle connections are closed after this time. Closed
at once, a busy client's next request could be on its way and be lost.
"""
_ALREADY_RUNNING: Final = 3
_COLLECT_EVERY: Final = 10_000
"""Objects that may form cycles, beyond those freed, until the youngest are looked through (700 by default)."""


class Worker:
    """Wires the parts of one worker and does what is periodic."""

    def __init__(self, home: Path, index: int, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self._home = home
        self._index = index
        self._loop = loop
        self._log = log
        self._ticks = 0
        self._executor = ThreadPoolExecutor(1, "spool")
        status = StatusWriter(status_path(home, index))
        directory = spool_directory(home, index)
        directory.mkdir(parents=True, exist_ok=True)
        recover(home, index, log)
        slots = SlotTable(directory / SLOTS)
        spool = Spool(directory, freed=slots.free_all, log=log)
        counters = Counters(limits_directory(home), index, log)
        self._context = Context(
            loop=loop,
            status=status,
            slots=slots,
            spool=spool,
            counters=counters,
            access_log=AccessLog(access_log_path(home), index, log),
            captures=CaptureStore(capture_directory(home, index), self._executor, log),
            demands=demand_directory(home),
            worker=index,
            log=log,
        )
        self._snapshot = SnapshotReader(snapshot_directory(home))
        self._applied: Snapshot | None = None
        self._acceptor = Acceptor(self._context)
        self._control = ControlServer(home, index, loop, self._acceptor, drain=self.drain, log=log)
        self._drained = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until drained."""
        path = metrics_path(self._home, self._index)
        server = await local.serve(self._loop, path, self._pages())
        self._take_snapshot()
        self._control.start()
        self._loop.call_later(TICK_S, self._tick)
        self._log.info("worker.started", version=self._context.tables.version, compiled=COMPILED)
        try:
            await self._drained.wait()
        finally:
            server.close()
            path.unlink(missing_ok=True)
            self._control.close()
            self._context.counters.close()
            self._context.books.write_up()
            for record in self._context.metrics.take_rest(time.time()):
                self._context.spool.append(encode_record(record), None)
            self._context.spool.close()
            self._executor.shutdown()
            self._context.access_log.close()
            self._context.captures.close()
            status_path(self._home, self._index).unlink(missing_ok=True)
            self._log.info("worker.stopped", unwritten=self._context.spool.pending)

    def _pages(self) -> dict[str, local.Page]:
        context = self._context
        return {
            local.METRICS: ("text/plain; version=0.0.4", lambda: _metrics(context)),
            local.STATE: ("application/json", lambda: msgspec.json.encode(debug.state(context))),
        }

    def drain(self, grace_s: float) -> None:
        """Idempotent."""
        self._control.draining = True
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        context = self._context
        self._log.info("worker.draining", grace_s=grace_s, in_flight=context.backends.in_flight)
        context.draining = True
        context.status.set_draining()
        await self._acceptor.close()
        deadline = context.now() + grace_s
        await self._emptied(min(_LAST_REQUEST_S, grace_s))
        for connection in list(context.connections):
            connection.drain()
        await self._emptied(deadline - context.now())
        for connection in list(context.connections):
            connection.shut_down()
        await asyncio.sleep(TICK_S)  # what was written last is sent
        for connection in list(context.connections):
            connection.abort()
        self._drained.set()

    async def _emptied(self, seconds: float) -> None:
        if self._context.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._context.emptied.wait(), seconds)

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        self._ticks += 1
        self._context.books.write_up()
        self._context.spool.flush()
        self._context.access_log.flush(self._executor)
        if self._ticks % _SNAPSHOT_TICKS == 0:
            self._take_snapshot()
        if self._ticks % _SWEEP_TICKS == 0:
            self._sweep()

    def _take_snapshot(self) -> None:
        if not self._snapshot.poll():
            return
        context, snapshot, error = self._context, self._snapshot.current, self._snapshot.error
        if snapshot is not None and snapshot is not self._applied:
            try:
                with context.counters.changing():
                    built = tables.build(snapshot, context.tables, context.backends)
                    context.limiter.apply(snapshot, time.time())
                context.tables = built
                self._applied = snapshot
                context.waiting.apply(context.tables)
                self._set(snapshot.listeners)
            except (OverflowError, ValueError) as failure:
                error = str(failure)
        context.status.applied(context.tables.version, error)
        if error:
            self._log.error("snapshot.rejected", reason=error, version=context.tables.version)
        else:
            self._log.info("snapshot.applied", version=context.tables.version)

    def _set(self, shard: ListenersShard) -> None:
        self._context.access_log.enabled = shard.settings.access_log
        self._context.connections.bound(shard.settings.connections, shard.settings.connections_per_peer)
        self._context.captures.most_bytes = shard.settings.capture_bytes // max(shard.workers, 1)

    def _sweep(self) -> None:
        """Deadlines (a quarter of a second coarse), idle connections to engines, the heartbeat, sealing."""
        context = self._context
        now = context.now()
        context.status.beat()
        context.status.set_connections(len(context.connections))
        context.date.tick()
        context.counters.sweep()
        for connection in [each for each in context.connections if each.deadline <= now]:
            connection.check_deadline(now)
        for connection in list(context.held_back):
            connection.look_for_end()
        for replica in context.backends:
            while replica.idle and now - replica.idle[0].idle_since > IDLE_S:
                replica.idle.pop(0).close()
        for record in context.metrics.take_minute(time.time()):
            context.spool.append(encode_record(record), None)
        context.spool.seal_if_due(self._executor)
        context.captures.flush()
        self._acceptor.reload_certificates(now)


def _metrics(context: Context) -> bytes:
    context.books.write_up()
    return exposition(context.metrics).encode()


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_less_often() -> None:
    """A request leaves hardly any reference cycle, and what was imported none: most collections find nothing."""
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def _describe(problem: dict[str, Any]) -> dict[str, str]:
    """What the event loop tells of an exception that nobody handled."""
    error = problem.get("exception")
    trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
    return {"message": str(problem.get("message", "")), "trace": trace}


async def _serve(home: Path, index: int, grace_s: float, log: Log) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, problem: log.error("worker.unexpected", **_describe(problem)))
    worker = Worker(home, index, loop, log)
    loop.add_signal_handler(signal.SIGTERM, worker.drain, grace_s)
    await worker.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="appliance-gateway-worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--grace", type=float, default=30.0, help="seconds to finish requests in after SIGTERM")
    arguments = parser.parse_args()
    home: Path = arguments.home
    log = Log(process="gateway-worker", worker=arguments.index)
    lock = take_worker_lock(home, arguments.index)
    if lock is None:
        log.error("worker.already_running")
        return _ALREADY_RUNNING
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    _raise_descriptor_limit()
    _collect_less_often()
    pid_path(home, arguments.index).write_text(f"{os.getpid()}\n")
    try:
        uvloop.run(_serve(home, arguments.index, arguments.grace, log))
    finally:
        pid_path(home, arguments.index).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
