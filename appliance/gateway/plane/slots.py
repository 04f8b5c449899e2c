"""Requests in flight, in a preallocated mmap: what a kill -9 of the worker leaves behind to bill them by.

A slot of 2 KiB (native byte order):

    0 state u32 (0 free, 1 in flight, 2 ended)  4 identity length u32  8 record length u32
    16 progress: prompt tokens u32, completion tokens u32, largest chunk u32, -, bytes out u64,
       started f64, first byte f64, last byte f64 (CLOCK_MONOTONIC seconds, 0: none yet)
    128 identity: msgpack of `RequestIdentity`      1024 record: msgpack of the final `UsageRecord`

The state is written last, so it never promises more than is there. An ended slot becomes free only once its record
is in the spool's file; so each request is in its slot, in the spool, or (between two instructions) in both under
the same record id.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

SLOTS: Final = "slots"
"""The file's name in the worker's spool directory."""

CAPACITY: Final = 4096
_SLOT: Final = 2048
_SIZE: Final = CAPACITY * _SLOT
_FREE, _IN_FLIGHT, _ENDED = 0, 1, 2
# Native mode ("@") stores each number with one instruction: a kill leaves the old value or the new one.
_STATE: Final = struct.Struct("@I")
_LENGTHS: Final = struct.Struct("@II")
_PROGRESS: Final = struct.Struct("@IIIIQddd")
_PROGRESS_AT, _IDENTITY_AT, _RECORD_AT = 16, 128, 1024
MAX_IDENTITY: Final = _RECORD_AT - _IDENTITY_AT
MAX_RECORD: Final = _SLOT - _RECORD_AT

_encode = msgspec.msgpack.Encoder().encode


class RequestIdentity(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a request when it is forwarded; the members that `UsageRecord` has mean the same."""

    record_id: str
    request_id: str
    at: float
    tenant_id: str
    key_id: str
    service_id: str
    deployment_id: str
    replica_id: str
    route: str
    model: str
    stream: bool = False
    bytes_in: int = 0
    prompt_estimate: int = 0
    """0 on routes that generate nothing."""
    token_limit: int = 0
    """The most tokens that the request allows over all its choices; 0: not limited."""
    choices: int = 1
    charge: int = 0
    """Names it where its tokens are charged to `budgets` (limits/charge.py); 0 if there are none."""
    budgets: bytes = b""
    """The hashes of their rows, 8 bytes each."""


class Progress(NamedTuple):
    prompt_tokens: int
    completion_tokens: int
    largest_chunk: int
    bytes_out: int
    started: float
    first: float
    last: float


class SlotTable:
    """Owned by one worker."""

    def __init__(self, path: Path) -> None:
        """The file's former content must have been recovered: it is cleared."""
        unfinished = path.with_name(f".{path.name}.new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        unfinished.replace(path)
        self._free = list(range(CAPACITY - 1, -1, -1))

    @property
    def in_use(self) -> int:
        return CAPACITY - len(self._free)

    def claim(self, identity: RequestIdentity, started: float) -> int | None:
        """A slot for the request; None when all are taken. `started`: CLOCK_MONOTONIC seconds."""
        if not self._free:
            return None
        encoded = _encode(identity)
        if len(encoded) > MAX_IDENTITY:
            raise ValueError("a request's identity does not fit its slot")
        index = self._free.pop()
        at = index * _SLOT
        self._map[at + _IDENTITY_AT : at + _IDENTITY_AT + len(encoded)] = encoded
        _LENGTHS.pack_into(self._map, at + 4, len(encoded), 0)
        _PROGRESS.pack_into(self._map, at + _PROGRESS_AT, 0, 0, 0, 0, 0, started, 0.0, 0.0)
        _STATE.pack_into(self._map, at, _IN_FLIGHT)
        return index

    def update(
        self,
        index: int,
        prompt: int,
        completion: int,
        largest: int,
        bytes_out: int,
        started: float,
        first: float,
        last: float,
    ) -> None:
        """The members of `Progress`; called for each piece of an answer, so without making one."""
        at = index * _SLOT + _PROGRESS_AT
        _PROGRESS.pack_into(self._map, at, prompt, completion, largest, 0, bytes_out, started, first, last)

    def end(self, index: int, record: bytes) -> None:
        """Keep the final record (msgpack) until it is in the spool."""
        at = index * _SLOT
        if len(record) > MAX_RECORD:
            raise ValueError("a usage record does not fit its slot")
        self._map[at + _RECORD_AT : at + _RECORD_AT + len(record)] = record
        _STATE.pack_into(self._map, at + 8, len(record))
        _STATE.pack_into(self._map, at, _ENDED)

    def free(self, index: int) -> None:
        _STATE.pack_into(self._map, index * _SLOT, _FREE)
        self._free.append(index)

    def free_all(self, indexes: list[int]) -> None:
        for index in indexes:
            self.free(index)


def end_left_over(path: Path, index: int, record: bytes) -> None:
    """Keep the final record of a request of a dead worker, as that would have."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        content = mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    with content:
        at = index * _SLOT
        content[at + _RECORD_AT : at + _RECORD_AT + len(record)] = record
        _STATE.pack_into(content, at + 8, len(record))
        _STATE.pack_into(content, at, _ENDED)


class LeftOver(NamedTuple):
    """A slot of a worker that is gone. `record` is there if the request had ended."""

    slot: int
    identity: RequestIdentity
    progress: Progress
    record: bytes | None


def read_left_overs(path: Path) -> Iterator[LeftOver]:
    """What a dead worker had in flight. Slots that cannot be read are skipped (a foreign or damaged file)."""
    decoder = msgspec.msgpack.Decoder(RequestIdentity)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for at in range(0, len(content) - _SLOT + 1, _SLOT):
        (state,) = _STATE.unpack_from(content, at)
        if state not in (_IN_FLIGHT, _ENDED):
            continue
        identity_length, record_length = _LENGTHS.unpack_from(content, at + 4)
        try:
            identity = decoder.decode(content[at + _IDENTITY_AT : at + _IDENTITY_AT + identity_length])
        except msgspec.DecodeError:
            continue
        prompt, completion, largest, _, out, started, first, last = _PROGRESS.unpack_from(content, at + _PROGRESS_AT)
        record = content[at + _RECORD_AT : at + _RECORD_AT + record_length] if state == _ENDED else None
        yield LeftOver(at // _SLOT, identity, Progress(prompt, completion, largest, out, started, first, last), record)
