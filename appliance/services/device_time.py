"""What was metered of devices, as totals: device seconds by tenant, service, model, hour or day.

Kept by hours of UTC: an hour counts to the period of the time zone asked for in which it begins. What is held now is
in it up to a minute ago.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, ColumnElement, and_, cast, column, func, literal, select, values

from appliance.kernel.errors import BadInput
from appliance.kernel.tables import UtcDateTime
from appliance.services.metering_tables import DeviceUsageRow
from tenants import periods
from tenants.usage import MOST_GROUPS
from tenants.work import Work

_PERCENT_MS: Final = 100_000
"""Of one device and one second."""


class DeviceGrouping(StrEnum):
    """What totals are kept apart by; `model` is the devices' model."""

    tenant = "tenant"
    service = "service"
    model = "model"
    hour = "hour"
    day = "day"


class DeviceTimeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Hours that begin at `since` or later and before `until`; None does not filter."""

    since: datetime
    until: datetime
    service_id: str | None = None


class DeviceTime(msgspec.Struct, frozen=True, kw_only=True):
    """One group; what was not grouped by is null. A whole device held for a second is one device second, a share of
    40 % held for a second 0.4. `period` is when the hour or day begins, in the time zone asked for.
    """

    tenant_id: str | None = None
    service_id: str | None = None
    vendor: str | None = None
    model: str | None = None
    period: datetime | None = None
    device_seconds: float


class DeviceTimeReport(msgspec.Struct, frozen=True):
    """`since` and `until` are whole hours of UTC."""

    since: datetime
    until: datetime
    time_zone: str
    items: list[DeviceTime]


_COLUMNS: Final = {
    DeviceGrouping.tenant: (DeviceUsageRow.tenant_id,),
    DeviceGrouping.service: (DeviceUsageRow.service_id,),
    DeviceGrouping.model: (DeviceUsageRow.vendor, DeviceUsageRow.model),
}


async def report(
    work: Work, wanted: DeviceTimeFilter, groupings: Sequence[DeviceGrouping], time_zone: str
) -> DeviceTimeReport:
    """Of the caller's tenant, or of all for the platform's. `BadInput` for hour and day at once, or too many groups."""
    place = periods.zone(time_zone)
    since = wanted.since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    spans: Sequence[tuple[datetime, datetime]] = []
    if DeviceGrouping.hour in groupings and DeviceGrouping.day in groupings:
        raise BadInput("group by hour or by day, not by both")
    if DeviceGrouping.hour in groupings:
        spans = periods.hours(since, wanted.until, place)
    elif DeviceGrouping.day in groupings:
        spans = periods.days(since, wanted.until, place)
    rows = await _totals(work, msgspec.structs.replace(wanted, since=since), groupings, spans)
    if len(rows) > MOST_GROUPS:
        raise BadInput(f"that is more than {MOST_GROUPS} groups; ask for a shorter time or group by less")
    items = []
    for row in rows:
        members = dict(row)
        device_seconds = members.pop("percent_ms") / _PERCENT_MS
        if members.get("period") is not None:
            members["period"] = members["period"].astimezone(place)
        items.append(DeviceTime(**members, device_seconds=device_seconds))
    return DeviceTimeReport(since, wanted.until, time_zone, items)


async def _totals(
    work: Work,
    wanted: DeviceTimeFilter,
    groupings: Sequence[DeviceGrouping],
    spans: Sequence[tuple[datetime, datetime]],
) -> Sequence[Any]:
    """By period, then the largest first."""
    table = DeviceUsageRow
    total = cast(func.coalesce(func.sum(table.percent_ms), literal(0)), BigInteger)
    keys: list[ColumnElement[Any]] = [each for group in _COLUMNS if group in groupings for each in _COLUMNS[group]]  # type: ignore[misc] # they are columns
    query = select(*keys, total.label("percent_ms")).where(
        work.scope.holds(table.tenant_id), table.hour >= wanted.since, table.hour < wanted.until
    )
    if wanted.service_id is not None:
        query = query.where(table.service_id == wanted.service_id)
    order: list[ColumnElement[Any]] = [total.desc(), *keys]
    if spans:
        named = values(column("begins", UtcDateTime()), column("ends", UtcDateTime()), name="periods")
        period = named.data(list(spans)).cte("periods")
        query = query.add_columns(period.c.begins.label("period"))
        query = query.join(period, and_(table.hour >= period.c.begins, table.hour < period.c.ends))
        keys, order = [*keys, period.c.begins], [period.c.begins, *order]
    if keys:
        query = query.group_by(*keys).order_by(*order).limit(MOST_GROUPS + 1)
    return (await work.session.execute(query)).mappings().all()
