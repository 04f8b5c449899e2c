"""The spool of one worker: records gathered in memory for a moment, appended to an open segment, sealed by rename.

What `flush` has written survives the process; `seal` also syncs it to the disk, in a thread. Some space is kept in
reserve for the moment at which others have filled the disk. When that is used up, or the node's bound is reached,
the records wait in memory and their slots stay taken, so that a worker that cannot write usage ends by refusing
requests rather than by losing what they used.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final
from zlib import crc32

from appliance.gateway.plane.frames import HEADER, OPEN_SUFFIX, SEALED_SUFFIX, whole_bytes
from appliance.gateway.plane.log import Log

RESERVE: Final = "reserve"
RESERVE_BYTES: Final = 4 * 1024 * 1024
FULL: Final = "full"
"""A file beside the workers' directories, as long as the node's bound on waiting usage is reached."""

SEAL_BYTES: Final = 4 * 1024 * 1024
SEAL_AFTER_S: Final = 1.0
FLUSH_BYTES: Final = 64 * 1024


class SpoolFullError(OSError):
    """The bound on usage that waits for the control plane is reached."""


class Spool:
    """`freed` is called with the tags of the records that are in the file (their slots)."""

    def __init__(self, directory: Path, *, freed: Callable[[list[int]], None], log: Log) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._freed = freed
        self._log = log
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._tags: list[int] = []
        self._descriptor: int | None = None
        self._path = directory
        self._written = 0
        self._opened_at = 0.0
        self._failing = False
        seal_left_overs(directory)
        self._reserve()

    @property
    def pending(self) -> int:
        """Records that are not in the file yet."""
        return len(self._pending) // 2

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing

    def append(self, payload: bytes, tag: int | None) -> None:
        """Take a record's msgpack; `tag` comes back through `freed`."""
        self._pending.append(HEADER.pack(len(payload), crc32(payload)))
        self._pending.append(payload)
        self._pending_bytes += len(payload)
        if tag is not None:
            self._tags.append(tag)
        if self._pending_bytes > FLUSH_BYTES and not self._failing:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; on failure keep it for the next time."""
        if not self._pending:
            return
        data = b"".join(self._pending)
        try:
            self._write_with_reserve(data)
        except OSError as error:
            if not self._failing:
                self._log.error("spool.write_failed", reason=str(error), pending=self.pending)
            self._failing = True
            return
        self._failing = False
        tags, self._tags = self._tags, []
        self._pending = []
        self._pending_bytes = 0
        self._freed(tags)

    def _write_with_reserve(self, data: bytes) -> None:
        try:
            self._write(data)
        except SpoolFullError:
            raise
        except OSError:
            if not self._release_reserve():
                raise
            self._write(data)

    def _reserve(self) -> None:
        """Without room for it there is none until the next time."""
        path = self._directory / RESERVE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._log.warning("spool.not_reserved", reason=str(error))
            return
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError as error:
            path.unlink(missing_ok=True)
            self._log.warning("spool.not_reserved", reason=str(error))
        finally:
            os.close(descriptor)

    def _release_reserve(self) -> bool:
        """Whether there was any."""
        try:
            (self._directory / RESERVE).unlink()
        except OSError:
            return False
        self._log.warning("spool.reserve_used")
        return True

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            if (self._directory.parent / FULL).exists():
                raise SpoolFullError(errno.ENOSPC, "the bound on waiting usage is reached")
            self._descriptor, self._path = new_segment(self._directory)
            self._written = 0
            self._opened_at = time.monotonic()
        written = 0
        while written < len(data):
            try:
                written += os.write(self._descriptor, data[written:])
            except OSError:
                os.ftruncate(self._descriptor, self._written)  # no frame is left torn in the middle of a segment
                os.lseek(self._descriptor, self._written, os.SEEK_SET)
                raise
        self._written += len(data)

    def seal_if_due(self, executor: Executor) -> None:
        if self._descriptor is None or not self._written:
            return
        if self._written >= SEAL_BYTES or time.monotonic() - self._opened_at >= SEAL_AFTER_S:
            descriptor, self._descriptor = self._descriptor, None
            executor.submit(self._seal_and_reserve, descriptor, self._path)

    def _seal_and_reserve(self, descriptor: int, path: Path) -> None:
        """In a thread. A segment that cannot be sealed stays open until the worker starts anew."""
        try:
            seal(descriptor, path)
        except OSError as error:
            self._log.error("spool.not_sealed", path=str(path), reason=str(error))
        if not self._failing and not (self._directory / RESERVE).exists():
            self._reserve()

    def close(self) -> None:
        self.flush()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            seal(descriptor, self._path)
        (self._directory / RESERVE).unlink(missing_ok=True)


def new_segment(directory: Path) -> tuple[int, Path]:
    """An open segment: its descriptor and path. Names come from the clock, not from what is there: a name must not be
    used again after its segment was ingested and removed.
    """
    for number in _numbers():
        path = directory / f"{number:020d}{OPEN_SUFFIX}"
        if path.with_suffix(SEALED_SUFFIX).exists():
            continue
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), path
        except FileExistsError:
            continue
    raise AssertionError("unreachable: the numbers do not end")


def _numbers() -> Iterator[int]:
    number = time.time_ns() // 1000
    while True:
        yield number
        number += 1


def seal(descriptor: int, path: Path) -> None:
    """Close an open segment; from now on it may be ingested."""
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    path.rename(path.with_suffix(SEALED_SUFFIX))


def seal_left_overs(directory: Path) -> None:
    """Seal the open segments of a worker that is gone, without a torn last frame."""
    for path in sorted(directory.glob(f"*{OPEN_SUFFIX}")):
        whole = whole_bytes(path)
        if whole == 0:
            path.unlink()
            continue
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.ftruncate(descriptor, whole)
        seal(descriptor, path)
