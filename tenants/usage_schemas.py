"""What callers get about metered usage."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Grouping(StrEnum):
    """What totals are kept apart by."""

    tenant = "tenant"
    key = "key"
    service = "service"
    model = "model"
    hour = "hour"
    day = "day"


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """`since` inclusive, `until` exclusive; None does not filter."""

    since: datetime
    until: datetime
    key_id: str | None = None
    service_id: str | None = None
    model: str | None = None


class LatencyFilter(msgspec.Struct, frozen=True, kw_only=True):
    """`since` inclusive, `until` exclusive; None does not filter."""

    since: datetime
    until: datetime
    service_id: str | None = None
    deployment_id: str | None = None


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one group; a column that was not grouped by is null.

    `period` is when the hour or day begins, in the time zone asked for. `failed` requests have a status of 400 or
    more. `tail_tokens` bounds what engines may have generated beyond `completion_tokens` for answers that were cut.
    `estimated` counts the requests whose tokens the engine did not report.
    """

    tenant_id: str | None = None
    key_id: str | None = None
    service_id: str | None = None
    model: str | None = None
    period: datetime | None = None
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    tail_tokens: int
    estimated: int


class UsageReport(msgspec.Struct, frozen=True):
    since: datetime
    until: datetime
    time_zone: str
    items: list[UsageTotal]


class UsageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One metered request, as the gateway counted it; durations in milliseconds, sizes in bytes.

    `inter_token_count` tokens came after the first piece of a stream, within `inter_token_ms`.
    """

    record_id: str
    request_id: str
    at: datetime
    tenant_id: str
    key_id: str
    service_id: str
    deployment_id: str
    replica_id: str
    route: str
    model: str
    status: int
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    tail_tokens: int
    stream: bool
    bytes_in: int
    bytes_out: int
    queue_ms: float
    ttft_ms: float | None
    duration_ms: float
    inter_token_count: int
    inter_token_ms: float
