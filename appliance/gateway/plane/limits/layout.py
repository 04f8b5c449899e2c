"""The counters' files under `APPLIANCE_HOME/gateway/limits/`: words of 64 bits, native byte order.

`node`, one page, written under its lock and read by everybody:

    0 magic  1, 2 key of the hash  3 generation: grows when a row of any table was given to a subject

`worker-<n>`, one per worker, its only writer (whoever has the worker's lock); kept over restarts:

    0 magic  1 pid  2 start ticks  3 boot  8.. the charge that is being made (charge.py)
    512.. CAPACITY rows of 8 words: an open-addressing table
        0 the subject's hash (FREE: ends a search, GONE: does not)
        1, 2 gauges: requests and tokens held now; void when the writer is gone
        3 to 6 sums (windows.py, periods.py); they outlive the writer
        7 kind

A row's hash is written last, so a row that is found is whole. Each word is stored by one instruction: a reader in
another process sees the value before or after, and a kill leaves one of them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Final

CAPACITY: Final = 1 << 15
"""Rows of a table; a power of two."""
MOST_ROWS: Final = CAPACITY * 3 // 4
"""A fuller table is slow to search."""

ROW_WORDS: Final = 8
ROWS_AT: Final = 512
MAGIC, PID, START, BOOT = range(4)
HELD_REQUESTS, HELD_TOKENS, SUMS, KIND = 1, 2, 3, 7

FREE, GONE = 0, 1

Rows = list[tuple["memoryview[int]", int]]
"""Tables, and the index of a subject's row in each."""

_TABLE_MAGIC: Final = int.from_bytes(b"APLIMT01", "little")
_NODE_MAGIC: Final = int.from_bytes(b"APLIMN01", "little")
_TABLE_BYTES: Final = 8 * (ROWS_AT + ROW_WORDS * CAPACITY)
_NODE_BYTES: Final = 4096
_KEY, GENERATION = 1, 3
_NODE: Final = "node"


class Kind(IntEnum):
    """What a row counts. Budgets come by period, so that a row says by itself what its sums mean."""

    RATE = 1
    BUDGET_TOTAL = 2
    BUDGET_DAY = 3
    BUDGET_MONTH = 4
    REPLICA = 5
    QUEUE = 6
    """One tenant's requests that wait for one service."""


def limits_directory(home: Path) -> Path:
    return home / "gateway" / "limits"


def table_path(directory: Path, index: int) -> Path:
    return directory / f"worker-{index}"


def boot() -> int:
    """Tells this boot of the machine from others: monotonic times of different boots have nothing in common."""
    identity = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "little")


class Node:
    """What the tables of a node share: the key of the hash, and the generation."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / _NODE
        if not path.exists():
            _create_once(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.words = _map(self._descriptor, _NODE_BYTES)
        if self.words[MAGIC] != _NODE_MAGIC:
            raise ValueError(f"{path} is not the limits' node file")
        self._key = self.words[_KEY : _KEY + 2].tobytes()

    def hash(self, kind: Kind, name: str) -> int:
        """Keyed, so that nobody can choose names that collide."""
        digest = blake2b(name.encode(), digest_size=8, key=self._key, person=b"%d" % kind).digest()
        return max(int.from_bytes(digest, "little"), GONE + 1)

    def bump(self) -> None:
        """Have every worker look at the tables anew before it next reads a counter."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            self.words[GENERATION] += 1
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)


def open_table(path: Path) -> memoryview[int]:
    """The words of one's own table. Made anew, empty, if there is none of this form."""
    try:
        return map_table(path, os.O_RDWR)
    except (FileNotFoundError, ValueError):
        _create(path, _TABLE_BYTES, lambda words: words.__setitem__(MAGIC, _TABLE_MAGIC))
        return map_table(path, os.O_RDWR)


def map_table(path: Path, flags: int = os.O_RDONLY) -> memoryview[int]:
    """`FileNotFoundError`, or `ValueError` if it is no table of this form."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != _TABLE_BYTES:
            raise ValueError(f"{path} is not a table of counters")
        words = _map(descriptor, _TABLE_BYTES, writable=flags == os.O_RDWR)
    finally:
        os.close(descriptor)
    if words[MAGIC] != _TABLE_MAGIC:
        raise ValueError(f"{path} is not a table of counters")
    return words


def find(words: memoryview[int], hashed: int) -> int | None:
    """The index of the first word of the row with this hash."""
    slot = hashed % CAPACITY
    for _ in range(CAPACITY):
        at = ROWS_AT + slot * ROW_WORDS
        found = words[at]
        if found == hashed:
            return at
        if found == FREE:
            return None
        slot = (slot + 1) % CAPACITY
    return None


def insert(words: memoryview[int], hashed: int, kind: Kind) -> int:
    """A zeroed row for a hash that the table does not have; it must have room."""
    slot = hashed % CAPACITY
    while words[ROWS_AT + slot * ROW_WORDS] > GONE:
        slot = (slot + 1) % CAPACITY
    at = ROWS_AT + slot * ROW_WORDS
    for word in range(1, KIND):
        words[at + word] = 0
    words[at + KIND] = kind
    words[at] = hashed
    return at


def remove(words: memoryview[int], at: int) -> None:
    """Free a row. Searches go on over it only while a row follows that they might be after."""
    words[at] = GONE
    slot = (at - ROWS_AT) // ROW_WORDS
    if words[ROWS_AT + (slot + 1) % CAPACITY * ROW_WORDS] != FREE:
        return
    while words[ROWS_AT + slot * ROW_WORDS] == GONE:
        words[ROWS_AT + slot * ROW_WORDS] = FREE
        slot = (slot - 1) % CAPACITY


def rows(words: memoryview[int]) -> dict[int, int]:
    """The rows in use: hash to index."""
    hashes = words[ROWS_AT::ROW_WORDS].tolist()
    return {hashed: ROWS_AT + slot * ROW_WORDS for slot, hashed in enumerate(hashes) if hashed > GONE}


def _create_once(path: Path) -> None:
    """Of several processes that start together, one makes the file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")

    def fill(words: memoryview[int]) -> None:
        words[_KEY] = int.from_bytes(os.urandom(8), "little")
        words[_KEY + 1] = int.from_bytes(os.urandom(8), "little")
        words[MAGIC] = _NODE_MAGIC

    _create(unfinished, _NODE_BYTES, fill)
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return
    finally:
        unfinished.unlink()


def _create(path: Path, size: int, fill: Callable[[memoryview[int]], None]) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a full disk is told here and not by SIGBUS later
        fill(_map(descriptor, size))
    finally:
        os.close(descriptor)
    unfinished.replace(path)


def _map(descriptor: int, size: int, *, writable: bool = True) -> memoryview[int]:
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    return memoryview(mmap.mmap(descriptor, size, access=access)).cast("Q")
