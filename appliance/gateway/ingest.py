"""The spool ingest: rows of usage and latency equal the sealed segments that the gateway's workers have left.

A segment is claimed first: from then on the gateway does not sum it up with others. A record is inserted under its
unique id and a segment is removed only after the commits that hold all of it; so a kill at any point between leaves
the segment to be read again, to no effect. Segments that are still being written are not touched: a worker seals
them after a second, and its replacement seals what a killed one left, without the torn frame at the end.

What cannot be ingested is put aside in `gateway/spool/quarantine`, logged and counted, and not tried again: a
damaged segment (after its records before the damage were taken), and single records that the database refuses.
Latencies that there is no table for are counted and let go; usage never is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.plane.wire import (
    Durations,
    LatencyRecord,
    SpoolRecord,
    UsageRecord,
    UsageRollup,
    claim,
    read_records,
    sealed_segments,
    whole_bytes,
)
from appliance.kernel.crashpoints import reached
from appliance.kernel.files import write_atomic
from appliance.kernel.leases import Guarded
from appliance.kernel.logging import get_logger

Insert = Callable[[AsyncSession, list[dict[str, Any]]], Awaitable[int]]
"""Inserts what is not there yet, by `record_id`; how many were new. The members are those of the record, histograms
as `{"buckets": {"<bucket>": count}, "sum_s": seconds}`.
"""

Kind = type[UsageRecord] | type[UsageRollup] | type[LatencyRecord]
_KINDS: Final[tuple[Kind, ...]] = (UsageRecord, UsageRollup, LatencyRecord)

BATCH: Final = 500
"""Records in one transaction: SQLite's one writer is not kept for long."""

_REFUSALS: Final = ("22", "23")
"""Classes of SQLSTATE that blame the data: data exception, integrity constraint violation."""

_END_OF_TIME: Final = 253402300800.0
"""The first Unix second of the year 10000, which no date can hold."""

log = get_logger(__name__)


class IngestStatus(msgspec.Struct, frozen=True):
    """Of this process so far. `records` were read, `inserted` of them new; the others had been ingested before."""

    segments: int = 0
    records: int = 0
    inserted: int = 0
    refused_records: int = 0
    damaged_segments: int = 0
    skipped_latencies: int = 0


@dataclass(slots=True)
class _Segment:
    path: Path
    records: list[SpoolRecord]
    is_damaged: bool
    refused: list[tuple[SpoolRecord, str]] = field(default_factory=list)


