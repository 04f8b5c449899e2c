"""Device time for billing: what each tenant's services held of devices, exactly, from their leases' begin and end.

A lease is metered in pieces: once a minute while it is held, and what is left of it in the transaction that releases
it. Each piece is added and its end remembered in one transaction, so nothing is counted twice or lost by a crash
(invariant I4), whenever it comes. What was held while the control plane was away is added when it is back.

The leases of a replica are locked before its meter is read: two that settle at once add one after the other. Times
are of the wall clock; while it stands behind what was metered already, nothing is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, delete, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.leases import Guarded
from appliance.kernel.tables import Base
from appliance.services.metering_tables import DeviceMeterRow, DeviceUsageRow
from appliance.services.tables import ReplicaRow
from gpu import leasing
from gpu.tables import DeviceLeaseRow, DeviceRow

PERIOD_S: Final = 60.0
_HOUR: Final = timedelta(hours=1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_ROWS: Final = 500
"""Of one statement: SQLite binds 32,766 values at most."""


class Part(NamedTuple):
    """What a piece of use is added to."""

    service_id: str
    hour: datetime
    vendor: str
    model: str
    tenant_id: str


class Metered(msgspec.Struct, frozen=True):
    """`replicas` hold devices and were metered in this round."""

    replicas: int


class Metering:
    """The reconciler that adds what is held."""

    name = "metering"
    period_s = PERIOD_S

    def __init__(self, guarded: Guarded, clock: Clock) -> None:
        self._guarded, self._clock = guarded, clock

    async def reconcile(self) -> Metered:
        async with self._guarded.write() as session:
            return Metered(await settle(session, self._clock))


async def settle(session: AsyncSession, clock: Clock, replica_ids: Collection[str] | None = None) -> int:
    """Add what these replicas (None: all) have held until now; how many there were."""
    which = true() if replica_ids is None else DeviceLeaseRow.replica_id.in_(replica_ids)
    locked = select(DeviceLeaseRow.replica_id).where(which)
    await session.execute(locked.order_by(DeviceLeaseRow.replica_id, DeviceLeaseRow.device_id).with_for_update())
    now = clock.now()
    used: dict[Part, int] = defaultdict(int)
    meters: dict[str, datetime] = {}
    for lease in (await session.execute(_held(which))).all():
        begin = max(lease.taken_at, lease.until or lease.taken_at)
        if begin >= now:
            continue
        meters[lease.replica_id] = now
        for hour, milliseconds in hours(begin, now):
            part = Part(lease.service_id, hour, lease.vendor, lease.model, lease.tenant_id)
            used[part] += milliseconds * lease.share
    await _add(session, used)
    await _remember(session, meters)
    return len(meters)


async def release(session: AsyncSession, clock: Clock, replica_ids: Collection[str]) -> None:
    """Meter what these replicas have held to its end, and give it back. One that holds nothing is fine."""
    await settle(session, clock, replica_ids)
    for replica_id in replica_ids:
        await leasing.release(session, replica_id)
    await session.execute(delete(DeviceMeterRow).where(DeviceMeterRow.replica_id.in_(replica_ids)))


def hours(begin: datetime, end: datetime) -> Iterator[tuple[datetime, int]]:
    """The hours (of UTC) that a time touches, each with its milliseconds of it. These are cut from instants in whole
    milliseconds since the epoch, so that pieces that follow one another add up to the whole.
    """
    at, last = _milliseconds(begin), _milliseconds(end)
    size = _HOUR // _MILLISECOND
    while at < last:
        hour = at - at % size
        upto = min(hour + size, last)
        yield datetime.fromtimestamp(hour // 1000, UTC), upto - at
        at = upto


def _milliseconds(at: datetime) -> int:
    return (at - datetime.fromtimestamp(0, UTC)) // _MILLISECOND


def _held(which: ColumnElement[bool]) -> Any:
    return (
        select(
            DeviceLeaseRow.replica_id,
            DeviceLeaseRow.share,
            DeviceLeaseRow.taken_at,
            DeviceMeterRow.until,
            DeviceRow.vendor,
            DeviceRow.model,
            ReplicaRow.service_id,
            ReplicaRow.tenant_id,
        )
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .join(ReplicaRow, ReplicaRow.id == DeviceLeaseRow.replica_id)
        .outerjoin(DeviceMeterRow, DeviceMeterRow.replica_id == DeviceLeaseRow.replica_id)
        .where(which)
    )


async def _add(session: AsyncSession, used: Mapping[Part, int]) -> None:
    rows = [part._asdict() | {"percent_ms": used[part]} for part in sorted(used)]
    for at in range(0, len(rows), _ROWS):
        insert = _insert(session, DeviceUsageRow).values(rows[at : at + _ROWS])
        await session.execute(
            insert.on_conflict_do_update(
                index_elements=["service_id", "hour", "vendor", "model"],
                set_={"percent_ms": DeviceUsageRow.percent_ms + insert.excluded.percent_ms},
            )
        )


async def _remember(session: AsyncSession, meters: Mapping[str, datetime]) -> None:
    rows = [{"replica_id": replica_id, "until": until} for replica_id, until in sorted(meters.items())]
    for at in range(0, len(rows), _ROWS):
        insert = _insert(session, DeviceMeterRow).values(rows[at : at + _ROWS])
        await session.execute(
            insert.on_conflict_do_update(index_elements=["replica_id"], set_={"until": insert.excluded.until})
        )


def _insert(session: AsyncSession, table: type[Base]) -> Any:
    return (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(table)
