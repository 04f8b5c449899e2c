"""Rows of the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.pagination import PageRequest
from tenants.scope import TenantScope
from tenants.tables import AuditRow


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """`since` inclusive, `until` exclusive; `actor` and `target` are ids, `actor` also a name; None does not filter."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_events(
    session: AsyncSession, scope: TenantScope, wanted: AuditFilter, page: PageRequest
) -> Sequence[AuditRow]:
    query = select(AuditRow).where(*_conditions(scope, wanted))
    return (await session.scalars(page.apply(query, AuditRow.id))).all()


async def events_after(
    session: AsyncSession, scope: TenantScope, wanted: AuditFilter, after: str, most: int
) -> Sequence[AuditRow]:
    """The next rows in ascending order of ids, for an export."""
    query = select(AuditRow).where(*_conditions(scope, wanted), AuditRow.id > after)
    return (await session.scalars(query.order_by(AuditRow.id).limit(most))).all()


def _conditions(scope: TenantScope, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [scope.holds(AuditRow.tenant_id)]
    if wanted.actor is not None:
        conditions.append((AuditRow.actor_id == wanted.actor) | (AuditRow.actor_name == wanted.actor))
    if wanted.action is not None:
        conditions.append(AuditRow.action == wanted.action)
    if wanted.target is not None:
        conditions.append(AuditRow.target_id == wanted.target)
    if wanted.since is not None:
        conditions.append(AuditRow.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(AuditRow.at < wanted.until)
    return conditions


async def count_unsealed(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(AuditRow).where(AuditRow.sequence.is_(None))) or 0


async def unsealed(session: AsyncSession, most: int) -> Sequence[AuditRow]:
    query = select(AuditRow).where(AuditRow.sequence.is_(None)).order_by(AuditRow.id).limit(most)
    return (await session.scalars(query)).all()


async def last_sealed(session: AsyncSession) -> AuditRow | None:
    query = select(AuditRow).where(AuditRow.sequence.is_not(None)).order_by(AuditRow.sequence.desc()).limit(1)
    return await session.scalar(query)


async def sealed_from(session: AsyncSession, sequence: int, most: int) -> Sequence[AuditRow]:
    query = select(AuditRow).where(AuditRow.sequence >= sequence).order_by(AuditRow.sequence).limit(most)
    return (await session.scalars(query)).all()
