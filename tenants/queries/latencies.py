"""Rows of latencies, read in portions: a week of a busy platform is more than should be held at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tenants.scope import TenantScope
from tenants.usage_schemas import LatencyFilter
from tenants.usage_tables import LatencyRow

PORTION: Final = 500


class Latency(NamedTuple):
    """What one worker saw of a deployment in one span; histograms are `{"buckets": {...}, "sum_s": ...}`."""

    service_id: str
    deployment_id: str
    requests: int
    failed: int
    duration: Any
    queue: Any
    first_token: Any
    inter_token: Any


async def count(session: AsyncSession, scope: TenantScope, wanted: LatencyFilter) -> int:
    query = select(func.count()).select_from(LatencyRow).where(*_conditions(scope, wanted))
    return await session.scalar(query) or 0


async def portions(
    session: AsyncSession, scope: TenantScope, wanted: LatencyFilter
) -> AsyncIterator[Sequence[Latency]]:
    """All rows of the scope's services, in no order."""
    columns = [getattr(LatencyRow, name) for name in Latency._fields]
    rows = await session.stream(select(*columns).where(*_conditions(scope, wanted)))
    async for portion in rows.partitions(PORTION):
        yield [Latency(*row) for row in portion]


def _conditions(scope: TenantScope, wanted: LatencyFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        scope.holds(LatencyRow.tenant_id),
        LatencyRow.at >= wanted.since,
        LatencyRow.at < wanted.until,
    ]
    chosen = ((LatencyRow.service_id, wanted.service_id), (LatencyRow.deployment_id, wanted.deployment_id))
    return conditions + [attribute == value for attribute, value in chosen if value is not None]
