"""Requests in flight, in a preallocated mmap: what a kill -9 of the worker leaves behind to bill them by.

A slot of 2 KiB (native byte order):

    0 state u32 (0 free, 1 in flight, 2 recorded, 3 ended, 4 ended and perhaps not charged to its budgets)
    4 identity length u32  8 record length u32
    16 progress: prompt tokens u32, completion tokens u32, largest chunk u32, -, bytes out u64,
       started f64, first byte f64, last byte f64 (CLOCK_MONOTONIC seconds, 0: none yet)
    64 ending: status u32, outcome u32 (its place in OUTCOMES), whether it reached an engine u32, tokens between
       which the time was taken u32, end f64 (CLOCK_MONOTONIC seconds), that time f64, time in the queue f64 (ms)
    128 identity: msgpack of `RequestIdentity`      1024 record: msgpack of the final `UsageRecord`

The state is written last, so it never promises more than is there. A record follows from identity, progress and
ending; it stands in the slot only if who took over from a killed worker has made it. An ended slot becomes free only
once its record is in the spool's file; so each request is in its slot, in the spool, or (between two instructions) in
both under the same record id.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from appliance.gateway.plane.schemas.records import OUTCOMES, Outcome

SLOTS: Final = "slots"
"""The file's name in the worker's spool directory."""

CAPACITY: Final = 4096
_SLOT: Final = 2048
_SIZE: Final = CAPACITY * _SLOT
_FREE, _IN_FLIGHT, _RECORDED, _ENDED, _CHARGING = 0, 1, 2, 3, 4
# Native mode ("@") stores each number with one instruction: a kill leaves the old value or the new one.
_STATE: Final = struct.Struct("@I")
_LENGTHS: Final = struct.Struct("@II")
_PROGRESS: Final = struct.Struct("@IIIIQddd")
_ENDING: Final = struct.Struct("@IIIIddd")
_PROGRESS_AT, _ENDING_AT, _IDENTITY_AT, _RECORD_AT = 16, 64, 128, 1024
MAX_IDENTITY: Final = _RECORD_AT - _IDENTITY_AT
MAX_RECORD: Final = _SLOT - _RECORD_AT

_PLACES: Final = {outcome: place for place, outcome in enumerate(OUTCOMES)}

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
    context: int = 0
    """The most tokens that all its prompts, or all its answers, can have by the model's context; 0: not known."""
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


class Ending(NamedTuple):
    """How a request ended, and `until` when (CLOCK_MONOTONIC seconds); the others are those of `UsageRecord`.
    `reached`: whether it was sent to an engine.
    """

    status: int
    outcome: Outcome
    until: float
    reached: bool = True
    queue_ms: float = 0.0
    inter_token_count: int = 0
    inter_token_ms: float = 0.0


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

    def end(self, index: int, progress: Progress, ending: Ending, *, charged: bool = True) -> None:
        """Keep what the final record will be made of until that is in the spool. `charged` False: it has budgets that
        are charged next, and `charged` is called then; a kill between leaves what to charge.
        """
        at = index * _SLOT
        prompt, completion, largest, out, started, first, last = progress
        _PROGRESS.pack_into(self._map, at + _PROGRESS_AT, prompt, completion, largest, 0, out, started, first, last)
        status, outcome, until, reached, queue_ms, count, between_ms = ending
        place = _PLACES[outcome]
        _ENDING.pack_into(self._map, at + _ENDING_AT, status, place, reached, count, until, between_ms, queue_ms)
        _STATE.pack_into(self._map, at, _ENDED if charged else _CHARGING)

    def charged(self, index: int) -> None:
        _STATE.pack_into(self._map, index * _SLOT, _ENDED)

    def free(self, index: int) -> None:
        _STATE.pack_into(self._map, index * _SLOT, _FREE)
        self._free.append(index)

    def free_all(self, indexes: list[int]) -> None:
        for index in indexes:
            self.free(index)


def end_left_over(path: Path, index: int, record: bytes) -> None:
    """Keep the final record (msgpack) of a request of a dead worker. `ValueError` if it does not fit its slot."""
    if len(record) > MAX_RECORD:
        raise ValueError("a usage record does not fit its slot")
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        content = mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
    with content:
        at = index * _SLOT
        content[at + _RECORD_AT : at + _RECORD_AT + len(record)] = record
        _STATE.pack_into(content, at + 8, len(record))
        _STATE.pack_into(content, at, _RECORDED)


class LeftOver(NamedTuple):
    """A slot of a worker that is gone. `ending` is there if the request had ended, `record` if it was recovered before
    (or had ended under a version that kept it here), `charged` if its budgets have been charged for certain.
    """

    slot: int
    identity: RequestIdentity
    progress: Progress
    ending: Ending | None
    record: bytes | None
    charged: bool


def read_left_overs(path: Path) -> Iterator[LeftOver]:
    """What a dead worker had in flight. Slots that cannot be read are skipped (a foreign or damaged file)."""
    decoder = msgspec.msgpack.Decoder(RequestIdentity)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for at in range(0, len(content) - _SLOT + 1, _SLOT):
        (state,) = _STATE.unpack_from(content, at)
        if state not in (_IN_FLIGHT, _RECORDED, _ENDED, _CHARGING):
            continue
        identity_length, record_length = _LENGTHS.unpack_from(content, at + 4)
        try:
            identity = decoder.decode(content[at + _IDENTITY_AT : at + _IDENTITY_AT + identity_length])
        except msgspec.DecodeError:
            continue
        prompt, completion, largest, _, out, started, first, last = _PROGRESS.unpack_from(content, at + _PROGRESS_AT)
        progress = Progress(prompt, completion, largest, out, started, first, last)
        ending = _ending(content, at) if state in (_ENDED, _CHARGING) else None
        record = content[at + _RECORD_AT : at + _RECORD_AT + record_length] if state == _RECORDED else None
        charged = state in (_RECORDED, _ENDED)
        yield LeftOver(at // _SLOT, identity, progress, ending, record, charged)


def _ending(content: bytes, at: int) -> Ending:
    status, place, reached, count, until, between_ms, queue_ms = _ENDING.unpack_from(content, at + _ENDING_AT)
    outcome: Outcome = OUTCOMES[place] if place < len(OUTCOMES) else "worker_lost"
    return Ending(status, outcome, until, bool(reached), queue_ms, count, between_ms)