class UsageIngest:
    """`spool` is `gateway/spool` under APPLIANCE_HOME; `others` insert the records that are not single requests."""

    name = "usage-ingest"
    period_s = 2.0

    def __init__(
        self, guarded: Guarded, spool: Path, insert: Insert, others: Mapping[Kind, Insert] | None = None
    ) -> None:
        self._guarded, self._spool = guarded, spool
        self._inserts: dict[Kind, Insert] = {UsageRecord: insert, **(others or {})}
        self._status = IngestStatus()

    @property
    def status(self) -> IngestStatus:
        return self._status

    async def reconcile(self) -> IngestStatus:
        """Ingest every sealed segment, oldest first. One that cannot be read does not hold up the others."""
        for path in await asyncio.to_thread(sealed_segments, self._spool):
            try:
                segment = await asyncio.to_thread(_read, path)
            except OSError:
                log.exception("spool.segment_unreadable", path=str(path))
                continue
            if segment is not None:
                await self._take(segment)
        return self._status

    async def _take(self, segment: _Segment) -> None:
        inserted = skipped = 0
        for kind in _KINDS:
            records = [record for record in segment.records if isinstance(record, kind)]
            insert = self._inserts.get(kind)
            if insert is not None:
                for start in range(0, len(records), BATCH):
                    inserted += await self._insert_batch(segment, insert, records[start : start + BATCH])
            elif kind is LatencyRecord:
                skipped += len(records)
            else:
                for record in records:
                    _refuse(segment, record, "this release has no table for it")
        await asyncio.to_thread(_put_aside, segment, self._spool / "quarantine")
        reached("usage.segment_removed")
        before = self._status
        self._status = IngestStatus(
            segments=before.segments + 1,
            records=before.records + len(segment.records),
            inserted=before.inserted + inserted,
            refused_records=before.refused_records + len(segment.refused),
            damaged_segments=before.damaged_segments + segment.is_damaged,
            skipped_latencies=before.skipped_latencies + skipped,
        )

    async def _insert_batch(self, segment: _Segment, insert: Insert, records: Sequence[SpoolRecord]) -> int:
        sound = []
        for record in records:
            if (reason := unsound(record)) is None:
                sound.append(record)
            else:
                _refuse(segment, record, reason)
        try:
            return await self._insert_all(insert, sound)
        except DBAPIError as error:
            if not _blames_data(error):
                raise
        return await self._insert_singly(segment, insert, sound)

    async def _insert_singly(self, segment: _Segment, insert: Insert, records: Sequence[SpoolRecord]) -> int:
        """One of these was refused and took the others with it: find out which."""
        inserted = 0
        for record in records:
            try:
                inserted += await self._insert_all(insert, [record])
            except DBAPIError as error:
                if not _blames_data(error):
                    raise
                _refuse(segment, record, str(error.orig))
        return inserted

    async def _insert_all(self, insert: Insert, records: Sequence[SpoolRecord]) -> int:
        if not records:
            return 0
        async with self._guarded.write() as session:
            inserted = await insert(session, [_members(record) for record in records])
        reached("usage.batch_committed")
        return inserted


def _members(record: SpoolRecord) -> dict[str, Any]:
    members = msgspec.structs.asdict(record)
    if isinstance(record, LatencyRecord):
        for name, value in members.items():
            if isinstance(value, Durations):
                buckets = {str(bucket): count for bucket, count in value.buckets.items()}
                members[name] = {"buckets": buckets, "sum_s": value.sum_s}
    return members


def unsound(record: SpoolRecord) -> str | None:
    """Why no database could store the record, whatever became of its texts; None if one can."""
    for name, value in msgspec.structs.asdict(record).items():
        match value:
            case int() if abs(value) >= 2**63:
                return f"{name} is {value}"
            case float() if not math.isfinite(value):
                return f"{name} is {value}"
    return None if 0 <= record.at < _END_OF_TIME else f"at is {record.at}"


def _refuse(segment: _Segment, record: SpoolRecord, reason: str) -> None:
    log.error("usage.record_refused", record=record.record_id, segment=str(segment.path), reason=reason)
    segment.refused.append((record, reason))


def _blames_data(error: DBAPIError) -> bool:
    """Whether the same data would be refused again, rather than the same attempt succeed later."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate)[:2] in _REFUSALS
    return type(error).__name__ in ("IntegrityError", "DataError")


def _read(path: Path) -> _Segment | None:
    """None if the gateway was quicker and has summed it up: then its sums are a segment."""
    taken = claim(path)
    if taken is None:
        return None
    reached("usage.segment_claimed")
    records = [record for record, _ in read_records(taken)]
    return _Segment(taken, records, is_damaged=whole_bytes(taken) < taken.stat().st_size)


def _put_aside(segment: _Segment, quarantine: Path) -> None:
    """Remove a segment whose records are committed; keep what was not understood or not accepted."""
    name = f"{segment.path.parent.name}-{segment.path.stem}.seg"
    if segment.refused:
        quarantine.mkdir(exist_ok=True)
        lines = [{"reason": reason, "record": record} for record, reason in segment.refused]
        write_atomic(quarantine / f"{name}.refused.jsonl", msgspec.json.Encoder().encode_lines(lines), mode=0o600)
    if segment.is_damaged:
        quarantine.mkdir(exist_ok=True)
        log.error("spool.segment_damaged", path=str(segment.path), kept=str(quarantine / name))
        segment.path.rename(quarantine / name)
    else:
        segment.path.unlink()
