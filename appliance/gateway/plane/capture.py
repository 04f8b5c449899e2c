"""Requests and answers that are kept for the service's owner, of a share of the requests.

Which requests these are is decided by a hash of the client's request id, so that a retry is kept with its first
attempt. On the event loop a capture only keeps references to what passes anyway; a stream is put together to one
answer, and all is written, in a thread. Memory and disk are bounded: what does not fit is dropped and counted, and a
disk that has little room left is for usage and not for captures. The answer's bytes are never waited for or changed.

What the gateway itself adds to a request (the tenant's cache salt, the priority, options of the stream) is taken out.
"""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from appliance.gateway.plane.frames import HEADER, MAX_PAYLOAD, SEALED_SUFFIX
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.reassembly import reassembled
from appliance.gateway.plane.schemas.records import CaptureRecord, UsageRecord
from appliance.gateway.plane.schemas.services import Capture
from appliance.gateway.plane.spool import new_segment, seal, seal_left_overs

if TYPE_CHECKING:
    from appliance.gateway.plane.request import Request

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""All captures of a worker together, those that wait for the thread included."""
LONGEST: Final = (MAX_PAYLOAD - 64 * 1024) // 4
"""Bytes of a request or an answer that fit a record whatever they are made of, and the bound of `max_bytes`."""
SEAL_BYTES: Final = 4 * 1024 * 1024
SEAL_AFTER_S: Final = 5.0
KEPT_FREE_BYTES: Final = 256 * 1024 * 1024
"""On the disk, for usage."""
_STREAM_FACTOR: Final = 16
"""A stream's events are so much longer than its answer, or more; then its end is missing."""
_OWN_MEMBERS: Final = frozenset({"cache_salt", "priority", "stream_options"})

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Captured:
    """One request's capture while it runs."""

    __slots__ = ("_most", "answer", "held", "is_short", "request")

    def __init__(self, policy: Capture, request: bytes) -> None:
        self.request = request
        self.answer: list[bytes] = []
        self.is_short = False
        """Whether the end of the answer is missing."""
        self.held = len(request)
        self._most = self.held + _STREAM_FACTOR * min(policy.max_bytes, LONGEST)

    def add(self, piece: bytes) -> int:
        """A piece of the answer as the client gets it; how many bytes more are held for it."""
        if self.is_short:
            return 0
        if self.held + len(piece) > self._most:
            self.is_short = True
            return 0
        self.answer.append(piece)
        self.held += len(piece)
        return len(piece)


