"""Metered usage: ingested from the gateway's spool, shown as totals and as single records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import BadInput
from appliance.kernel.instants import checked
from appliance.kernel.pagination import Page, PageRequest
from tenants import budgets, periods
from tenants.queries import keys as key_queries
from tenants.queries import usage as queries
from tenants.usage_schemas import Grouping, UsageEntry, UsageFilter, UsageReport, UsageTotal
from tenants.usage_tables import LatencyRow, UsageRollupRow, UsageRow
from tenants.work import Work

DEFAULT_SPAN: Final = timedelta(days=30)
MOST_GROUPS: Final = 10_000
LATENCIES_KEPT: Final = timedelta(days=7)
_DEFAULTS: Final[dict[str, Any]] = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "estimated": False,
    "tail_tokens": 0,
    "stream": False,
    "bytes_in": 0,
    "bytes_out": 0,
    "queue_ms": 0.0,
    "ttft_ms": None,
    "duration_ms": 0.0,
    "inter_token_count": 0,
    "inter_token_ms": 0.0,
}


async def insert_usage(session: AsyncSession, records: Sequence[Mapping[str, Any]]) -> int:
    """Insert what is new among `records` (by `record_id`) and return how many those were.

    A record has the members of `UsageRow`, `at` as Unix seconds or an instant; counts that are left out are 0.
    Texts are cut to their column: one odd record must not hold up the spool behind it. `last_used_at` of the keys
    moves forward with them, and the budgets that they fall under are charged.
    """
    await key_queries.note_key_uses(session, _uses(records))
    return await _insert_metered(session, UsageRow, records)


async def insert_rollups(session: AsyncSession, records: Sequence[Mapping[str, Any]]) -> int:
    """The same for sums of many requests, which a gateway leaves when nobody took its usage for long."""
    await key_queries.note_key_uses(session, _uses(records))
    return await _insert_metered(session, UsageRollupRow, records)


async def insert_latencies(session: AsyncSession, records: Sequence[Mapping[str, Any]]) -> int:
    """The same for how fast deployments were; nothing is charged."""
    return len(await queries.insert(session, LatencyRow, [_row(LatencyRow, record) for record in records]))


async def prune_latencies(session: AsyncSession, now: datetime) -> int:
    """Remove latencies that are older than a week; how many there were."""
    return await queries.delete_latencies(session, now - LATENCIES_KEPT)


async def _insert_metered(session: AsyncSession, table: queries.Metered, records: Sequence[Mapping[str, Any]]) -> int:
    rows = {row["record_id"]: row for row in (_row(table, record) for record in records)}
    new = await queries.insert(session, table, list(rows.values()))
    await budgets.charge(session, [row for record_id, row in rows.items() if record_id in new])
    return len(new)


def _uses(records: Sequence[Mapping[str, Any]]) -> dict[str, datetime]:
    """The latest use of each key."""
    latest: dict[str, datetime] = {}
    for record in records:
        key_id, at = str(record["key_id"]), _instant(record["at"])
        latest[key_id] = max(at, latest.get(key_id, at))
    return latest


def _row(table: queries.Metered | type[LatencyRow], record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for attribute in table.__table__.columns:
        name = attribute.name
        row[name] = record[name] if name in record else _DEFAULTS[name]
        if isinstance(attribute.type, String):
            row[name] = str(row[name]).replace("\0", "")[: attribute.type.length]
    row["at"] = _instant(row["at"])
    return row


def _instant(at: float | datetime) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)


def filter_of(
    now: datetime,
    since: datetime | None,
    until: datetime | None,
    *,
    key_id: str | None = None,
    service_id: str | None = None,
    model: str | None = None,
) -> UsageFilter:
    """The filter that a caller asked for: without `until` up to now, without `since` the 30 days before that."""
    begin, end = span_of(now, since, until, DEFAULT_SPAN)
    return UsageFilter(since=begin, until=end, key_id=key_id, service_id=service_id, model=model)


def span_of(
    now: datetime, since: datetime | None, until: datetime | None, default: timedelta
) -> tuple[datetime, datetime]:
    """From and until when a caller means; `BadInput` for what is no span."""
    end = now if until is None else checked(until, "until")
    begin = end - default if since is None else checked(since, "since")
    if begin >= end:
        raise BadInput(f"since {begin.isoformat()} must be before until {end.isoformat()}")
    return begin, end


async def report(work: Work, wanted: UsageFilter, groupings: Sequence[Grouping], time_zone: str) -> UsageReport:
    """Totals by `groupings` (at most one of them hour or day, of `time_zone`); without any, one total."""
    place = periods.zone(time_zone)
    match [grouping for grouping in groupings if grouping in (Grouping.hour, Grouping.day)]:
        case []:
            spans = []
        case [Grouping.hour]:
            spans = periods.hours(wanted.since, wanted.until, place)
        case [Grouping.day]:
            spans = periods.days(wanted.since, wanted.until, place)
        case _:
            raise BadInput("group by hour or by day, not by both")
    rows = await queries.totals(
        work.session, work.scope, wanted, list(dict.fromkeys(groupings)), periods=spans, most=MOST_GROUPS + 1
    )
    if len(rows) > MOST_GROUPS:
        raise BadInput(f"that is more than {MOST_GROUPS} groups; ask for a shorter time or group by less")
    items = [msgspec.convert(row, UsageTotal) for row in rows]
    items = [msgspec.structs.replace(item, period=item.period and item.period.astimezone(place)) for item in items]
    return UsageReport(wanted.since, wanted.until, time_zone, items)


async def list_records(work: Work, wanted: UsageFilter, page: PageRequest) -> Page[UsageEntry]:
    rows = await queries.records(work.session, work.scope, wanted, page)
    items = [msgspec.convert(row, UsageEntry, from_attributes=True) for row in rows]
    return page.page(items, [queries.position(row) for row in rows])
