"""Rows of budgets, and what usage says was spent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Select, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.kernel.pagination import PageRequest
from tenants.budget_schemas import BudgetKind
from tenants.budget_tables import BudgetRow
from tenants.queries.locking import lock_all, lock_one
from tenants.scope import TenantScope
from tenants.usage_tables import UsageRollupRow, UsageRow

_METERED: Final = {BudgetKind.key: "key_id", BudgetKind.service: "service_id", BudgetKind.tenant: "tenant_id"}


async def find_budget(session: AsyncSession, scope: TenantScope, budget_id: str) -> BudgetRow:
    return _found(await session.scalar(_budget(scope, budget_id)), budget_id)


async def lock_budget(session: AsyncSession, scope: TenantScope, budget_id: str) -> BudgetRow:
    """The same, locked until the transaction ends."""
    return _found(await lock_one(session, _budget(scope, budget_id)), budget_id)


def _budget(scope: TenantScope, budget_id: str) -> Select[BudgetRow]:
    return select(BudgetRow).where(scope.holds(BudgetRow.tenant_id), BudgetRow.id == budget_id)


def _found(row: BudgetRow | None, budget_id: str) -> BudgetRow:
    if row is None:
        raise NotFound(f"there is no budget {budget_id!r}")
    return row


async def list_budgets(
    session: AsyncSession,
    scope: TenantScope,
    page: PageRequest,
    *,
    kind: BudgetKind | None = None,
    subject: str | None = None,
) -> Sequence[BudgetRow]:
    """Those within the scope; `subject` is the name or id of what they bound."""
    query = select(BudgetRow).where(scope.holds(BudgetRow.tenant_id))
    if kind is not None:
        query = query.where(BudgetRow.kind == kind.value)
    if subject is not None:
        query = query.where((BudgetRow.subject_id == subject) | (BudgetRow.subject_name == subject))
    return (await session.scalars(page.apply(query, BudgetRow.id))).all()


async def lock_budgets_of(session: AsyncSession, subject_ids: Collection[str]) -> Sequence[BudgetRow]:
    query = select(BudgetRow).where(BudgetRow.subject_id.in_(subject_ids)).order_by(BudgetRow.id)
    return await lock_all(session, query)


async def delete_budgets_of(session: AsyncSession, subject_id: str) -> None:
    await session.execute(delete(BudgetRow).where(BudgetRow.subject_id == subject_id))


async def metered(session: AsyncSession, kind: BudgetKind, subject_id: str, since: datetime) -> int:
    """The tokens that usage has from `since` on. Until the transaction ends no usage is inserted, so that none is
    counted neither here nor by who inserts it; SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("LOCK TABLE usage_records, usage_rollups IN SHARE MODE"))
    metered = 0
    for table in (UsageRow, UsageRollupRow):
        total = func.coalesce(func.sum(table.prompt_tokens + table.completion_tokens), 0)
        query = select(total).where(getattr(table, _METERED[kind]) == subject_id, table.at >= since)
        metered += int(await session.scalar(query) or 0)
    return metered