class CaptureStore:
    """Of one worker. What begins with `_keep` runs in the thread, one call at a time; no member has two writers."""

    def __init__(self, directory: Path, executor: Executor, log: Log) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.most_bytes = 0
        """On the disk, waiting for the control plane; 0 until it is told."""
        self._directory = directory
        self._executor = executor
        self._log = log
        self._ended: list[tuple[Captured, UsageRecord, Capture]] = []
        self._taken = self._given_back = 0
        """Bytes that were held since the start, by the loop, and bytes of those that the thread has let go."""
        self._no_memory = 0
        self._kept: dict[str, int] = {}
        self._descriptor: int | None = None
        self._path = directory
        self._written = 0
        self._opened_at = 0.0
        self._failing = False
        seal_left_overs(directory)

    def results(self) -> dict[str, int]:
        """How many captures became what: `kept`, `no_memory`, `no_disk`, `failed`."""
        return {**self._kept, "no_memory": self._no_memory} if self._kept or self._no_memory else {}

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self._taken - self._given_back

    def begin(self, policy: Capture, request: Request) -> Captured | None:
        """None if the request is not to be kept, or there is no room for it."""
        prepared = request.prepared
        if prepared is None or not is_sampled(request.request_id, policy.share):
            return None
        if self.held + len(prepared.body) > MEMORY_BYTES:
            self._no_memory += 1
            return None
        captured = Captured(policy, prepared.body)
        self._taken += captured.held
        return captured

    def add(self, captured: Captured, piece: bytes) -> None:
        """What goes to the client."""
        if self.held + len(piece) > MEMORY_BYTES:
            captured.is_short = True
        else:
            self._taken += captured.add(piece)

    def end(self, captured: Captured, record: UsageRecord, policy: Capture) -> None:
        """The request is over and settled."""
        self._ended.append((captured, record, policy))

    def flush(self) -> None:
        """Hand over to the thread what has ended. Called a few times a second."""
        if self._ended or self._descriptor is not None:
            ended, self._ended = self._ended, []
            self._executor.submit(self._keep_all, ended)

    def close(self) -> None:
        """The thread has ended."""
        self._keep_all(self._ended)
        self._ended = []
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            seal(descriptor, self._path)

    def _keep_all(self, ended: list[tuple[Captured, UsageRecord, Capture]]) -> None:
        for captured, record, policy in ended:
            try:
                self._keep(captured, record, min(policy.max_bytes, LONGEST))
                self._failing = False
                result = "kept"
            except OSError as error:
                if not self._failing:
                    self._log.error("capture.not_written", reason=str(error))
                self._failing = True
                result = "no_disk"
            except Exception as error:  # noqa: BLE001 - what one engine answered must not cost others their captures
                self._log.error("capture.failed", record=record.record_id, reason=repr(type(error)))
                result = "failed"
            self._given_back += captured.held
            self._kept[result] = self._kept.get(result, 0) + 1
        try:
            self._keep_sealed()
        except OSError as error:
            self._log.error("capture.not_sealed", path=str(self._path), reason=str(error))

    def _keep(self, captured: Captured, record: UsageRecord, most: int) -> None:
        payload = _encode(capture_record(captured, record, most))
        frame = HEADER.pack(len(payload), crc32(payload)) + payload
        descriptor = self._keep_open()
        try:
            done = 0
            while done < len(frame):
                done += os.write(descriptor, frame[done:])
        except OSError:
            os.ftruncate(descriptor, self._written)
            os.lseek(descriptor, self._written, os.SEEK_SET)
            raise
        self._written += len(frame)

    def _keep_open(self) -> int:
        """The open segment, a new one if there is none and room for it."""
        if self._descriptor is not None:
            return self._descriptor
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < KEPT_FREE_BYTES:
            raise OSError(errno.ENOSPC, "the rest of the disk is kept for usage")
        waiting = sum(path.stat().st_size for path in self._directory.glob(f"*{SEALED_SUFFIX}"))
        if waiting + SEAL_BYTES > self.most_bytes:
            raise OSError(errno.ENOSPC, "the bound on waiting captures is reached")
        self._descriptor, self._path = new_segment(self._directory)
        self._written = 0
        self._opened_at = time.monotonic()
        return self._descriptor

    def _keep_sealed(self) -> None:
        if self._descriptor is None or not self._written:
            return
        if self._written >= SEAL_BYTES or time.monotonic() - self._opened_at >= SEAL_AFTER_S:
            descriptor, self._descriptor = self._descriptor, None
            seal(descriptor, self._path)


def is_sampled(request_id: bytes, share: float) -> bool:
    """The same for the same id everywhere and always; of many ids `share` of them."""
    return crc32(request_id) < share * 2**32


def capture_record(captured: Captured, record: UsageRecord, most: int) -> CaptureRecord:
    """`most`: bytes of a request and of an answer that are kept."""
    request, answer = _own_members_out(captured.request), b"".join(captured.answer)
    if record.stream and (whole := reassembled(answer)) is not None:
        answer = _encode_json(whole)
    return CaptureRecord(
        record_id=record.record_id,
        request_id=record.request_id,
        at=record.at,
        tenant_id=record.tenant_id,
        key_id=record.key_id,
        service_id=record.service_id,
        deployment_id=record.deployment_id,
        route=record.route,
        model=record.model,
        status=record.status,
        outcome=record.outcome,
        request=request[:most].decode(errors="replace"),
        answer=answer[:most].decode(errors="replace"),
        stream=record.stream,
        is_cut=record.outcome != "completed",
        request_is_short=len(request) > most,
        answer_is_short=captured.is_short or len(answer) > most,
    )


def _own_members_out(request: bytes) -> bytes:
    try:
        members = _decode_members(request)
    except (msgspec.DecodeError, RecursionError):
        return b""  # a binary body, which may hold what must not be kept
    if _OWN_MEMBERS.isdisjoint(members):
        return request
    return _encode_json({name: value for name, value in members.items() if name not in _OWN_MEMBERS})
