"""The status of a worker: one preallocated mmap, one writer, any number of readers.

Layout (native byte order; both sides are on one machine):

    0 magic  8 sequence u64  16 pid u64  24 start ticks u64  32 applied version u64  40 heartbeat u64
    48 in flight u32  52 entries u32  56 draining u32  60 connections u32  64 error, 192 bytes of UTF-8
    256 entries of 64 bytes: replica id, 48 bytes; in flight u32; queued u32; reserved

The sequence is odd while entries or versions are being changed (a seqlock); counters change in place, each an
aligned word. A replica that the snapshot no longer names keeps its entry until its last request has ended, and
`applied version` is stored after that replica stopped being eligible: so a reader that sees version v and no
request for a replica that v does not name can be sure that there will be none.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

MAGIC: Final = b"APSTAT01"
CAPACITY: Final = 4096
_HEADER: Final = struct.Struct("=8sQQQQQIIII192s")
_ENTRY: Final = struct.Struct("=48sII8x")
_SIZE: Final = _HEADER.size + CAPACITY * _ENTRY.size
_SEQUENCE, _PID, _START, _VERSION, _HEARTBEAT = 1, 2, 3, 4, 5
_IN_FLIGHT, _ENTRIES, _DRAINING, _CONNECTIONS = 12, 13, 14, 15
_ERROR_AT, _ERROR_BYTES = 64, 192
_ID_BYTES = 48
_READ_ATTEMPTS = 200


class WorkerStatus(Struct, frozen=True):
    """`heartbeat`: CLOCK_BOOTTIME in ns. `replicas`: id to (in flight, queued); a replica not named has none."""

    pid: int
    start_ticks: int
    applied_version: int
    heartbeat: int
    in_flight_total: int
    connections: int
    draining: bool
    error: str
    replicas: dict[str, tuple[int, int]]


def start_ticks(pid: int | str = "self") -> int:
    """Clock ticks since boot at which the process started: with the pid, its identity (proc(5), field 22)."""
    content = Path(f"/proc/{pid}/stat").read_text()
    return int(content.rpartition(")")[2].split()[19])


class StatusWriter:
    """Owned by one worker. Entry indexes stay valid until `release`d."""

    def __init__(self, path: Path) -> None:
        unfinished = path.with_name(f".{path.name}.new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)  # a full disk is told here and not by SIGBUS later
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        view = memoryview(self._map)
        self._words = view.cast("I")
        self._longs = view.cast("Q")
        self._entries: list[str | None] = []
        self._free: list[int] = []
        self._map[: len(MAGIC)] = MAGIC
        self._longs[_PID] = os.getpid()
        self._longs[_START] = start_ticks()
        self.beat()
        unfinished.replace(path)

    def beat(self) -> None:
        self._longs[_HEARTBEAT] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def claim(self, replica_id: str) -> int:
        """An entry for a replica; `OverflowError` when all are taken."""
        encoded = replica_id.encode()[:_ID_BYTES]
        if not self._free and len(self._entries) >= CAPACITY:
            raise OverflowError(f"more than {CAPACITY} replicas on one node")
        self._longs[_SEQUENCE] += 1
        if self._free:
            index = self._free.pop()
            self._entries[index] = replica_id
        else:
            index = len(self._entries)
            self._entries.append(replica_id)
        _ENTRY.pack_into(self._map, self._offset(index), encoded, 0, 0)
        self._words[_ENTRIES] = len(self._entries)
        self._longs[_SEQUENCE] += 1
        return index

    def release(self, index: int) -> None:
        self._longs[_SEQUENCE] += 1
        _ENTRY.pack_into(self._map, self._offset(index), b"", 0, 0)
        self._entries[index] = None
        self._free.append(index)
        self._longs[_SEQUENCE] += 1

    def set_in_flight(self, index: int, count: int, total: int) -> None:
        self._words[(self._offset(index) + _ID_BYTES) >> 2] = count
        self._words[_IN_FLIGHT] = total

    def set_queued(self, index: int, count: int) -> None:
        """Requests that wait and may go to this replica; each counts at every replica that it may go to."""
        self._words[(self._offset(index) + _ID_BYTES + 4) >> 2] = count

    def set_connections(self, count: int) -> None:
        self._words[_CONNECTIONS] = count

    def set_draining(self) -> None:
        self._words[_DRAINING] = 1

    def applied(self, version: int, error: str = "") -> None:
        """Acknowledge a version (0: none yet), or tell why a newer one was not applied."""
        self._longs[_SEQUENCE] += 1
        self._longs[_VERSION] = version
        encoded = error.encode()[:_ERROR_BYTES]
        self._map[_ERROR_AT : _ERROR_AT + _ERROR_BYTES] = encoded.ljust(_ERROR_BYTES, b"\0")
        self._longs[_SEQUENCE] += 1

    @staticmethod
    def _offset(index: int) -> int:
        return _HEADER.size + index * _ENTRY.size


def read_status(path: Path) -> WorkerStatus:
    """A consistent view of a worker's status.

    `FileNotFoundError` if there is none, `ValueError` if it is not a status or its writer died while changing it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(_READ_ATTEMPTS):
            header = os.pread(descriptor, _HEADER.size, 0)
            if len(header) < _HEADER.size or header[: len(MAGIC)] != MAGIC:
                raise ValueError(f"{path} is not a worker's status")
            fields = _HEADER.unpack(header)
            sequence, entries = fields[1], fields[7]
            body = os.pread(descriptor, entries * _ENTRY.size, _HEADER.size)
            (after,) = struct.unpack("=Q", os.pread(descriptor, 8, 8))
            if sequence == after and sequence % 2 == 0:
                return _status(fields, body)
            time.sleep(0)
    finally:
        os.close(descriptor)
    raise ValueError(f"{path}: its writer stopped in the middle of a change")


def _status(fields: tuple[Any, ...], body: bytes) -> WorkerStatus:
    _, _, pid, started, version, heartbeat, in_flight, _, draining, connections, error = fields
    replicas = {
        identifier.rstrip(b"\0").decode(): (running, queued)
        for identifier, running, queued in _ENTRY.iter_unpack(body)
        if identifier[:1] != b"\0"
    }
    return WorkerStatus(
        pid=pid,
        start_ticks=started,
        applied_version=version,
        heartbeat=heartbeat,
        in_flight_total=in_flight,
        connections=connections,
        draining=bool(draining),
        error=error.rstrip(b"\0").decode(errors="replace"),
        replicas=replicas,
    )
