"""Rows of usage: insertion without doubles, totals, and lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Select,
    SQLColumnExpression,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import BadInput
from appliance.kernel.pagination import PageRequest
from appliance.kernel.tables import UtcDateTime
from tenants.scope import TenantScope
from tenants.usage_schemas import Grouping, UsageFilter
from tenants.usage_tables import UsageRow

_COLUMNS: dict[Grouping, SQLColumnExpression[Any]] = {
    Grouping.tenant: UsageRow.tenant_id,
    Grouping.key: UsageRow.key_id,
    Grouping.service: UsageRow.service_id,
    Grouping.model: UsageRow.model,
}


async def insert(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Insert the rows whose `record_id` is new; the ids of those."""
    if not rows:
        return set()
    dialect = session.get_bind().dialect.name
    statement = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(UsageRow).on_conflict_do_nothing()
    inserted = await session.execute(statement.returning(UsageRow.record_id), list(rows))
    return set(inserted.scalars())


async def totals(
    session: AsyncSession,
    scope: TenantScope,
    wanted: UsageFilter,
    groupings: Sequence[Grouping],
    *,
    periods: Sequence[tuple[datetime, datetime]],
    most: int,
) -> Sequence[dict[str, Any]]:
    """At most `most` groups with their sums, by period and then by tokens; `periods` are what hours or days are."""
    keys: list[SQLColumnExpression[Any]] = [_COLUMNS[grouping] for grouping in groupings if grouping in _COLUMNS]
    query = select(*keys, *_sums()).where(*_conditions(scope, wanted))
    order: list[SQLColumnExpression[Any]] = [
        func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens).desc(),
        *keys,
    ]
    if periods:
        table = _table(periods)
        query = query.add_columns(table.c.begins.label("period")).join(
            table, and_(UsageRow.at >= table.c.begins, UsageRow.at < table.c.ends)
        )
        keys, order = [*keys, table.c.begins], [table.c.begins, *order]
    rows = await session.execute(query.group_by(*keys).order_by(*order).limit(most) if keys else query)
    return [dict(row) for row in rows.mappings()]


def _sums() -> tuple[ColumnElement[Any], ...]:
    def total(what: Any) -> Any:
        return cast(func.coalesce(func.sum(what), literal(0)), BigInteger)  # PostgreSQL's sum of bigint is numeric

    return (
        func.count().label("requests"),
        total(case((UsageRow.status >= 400, 1), else_=0)).label("failed"),
        total(UsageRow.prompt_tokens).label("prompt_tokens"),
        total(UsageRow.completion_tokens).label("completion_tokens"),
        total(UsageRow.tail_tokens).label("tail_tokens"),
        total(case((UsageRow.estimated, 1), else_=0)).label("estimated"),
    )


def _table(periods: Sequence[tuple[datetime, datetime]]) -> CTE:
    columns = column("begins", UtcDateTime()), column("ends", UtcDateTime())
    return values(*columns, name="periods").data(list(periods)).cte("periods")


def _conditions(scope: TenantScope, wanted: UsageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        scope.holds(UsageRow.tenant_id),
        UsageRow.at >= wanted.since,
        UsageRow.at < wanted.until,
    ]
    chosen = (
        (UsageRow.key_id, wanted.key_id),
        (UsageRow.service_id, wanted.service_id),
        (UsageRow.model, wanted.model),
    )
    return conditions + [attribute == value for attribute, value in chosen if value is not None]


async def records(
    session: AsyncSession, scope: TenantScope, wanted: UsageFilter, page: PageRequest
) -> Sequence[UsageRow]:
    """The page's rows and one more, the latest first."""
    query: Select[UsageRow] = select(UsageRow).where(*_conditions(scope, wanted))
    if page.cursor is not None:
        at, record_id = _position(page)
        query = query.where(or_(UsageRow.at < at, and_(UsageRow.at == at, UsageRow.record_id < record_id)))
    query = query.order_by(UsageRow.at.desc(), UsageRow.record_id.desc()).limit(page.limit + 1)
    return (await session.scalars(query)).all()


def position(row: UsageRow) -> str:
    """What the next page begins after."""
    return f"{row.at.astimezone(UTC).isoformat()}|{row.record_id}"


def _position(page: PageRequest) -> tuple[datetime, str]:
    at, separator, record_id = page.last().partition("|")
    try:
        instant = datetime.fromisoformat(at)
    except ValueError:
        instant = None
    if not separator or instant is None or instant.tzinfo is None:
        raise BadInput(f"cursor {page.cursor!r} was not made by this list")
    return instant, record_id
