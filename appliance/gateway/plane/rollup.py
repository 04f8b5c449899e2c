"""Waiting usage is summed up when the control plane is away for long: bounded room, and nothing lost or doubled.

The segments to be summed up are claimed one by one (`.seg` to `.rolling`); the sums are written whole beside them
(`.rolled`); the claimed segments are removed; then the sums become a segment. A kill at any point leaves either no
sums, and the claimed segments are given back, or whole sums, and what they stand for is removed. Segments that the
ingest has claimed are never touched, damaged ones are left to it.

Sums are kept by tenant, key, service, model and hour, latencies by deployment and hour; those of several roll-ups
are added up again when there are many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, assert_never

from appliance.gateway.plane.frames import SEALED_SUFFIX, TAKEN_SUFFIX, encode_frame, read_records, whole_bytes
from appliance.gateway.plane.histograms import Histogram
from appliance.gateway.plane.identifiers import RequestIds
from appliance.gateway.plane.schemas.records import Durations, LatencyRecord, SpoolRecord, UsageRecord, UsageRollup
from appliance.kernel.files import sync_directory, write_atomic

HOUR_S: Final = 3600
BATCH_BYTES: Final = 64 * 1024 * 1024
"""Segments that are summed up at once."""
MANY: Final = 16
"""Segments of sums that are added up again."""

_ROLLING: Final = ".rolling"
_ROLLED: Final = ".rolled"
_SUMS: Final = "-sums"


def roll_up(directory: Path) -> bool:
    """One batch of a worker's sealed segments; whether there was any. `OSError` leaves all as it was."""
    finish(directory)
    sealed = sorted(directory.glob(f"*{SEALED_SUFFIX}"))
    plain = [path for path in sealed if not path.stem.endswith(_SUMS)]
    sums = [path for path in sealed if path.stem.endswith(_SUMS)]
    batch = _batch(plain) or (_batch(sums) if len(sums) >= MANY else [])
    claimed = [taken for path in batch if (taken := _claim(path)) is not None]
    claimed = [path for path in claimed if not _give_up_damaged(path)]
    if not claimed:
        return False
    content = b"".join(map(encode_frame, summed(_records(claimed))))
    write_atomic(directory / f"{batch[0].stem.removesuffix(_SUMS)}{_SUMS}{_ROLLED}", content, mode=0o640)
    finish(directory)
    return True


def finish(directory: Path) -> None:
    """Bring a roll-up that was interrupted to one of its two ends."""
    rolled = sorted(directory.glob(f"*{_ROLLED}"))
    for path in directory.glob(f"*{_ROLLING}"):
        if rolled:
            path.unlink()
        else:
            path.rename(path.with_suffix(SEALED_SUFFIX))
    sync_directory(directory)
    for path in rolled:
        path.rename(path.with_suffix(SEALED_SUFFIX))


def _batch(paths: Sequence[Path]) -> list[Path]:
    taken: list[Path] = []
    size = 0
    for path in paths:
        if taken and size > BATCH_BYTES:
            break
        taken.append(path)
        size += _size(path)
    return taken


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the ingest has it
        return 0


def _claim(path: Path) -> Path | None:
    claimed = path.with_suffix(_ROLLING)
    try:
        path.rename(claimed)
    except FileNotFoundError:
        return None
    return claimed


def _give_up_damaged(path: Path) -> bool:
    """Whether it is damaged: then it becomes the ingest's, which takes what is whole and keeps the rest."""
    if whole_bytes(path) == path.stat().st_size:
        return False
    path.rename(path.with_suffix(TAKEN_SUFFIX))
    return True


def _records(paths: Iterable[Path]) -> Iterable[SpoolRecord]:
    for path in paths:
        for record, _ in read_records(path):
            yield record


