"""The engine's output on its way to the log file, which never outgrows two files of a fixed size."""

# Without pathlib, which would be a good part of the shim's start-up time.
# ruff: noqa: PTH105
from __future__ import annotations

import os
from contextlib import suppress

_TAIL_BYTES = 16 * 1024
_LINE_CHARACTERS = 2000


class Output:
    """Appends to `path`; at `limit_bytes` the file becomes `<path>.1` and a new one begins.

    A full disk loses lines and not the engine: what cannot be written is counted in `lost_bytes`.
    """

    def __init__(self, path: str, *, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._tail = b""
        self.lost_bytes = 0
        self._file = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o640)
        self._size = os.fstat(file).st_size
        return file

    def write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        try:
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._size += os.write(self._file, data)
        except OSError:
            self.lost_bytes += len(data)

    def _rotate(self) -> None:
        os.replace(self._path, f"{self._path}.1")
        fresh = self._open()
        os.close(self._file)
        self._file = fresh

    def drain(self, pipe: int) -> None:
        """Take what lies in the pipe without waiting for more."""
        with suppress(OSError):
            while data := os.read(pipe, 65536):
                self.write(data)

    def last_lines(self, count: int) -> list[str]:
        lines = self._tail.decode(errors="replace").splitlines()[-count:]
        return [line[:_LINE_CHARACTERS] for line in lines]

    def close(self) -> None:
        os.close(self._file)
