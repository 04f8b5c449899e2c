"""Reading the log of a replica, `<path>` and its predecessor `<path>.1`, while it is written and rotated."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

_POLL_S = 0.2
_CHUNK = 65536
# One line may not hold the memory of the control plane; a longer one comes in pieces.
_LINE_BYTES = 65536


def previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def read_lines(path: Path, *, tail: int | None = None) -> list[str]:
    """The last `tail` lines, or all that are kept; no file is no lines."""
    return list(deque(_lines(path), maxlen=tail))


def _lines(path: Path) -> Iterator[str]:
    for file in (previous(path), path):
        try:
            with file.open(encoding="utf-8", errors="replace", newline="\n") as stream:
                while line := stream.readline(_LINE_BYTES):
                    yield line.removesuffix("\n")
        except FileNotFoundError:
            continue


async def follow(path: Path, *, is_running: Callable[[], bool]) -> AsyncIterator[str]:
    """Lines that are written from now on, across rotations, until `is_running` is false and all was read."""
    reader = _Reader(path)
    try:
        while True:
            # Asked before reading, so that the last words of an engine are not missed.
            running = await asyncio.to_thread(is_running)
            for line in reader.take():
                yield line
            if not running:
                break
            await asyncio.sleep(_POLL_S)
        for line in reader.rest():
            yield line
    finally:
        reader.close()


class _Reader:
    """Complete lines of a file that grows and may be replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._file = self._open()
        if self._file is not None:
            os.lseek(self._file, 0, os.SEEK_END)

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def take(self) -> Iterator[str]:
        yield from self._read()
        fresh = self._open()
        if fresh is None:
            return
        if self._file is not None and os.path.samestat(os.fstat(fresh), os.fstat(self._file)):
            os.close(fresh)
            return
        # Rotated: what was written between the read above and the rename is still in the old file.
        yield from self._read()
        self.close()
        self._file = fresh
        yield from self._read()

    def _read(self) -> Iterator[str]:
        while self._file is not None and (data := os.read(self._file, _CHUNK)):
            *lines, self._partial = (self._partial + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
            if len(self._partial) > _LINE_BYTES:
                yield from self.rest()

    def rest(self) -> Iterator[str]:
        if self._partial:
            yield self._partial.decode(errors="replace")
        self._partial = b""

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
