"""What bounds a tenant at the gateways, and what is used of it.

The gateways count by themselves and exactly; what is told here comes from the metered usage of the last minute, which
follows by some seconds and holds no request that still runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from sqlalchemy import select

from appliance.services.tables import ServiceRow
from tenants import limits
from tenants.limits import Limits, Priority
from tenants.queries.usage import Use, used_by
from tenants.tables import ApiKeyRow, TenantRow
from tenants.usage_tables import UsageRow
from tenants.work import Work

MINUTE: Final = timedelta(minutes=1)


class Limited(StrEnum):
    """Who is bounded."""

    tenant = "tenant"
    service = "service"
    key = "key"


class LimitsInUse(msgspec.Struct, frozen=True, kw_only=True):
    """`requests` and `tokens` were metered within the last minute; a service's are those of all who may use it.
    `priority` is the tenant's: whose requests come first where some have to wait.
    """

    kind: Limited
    id: str
    name: str
    limits: Limits
    priority: Priority | None = None
    requests: int
    tokens: int


class LimitsReport(msgspec.Struct, frozen=True):
    """The minute before `at`: the tenant first, then its services and keys that have limits, by name."""

    at: datetime
    items: list[LimitsInUse]


async def report(work: Work) -> LimitsReport:
    """Of the chosen tenant; `BadInput` where none is."""
    tenant_id = work.scope.one()
    tenant = await work.session.get_one(TenantRow, tenant_id)
    services = select(ServiceRow).where(ServiceRow.tenant_id == tenant_id, ServiceRow.limits.is_not(None))
    keys = select(ApiKeyRow).where(
        ApiKeyRow.tenant_id == tenant_id, ApiKeyRow.limits.is_not(None), ApiKeyRow.revoked_at.is_(None)
    )
    items = [
        *await _in_use(work, Limited.tenant, [tenant]),
        *await _in_use(work, Limited.service, (await work.session.scalars(services.order_by(ServiceRow.name))).all()),
        *await _in_use(work, Limited.key, (await work.session.scalars(keys.order_by(ApiKeyRow.name))).all()),
    ]
    return LimitsReport(work.now(), items)


_COLUMNS: Final = {
    Limited.tenant: UsageRow.tenant_id,
    Limited.service: UsageRow.service_id,
    Limited.key: UsageRow.key_id,
}


async def _in_use(
    work: Work, kind: Limited, rows: Sequence[TenantRow] | Sequence[ServiceRow] | Sequence[ApiKeyRow]
) -> list[LimitsInUse]:
    now = work.now()
    used = await used_by(work.session, _COLUMNS[kind], [row.id for row in rows], now - MINUTE, now)
    return [_shown(kind, row, used.get(row.id, Use(0, 0))) for row in rows]


def _shown(kind: Limited, row: TenantRow | ServiceRow | ApiKeyRow, use: Use) -> LimitsInUse:
    return LimitsInUse(
        kind=kind,
        id=row.id,
        name=row.name,
        limits=limits.read(row.limits),
        priority=Priority(row.priority) if isinstance(row, TenantRow) else None,
        requests=use.requests,
        tokens=use.tokens,
    )
