"""How fast services were: percentiles of the histograms that the gateway's workers leave every minute.

Histograms of workers, minutes and deployments are added before a percentile is taken, so it is as exact for a week as
for a minute: within `RELATIVE_ERROR` of the duration of the nearest rank, or half a microsecond. A record counts where
its span begins.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from appliance.gateway.plane.wire import RELATIVE_ERROR, Histogram, quantile
from appliance.kernel.errors import BadInput
from tenants.queries import latencies as queries
from tenants.queries.latencies import Latency
from tenants.usage import span_of
from tenants.usage_schemas import LatencyFilter
from tenants.work import Work

DEFAULT_SPAN: Final = timedelta(hours=1)
MOST_RECORDS: Final = 500_000
_MEASURES: Final = ("duration", "queue", "first_token", "inter_token")


class LatencyGrouping(StrEnum):
    """What percentiles are kept apart by."""

    service = "service"
    deployment = "deployment"


class Percentiles(msgspec.Struct, frozen=True):
    """Of `count` durations, in milliseconds; null without any. The mean is exact, the others within the report's
    `relative_error`.
    """

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class ServiceLatency(msgspec.Struct, frozen=True, kw_only=True):
    """`deployment_id` is null where deployments are taken together. `failed` requests have a status of 400 or more,
    or none. `duration` is from the request's head to the answer's end, `queue` what it waited for room; `first_token`
    (from the head) and `inter_token` (between two tokens) are of streams.
    """

    service_id: str
    deployment_id: str | None
    requests: int
    failed: int
    duration: Percentiles
    queue: Percentiles
    first_token: Percentiles
    inter_token: Percentiles


class LatencyReport(msgspec.Struct, frozen=True):
    """`relative_error`: how far a percentile may be from the true one, as a share of it."""

    since: datetime
    until: datetime
    relative_error: float
    items: list[ServiceLatency]


class _Merged:
    """The sum of the records of one group."""

    def __init__(self) -> None:
        self.requests = self.failed = 0
        self._histograms = {name: Histogram() for name in _MEASURES}

    def add(self, record: Latency) -> None:
        self.requests += record.requests
        self.failed += record.failed
        for name, histogram in self._histograms.items():
            stored: dict[str, Any] | None = getattr(record, name)
            if stored:
                buckets = {int(bucket): count for bucket, count in stored["buckets"].items()}
                histogram.add(buckets, stored["sum_s"])

    def shown(self, service_id: str, deployment_id: str | None) -> ServiceLatency:
        return ServiceLatency(
            service_id=service_id,
            deployment_id=deployment_id,
            requests=self.requests,
            failed=self.failed,
            **{name: percentiles(histogram) for name, histogram in self._histograms.items()},
        )


def percentiles(histogram: Histogram) -> Percentiles:
    count = histogram.count
    mean = round(1000 * histogram.sum / count, 3) if count else None
    return Percentiles(count, mean, *(_milliseconds(histogram, share) for share in (0.5, 0.9, 0.95, 0.99)))


def _milliseconds(histogram: Histogram, share: float) -> float | None:
    seconds = quantile(histogram.buckets, share)
    return None if seconds is None else round(1000 * seconds, 4)


def filter_of(
    now: datetime,
    since: datetime | None,
    until: datetime | None,
    *,
    service_id: str | None = None,
    deployment_id: str | None = None,
) -> LatencyFilter:
    """The filter that a caller asked for: without `until` up to now, without `since` the hour before that."""
    begin, end = span_of(now, since, until, DEFAULT_SPAN)
    return LatencyFilter(since=begin, until=end, service_id=service_id, deployment_id=deployment_id)


async def report(work: Work, wanted: LatencyFilter, grouping: LatencyGrouping) -> LatencyReport:
    """Of the services in the caller's scope that had requests, by their ids; `BadInput` for more than is merged."""
    records = await queries.count(work.session, work.scope, wanted)
    if records > MOST_RECORDS:
        raise BadInput(f"{records} records are more than {MOST_RECORDS}; ask for a shorter time or for one service")
    merged: dict[tuple[str, str], _Merged] = {}
    async for portion in queries.portions(work.session, work.scope, wanted):
        for record in portion:
            deployment_id = record.deployment_id if grouping is LatencyGrouping.deployment else ""
            merged.setdefault((record.service_id, deployment_id), _Merged()).add(record)
    items = [group.shown(service_id, deployment_id or None) for (service_id, deployment_id), group in _sorted(merged)]
    return LatencyReport(wanted.since, wanted.until, RELATIVE_ERROR, items)


def _sorted(merged: dict[tuple[str, str], _Merged]) -> list[tuple[tuple[str, str], _Merged]]:
    return sorted(merged.items(), key=lambda item: item[0])
