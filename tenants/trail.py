"""Reading the audit trail: lists, and an export that holds no transaction while it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import msgspec

from appliance.kernel.db import Database
from appliance.kernel.instants import checked
from appliance.kernel.pagination import Page, PageRequest
from tenants.queries import audit as queries
from tenants.queries.audit import AuditFilter
from tenants.scope import TenantScope
from tenants.work import Work

_BATCH: Final = 500


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One mutation; the last three are null until the row is sealed (`tenants/sealing.py` has the format)."""

    id: str
    at: datetime
    actor_kind: str
    actor_id: str
    actor_name: str
    tenant_id: str | None
    action: str
    target_kind: str
    target_id: str
    request_id: str | None
    detail: dict[str, Any]
    sequence: int | None
    previous_hash: str | None
    hash: str | None


def filter_of(
    *,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> AuditFilter:
    """The filter that a caller asked for; `BadInput` for an instant that is none."""
    return AuditFilter(
        actor=actor,
        action=action,
        target=target,
        since=None if since is None else checked(since, "since"),
        until=None if until is None else checked(until, "until"),
    )


async def list_events(work: Work, wanted: AuditFilter, page: PageRequest) -> Page[AuditEvent]:
    rows = await queries.list_events(work.session, work.scope, wanted, page)
    items = [msgspec.convert(row, AuditEvent, from_attributes=True) for row in rows]
    return page.page(items, [row.id for row in rows])


async def export(database: Database, scope: TenantScope, wanted: AuditFilter) -> AsyncIterator[bytes]:
    """The events as JSON lines, the oldest first; each batch is read in a transaction of its own."""
    after = ""
    while True:
        async with database.read() as session:
            rows = await queries.events_after(session, scope, wanted, after, _BATCH)
            events = [msgspec.convert(row, AuditEvent, from_attributes=True) for row in rows]
        if not events:
            return
        yield msgspec.json.Encoder().encode_lines(events)
        after = events[-1].id
