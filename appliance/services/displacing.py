"""Whom a reservation takes its devices from."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from appliance.services.states import COMING_OR_UP
from appliance.services.tables import ReplicaRow
from gpu import reservations
from gpu.reservation_tables import DeviceReservationRow, ReservationRow
from gpu.tables import DeviceLeaseRow, DeviceRow


async def displaced(session: AsyncSession, now: datetime) -> dict[str, str]:
    """The replicas that hold a device which is reserved now for another tenant, each with why they leave."""
    query = (
        select(ReplicaRow.id, DeviceRow.model, DeviceRow.index, ReservationRow.ends_at)
        .join(DeviceLeaseRow, DeviceLeaseRow.replica_id == ReplicaRow.id)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .join(DeviceReservationRow, DeviceReservationRow.device_id == DeviceRow.id)
        .join(ReservationRow, ReservationRow.id == DeviceReservationRow.reservation_id)
        .where(reservations.in_force(now), ReservationRow.replica_id.is_(None))
        .where(ReservationRow.tenant_id != ReplicaRow.tenant_id)
        .order_by(DeviceRow.id)
    )
    found: dict[str, str] = {}
    for replica_id, model, index, ends_at in await session.execute(query):
        found.setdefault(replica_id, f"its device {index} ({model}) is reserved for others until {told(ends_at)}")
    return found


def guests(
    tenant_id: str, device_ids: Collection[str], what: ColumnElement[str] | InstrumentedAttribute[str]
) -> Select[str]:
    """`what` of the replicas of other tenants that hold any of these devices and do not leave anyway."""
    return (
        select(what)
        .select_from(DeviceLeaseRow)
        .join(ReplicaRow, ReplicaRow.id == DeviceLeaseRow.replica_id)
        .where(DeviceLeaseRow.device_id.in_(device_ids), ReplicaRow.tenant_id != tenant_id)
        .where(ReplicaRow.state.in_([state.value for state in COMING_OR_UP]))
    )


def told(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")
