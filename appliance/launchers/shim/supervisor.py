"""Watches one engine: takes its output, ends it on SIGTERM, and leaves none of its processes behind."""

# Without pathlib, which would be a good part of the shim's start-up time.
# ruff: noqa: PTH123
from __future__ import annotations

import json
import os
import select
import signal
import time
from contextlib import suppress

from appliance.launchers import procfs
from appliance.launchers.shim.output import Output

_DEFAULT_GRACE_S = 10.0
_SWEEP_MS = 10
_SWEEP_MAX_MS = 1000
_WATCHED = (signal.SIGTERM, signal.SIGCHLD)
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Signals:
    """Signals as bytes in a pipe, so that one poll waits for them and for output alike."""

    def __init__(self) -> None:
        self.pipe, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for number in _WATCHED:
            signal.signal(number, lambda *_: None)

    def take(self) -> set[int]:
        with suppress(BlockingIOError):
            return set(os.read(self.pipe, 4096))
        return set()


class Supervisor:
    """`run` returns the engine's wait status once the engine and everything below it are gone."""

    def __init__(self, engine: int, *, output: Output, pipe: int, signals: Signals, stop_file: str) -> None:
        self._engine = engine
        self._output = output
        self._pipe = pipe
        self._signals = signals
        self._stop_file = stop_file
        self._kill_at: float | None = None
        self._status: int | None = None

    def run(self) -> int:
        poll = select.poll()
        poll.register(self._signals.pipe, select.POLLIN)
        poll.register(self._pipe, select.POLLIN)
        while self._status is None:
            for descriptor, event in poll.poll(self._timeout_ms()):
                if descriptor == self._signals.pipe:
                    self._handle(self._signals.take())
                elif event & select.POLLIN:
                    self._output.write(os.read(self._pipe, 65536))
                else:
                    # Every writer closed its end; the engine may live on without output.
                    poll.unregister(self._pipe)
            self._reap()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._signal_engine(signal.SIGKILL)
                self._kill_at = None
        self._sweep()
        self._output.drain(self._pipe)
        return self._status

    def _timeout_ms(self) -> float | None:
        return None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic()) * 1000 + 1

    def _handle(self, signals: set[int]) -> None:
        if signal.SIGTERM in signals:
            kill_at = time.monotonic() + self._grace_s()
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
            self._signal_engine(signal.SIGTERM)

    def _grace_s(self) -> float:
        """What the launcher wrote before it sent SIGTERM; anyone else's SIGTERM gets the default."""
        try:
            with open(self._stop_file, encoding="ascii") as file:
                return float(json.load(file)["grace_s"])
        except (OSError, ValueError, KeyError):
            return _DEFAULT_GRACE_S

    def _signal_engine(self, number: int) -> None:
        # The engine is our child and not yet reaped, so that its pid cannot have changed hands.
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self._engine, number)

    def _reap(self) -> bool:
        """Collect every child that has ended; whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._engine:
                self._status = status

    def _sweep(self) -> None:
        """Kill what the engine left. Orphans become our children, so that none escapes by a double fork.

        There is no deadline: while a process sits in the kernel, its devices are not free.
        """
        poll = select.poll()
        poll.register(self._signals.pipe, select.POLLIN)
        pause_ms = _SWEEP_MS
        while self._reap():
            for pid in procfs.descendants(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            poll.poll(pause_ms)
            pause_ms = min(2 * pause_ms, _SWEEP_MAX_MS)
            self._signals.take()
            self._output.drain(self._pipe)
