"""The access log: a JSON object a line for each request, gathered in memory and written by a thread in batches.

A request that reached a replica, or waited for one, is told by its usage record; what was answered or refused before
that by a line of its own. Neither has a key, a prompt, an answer or a query in it. All workers append to one file. A
file that was moved or removed is opened anew with the next batch, and one that was truncated goes on at its new end,
so every way of rotation works. Lines that the disk does not take in time are dropped and counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.schemas.records import UsageRecord

MOST_WAITING: Final = 50_000
"""Lines in memory."""
_MOST_PATH: Final = 200
_TRACE_ID = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-")

_encode = msgspec.json.Encoder().encode


class Answered(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="own"):
    """An answer of the gateway's own; `code` is the refusal's. The path is cut off and has no query."""

    request_id: str
    at: float
    method: str
    path: str
    status: int
    code: str = ""


Line = tuple[UsageRecord | Answered, str, bytes | None]
"""What to tell, the client's address, the request's `traceparent`."""


class AccessLog:
    """`enabled` may be changed at any time."""

    def __init__(self, path: Path, worker: int, log: Log) -> None:
        self.enabled = False
        self._path = path
        self._worker = worker
        self._log = log
        self._waiting: list[Line] = []
        self._handed_over = self._taken = 0
        """Lines since the start: given to the thread by the loop, and done with by the thread."""
        self._descriptor: int | None = None
        self._failing = False
        self._dropped_here = self._dropped_there = 0

    @property
    def dropped(self) -> int:
        """Lines that were not written in time, or not at all."""
        return self._dropped_here + self._dropped_there

    def tell(self, record: UsageRecord, peer: str, trace_parent: bytes | None) -> None:
        """Of a request that is over. Costs nothing but memory until the next `flush`."""
        if self.enabled:
            self._waiting.append((record, peer, trace_parent))

    def tell_own(self, head: RequestHead, request_id: bytes, peer: str, at: float, status: int, code: str = "") -> None:
        """Of an answer without a replica. `at`: Unix seconds."""
        if self.enabled:
            path = head.path.partition(b"?")[0][:_MOST_PATH].decode("ascii", "replace")
            answered = Answered(request_id.decode("ascii"), at, head.method.decode("ascii"), path, status, code)
            self._waiting.append((answered, peer, head.fields.get(b"traceparent")))

    def flush(self, executor: Executor) -> None:
        if not self._waiting:
            return
        lines, self._waiting = self._waiting, []
        if self._handed_over - self._taken + len(lines) > MOST_WAITING:
            self._dropped_here += len(lines)
            return
        self._handed_over += len(lines)
        executor.submit(self._write, lines)

    def close(self) -> None:
        """Write what is left; nothing may be in a thread any more."""
        lines, self._waiting = self._waiting, []
        if lines:
            self._write(lines)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, lines: list[Line]) -> None:
        data = b"".join(_text(self._worker, lines))
        try:
            descriptor = self._current()
            while data:
                data = data[os.write(descriptor, data) :]
            self._failing = False
        except OSError as error:
            self._dropped_there += len(lines)
            if not self._failing:
                self._log.error("access_log.not_written", reason=str(error))
            self._failing = True
        finally:
            self._taken += len(lines)

    def _current(self) -> int:
        """The file that has the path now."""
        if self._descriptor is not None:
            opened = os.fstat(self._descriptor)
            try:
                named = self._path.stat()
            except FileNotFoundError:
                named = None
            if named is not None and (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                return self._descriptor
            os.close(self._descriptor)
            self._descriptor = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        return self._descriptor


def _text(worker: int, lines: Iterable[Line]) -> Iterable[bytes]:
    for told, peer, trace_parent in lines:
        trace = _TRACE_ID.match(trace_parent) if trace_parent is not None else None
        traced = b'"trace_id":"%b",' % trace[1] if trace is not None else b""
        yield b'{"worker":%d,"peer":%b,%b%b\n' % (worker, _encode(peer), traced, _encode(told)[1:])