def summed(records: Iterable[SpoolRecord]) -> list[SpoolRecord]:
    """What stands for `records`, which must be distinct."""
    new_id = RequestIds().next
    usage: dict[tuple[object, ...], _Usage] = {}
    latency: dict[tuple[object, ...], _Latency] = {}
    for record in records:
        hour = int(record.at) // HOUR_S * HOUR_S
        match record:
            case UsageRecord() | UsageRollup():
                key = (hour, record.tenant_id, record.key_id, record.service_id, record.model)
                usage.setdefault(key, _Usage(record, hour)).add(record)
            case LatencyRecord():
                at = (hour, record.service_id, record.deployment_id)
                latency.setdefault(at, _Latency(record, hour)).add(record)
            case _:
                assert_never(record)
    return [*(sums.record(new_id) for sums in usage.values()), *(sums.record(new_id) for sums in latency.values())]


_SUMMED: Final = (
    "estimated",
    "prompt_tokens",
    "completion_tokens",
    "tail_tokens",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "queue_ms",
)


class _Usage:
    def __init__(self, first: UsageRecord | UsageRollup, hour: int) -> None:
        self._first, self._hour = first, hour
        self._requests = self._failed = self._cut = 0
        self._sums: dict[str, float] = dict.fromkeys(_SUMMED, 0)

    def add(self, record: UsageRecord | UsageRollup) -> None:
        if isinstance(record, UsageRollup):
            self._requests += record.requests
            self._failed += record.failed
            self._cut += record.cut
        else:
            self._requests += 1
            self._failed += record.status >= 400  # the least status of an error
            self._cut += record.status == 0
        for name in _SUMMED:
            self._sums[name] += getattr(record, name)

    def record(self, new_id: Callable[[], str]) -> UsageRollup:
        first, sums = self._first, self._sums
        return UsageRollup(
            record_id=f"sum_{new_id()}",
            at=float(self._hour),
            span_s=HOUR_S,
            tenant_id=first.tenant_id,
            key_id=first.key_id,
            service_id=first.service_id,
            model=first.model,
            requests=self._requests,
            failed=self._failed,
            cut=self._cut,
            estimated=int(sums["estimated"]),
            prompt_tokens=int(sums["prompt_tokens"]),
            completion_tokens=int(sums["completion_tokens"]),
            tail_tokens=int(sums["tail_tokens"]),
            bytes_in=int(sums["bytes_in"]),
            bytes_out=int(sums["bytes_out"]),
            duration_ms=round(sums["duration_ms"], 3),
            queue_ms=round(sums["queue_ms"], 3),
        )


_HISTOGRAMS: Final = ("duration", "queue", "first_token", "inter_token")


class _Latency:
    def __init__(self, first: LatencyRecord, hour: int) -> None:
        self._first, self._hour = first, hour
        self._counts = dict.fromkeys(("requests", "failed", "prompt_tokens", "completion_tokens"), 0)
        self._histograms = {name: Histogram() for name in _HISTOGRAMS}

    def add(self, record: LatencyRecord) -> None:
        for name in self._counts:
            self._counts[name] += getattr(record, name)
        for name, histogram in self._histograms.items():
            durations: Durations = getattr(record, name)
            histogram.add(durations.buckets, durations.sum_s)

    def record(self, new_id: Callable[[], str]) -> LatencyRecord:
        first, counts, histograms = self._first, self._counts, self._histograms
        return LatencyRecord(
            record_id=f"sum_{new_id()}",
            at=float(self._hour),
            span_s=HOUR_S,
            tenant_id=first.tenant_id,
            service_id=first.service_id,
            deployment_id=first.deployment_id,
            requests=counts["requests"],
            failed=counts["failed"],
            prompt_tokens=counts["prompt_tokens"],
            completion_tokens=counts["completion_tokens"],
            duration=histograms["duration"].durations(),
            queue=histograms["queue"].durations(),
            first_token=histograms["first_token"].durations(),
            inter_token=histograms["inter_token"].durations(),
        )
