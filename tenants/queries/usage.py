"""Rows of usage: insertion without doubles, totals, and lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

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
    delete,
    func,
    literal,
    or_,
    select,
    union_all,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from appliance.kernel.errors import BadInput
from appliance.kernel.pagination import PageRequest
from appliance.kernel.tables import UtcDateTime
from tenants.scope import TenantScope
from tenants.usage_schemas import Grouping, UsageFilter
from tenants.usage_tables import LatencyRow, UsageRollupRow, UsageRow

_COLUMNS: Final = {
    Grouping.tenant: "tenant_id",
    Grouping.key: "key_id",
    Grouping.service: "service_id",
    Grouping.model: "model",
}
_SUMS: Final = ("requests", "failed", "prompt_tokens", "completion_tokens", "tail_tokens", "estimated")

Metered = type[UsageRow] | type[UsageRollupRow]


async def insert(session: AsyncSession, table: Metered | type[LatencyRow], rows: Sequence[dict[str, Any]]) -> set[str]:
    """Insert the rows whose `record_id` is new; the ids of those."""
    if not rows:
        return set()
    dialect = session.get_bind().dialect.name
    statement = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(table).on_conflict_do_nothing()
    inserted = await session.execute(statement.returning(table.record_id), list(rows))
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
    """At most `most` groups with their sums, by period and then by tokens; `periods` are what hours or days are.

    What was rolled up counts where its span begins.
    """
    counted = union_all(_single(scope, wanted), _rolled_up(scope, wanted)).subquery("counted").c
    keys: list[ColumnElement[Any]] = [counted[_COLUMNS[grouping]] for grouping in groupings if grouping in _COLUMNS]
    query = select(*keys, *(_total(counted[name]).label(name) for name in _SUMS))
    order: list[ColumnElement[Any]] = [
        func.sum(counted.prompt_tokens + counted.completion_tokens).desc(),
        *keys,
    ]
    if periods:
        table = _table(periods)
        query = query.add_columns(table.c.begins.label("period")).join(
            table, and_(counted.at >= table.c.begins, counted.at < table.c.ends)
        )
        keys, order = [*keys, table.c.begins], [table.c.begins, *order]
    rows = await session.execute(query.group_by(*keys).order_by(*order).limit(most) if keys else query)
    return [dict(row) for row in rows.mappings()]


def _total(what: Any) -> ColumnElement[Any]:
    return cast(func.coalesce(func.sum(what), literal(0)), BigInteger)  # PostgreSQL's sum of bigint is numeric


def _single(scope: TenantScope, wanted: UsageFilter) -> Select[*tuple[Any, ...]]:
    return select(
        *_named(UsageRow),
        literal(1).label("requests"),
        case((UsageRow.status >= 400, 1), else_=0).label("failed"),
        UsageRow.prompt_tokens,
        UsageRow.completion_tokens,
        UsageRow.tail_tokens,
        case((UsageRow.estimated, 1), else_=0).label("estimated"),
    ).where(*_conditions(UsageRow, scope, wanted))


def _rolled_up(scope: TenantScope, wanted: UsageFilter) -> Select[*tuple[Any, ...]]:
    return select(*_named(UsageRollupRow), *(getattr(UsageRollupRow, name) for name in _SUMS)).where(
        *_conditions(UsageRollupRow, scope, wanted)
    )


def _named(table: Metered) -> tuple[SQLColumnExpression[Any], ...]:
    return table.tenant_id, table.key_id, table.service_id, table.model, table.at


def _table(periods: Sequence[tuple[datetime, datetime]]) -> CTE:
    columns = column("begins", UtcDateTime()), column("ends", UtcDateTime())
    return values(*columns, name="periods").data(list(periods)).cte("periods")


def _conditions(table: Metered, scope: TenantScope, wanted: UsageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        scope.holds(table.tenant_id),
        table.at >= wanted.since,
        table.at < wanted.until,
    ]
    chosen = (
        (table.key_id, wanted.key_id),
        (table.service_id, wanted.service_id),
        (table.model, wanted.model),
    )
    return conditions + [attribute == value for attribute, value in chosen if value is not None]


async def records(
    session: AsyncSession, scope: TenantScope, wanted: UsageFilter, page: PageRequest
) -> Sequence[UsageRow]:
    """The page's rows and one more, the latest first."""
    query: Select[UsageRow] = select(UsageRow).where(*_conditions(UsageRow, scope, wanted))
    if page.cursor is not None:
        at, record_id = _position(page)
        query = query.where(or_(UsageRow.at < at, and_(UsageRow.at == at, UsageRow.record_id < record_id)))
    query = query.order_by(UsageRow.at.desc(), UsageRow.record_id.desc()).limit(page.limit + 1)
    return (await session.scalars(query)).all()


class Use(NamedTuple):
    requests: int
    tokens: int


async def used_by(
    session: AsyncSession,
    column: InstrumentedAttribute[str],
    ids: Sequence[str],
    since: datetime,
    until: datetime,
) -> Mapping[str, Use]:
    """What was metered of each of these keys, services or tenants (`column` of `UsageRow` says which), by id.

    A request that was refused has used nothing.
    """
    tokens = func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens)
    query = select(column, func.count(), cast(tokens, BigInteger)).group_by(column)
    query = query.where(column.in_(ids), UsageRow.at >= since, UsageRow.at <= until, UsageRow.outcome != "refused")
    return {subject: Use(requests, used) for subject, requests, used in await session.execute(query)}


async def delete_latencies(session: AsyncSession, before: datetime) -> int:
    """How many records of times before this were removed."""
    deleted = await session.execute(delete(LatencyRow).where(LatencyRow.at < before))
    return int(deleted.rowcount)  # type: ignore[attr-defined]  # the result of a DELETE is a CursorResult


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
