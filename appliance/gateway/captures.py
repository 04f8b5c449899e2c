"""Captured requests and answers: from the workers' segments into files by service, which further parts read.

`captures/<service id>/<worker>-<segment>.jsonl` under APPLIANCE_HOME, a `CaptureRecord` a line, readable by the
appliance's user alone. A segment's files have its name and are written whole before it is removed, so a kill between
writes the same files again. The oldest files go when all together are larger than their bound. A service's files hold
what its owner may see: requests to that service, whoever sent them.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.wire import CaptureRecord, read_captures, sealed_segments
from appliance.kernel.crashpoints import reached
from appliance.kernel.files import write_secret
from appliance.kernel.logging import get_logger

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = get_logger(__name__)


class CaptureStatus(msgspec.Struct, frozen=True):
    """Of this process so far; `removed` files were the oldest when the bound was reached."""

    segments: int = 0
    records: int = 0
    removed: int = 0


class CaptureIngest:
    """`home` is APPLIANCE_HOME; `most_bytes` bounds all captures together."""

    name = "capture-ingest"
    period_s = 5.0

    def __init__(self, home: Path, most_bytes: int) -> None:
        self._spool, self._folder, self._most = home / "gateway" / "capture", home / "captures", most_bytes
        self._status = CaptureStatus()

    async def reconcile(self) -> CaptureStatus:
        """Move every sealed segment, oldest first."""
        for path in await asyncio.to_thread(sealed_segments, self._spool):
            try:
                records = await asyncio.to_thread(self._move, path)
            except OSError:
                log.exception("capture.segment_not_moved", path=str(path))
                continue
            before = self._status
            self._status = CaptureStatus(before.segments + 1, before.records + records, before.removed)
        removed = await asyncio.to_thread(self._bound)
        self._status = msgspec.structs.replace(self._status, removed=self._status.removed + removed)
        return self._status

    def _move(self, segment: Path) -> int:
        by_service: defaultdict[str, list[CaptureRecord]] = defaultdict(list)
        for record in read_captures(segment):
            if _SAFE_ID.fullmatch(record.service_id):
                by_service[record.service_id].append(record)
        for service_id, records in by_service.items():
            folder = self._folder / service_id
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = f"{segment.parent.name}-{segment.stem}.jsonl"
            write_secret(folder / name, msgspec.json.Encoder().encode_lines(records))
        reached("capture.segment_written")
        segment.unlink()
        return sum(map(len, by_service.values()))

    def _bound(self) -> int:
        """How many files were removed."""
        files = sorted(((path.stat(), path) for path in self._folder.glob("*/*.jsonl")), key=lambda f: f[0].st_mtime_ns)
        total = sum(found.st_size for found, _ in files)
        removed = 0
        for found, path in files:
            if total <= self._most:
                break
            path.unlink()
            total -= found.st_size
            removed += 1
        return removed
