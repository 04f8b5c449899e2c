"""Reservations in the database: which devices are kept for whom, and when.

Who reserves a device locks its node first, as whoever takes a lease there does: of the two, one sees the other. That no
two reservations of a device overlap is the database's to refuse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gpu.reservation_tables import DeviceReservationRow, ReservationRow
from gpu.tables import DeviceRow, NodeRow

HOLDER: Final[ColumnElement[str]] = func.coalesce(ReservationRow.replica_id, ReservationRow.tenant_id)
"""The id of whom a reservation is for."""


def in_force(now: datetime) -> ColumnElement[bool]:
    """The condition that a reservation is in force."""
    return and_(ReservationRow.starts_at <= now, ReservationRow.ends_at > now)


async def active(session: AsyncSession, now: datetime) -> Mapping[str, Mapping[str, str]]:
    """By node: the devices that are reserved now, each with the id of the tenant or replica that it is kept for."""
    query = (
        select(DeviceRow.node_id, DeviceRow.id, HOLDER)
        .join(DeviceReservationRow, DeviceReservationRow.device_id == DeviceRow.id)
        .join(ReservationRow, ReservationRow.id == DeviceReservationRow.reservation_id)
        .where(in_force(now))
    )
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for node_id, device_id, holder in await session.execute(query):
        found[node_id][device_id] = holder
    return found


async def kept_for_others(
    session: AsyncSession, now: datetime, device_ids: Collection[str], holders: Collection[str]
) -> Sequence[str]:
    """Those of these devices that are reserved now, and for none of `holders`."""
    query = (
        select(DeviceReservationRow.device_id)
        .join(ReservationRow, ReservationRow.id == DeviceReservationRow.reservation_id)
        .where(DeviceReservationRow.device_id.in_(device_ids), in_force(now), HOLDER.not_in(holders))
    )
    return (await session.scalars(query)).all()


async def overlapping(
    session: AsyncSession, device_ids: Collection[str], starts_at: datetime, ends_at: datetime
) -> list[tuple[ReservationRow, str]]:
    """The reservations that keep any of these devices within the window, each with such a device's id."""
    query = (
        select(ReservationRow, DeviceReservationRow.device_id)
        .join(DeviceReservationRow, DeviceReservationRow.reservation_id == ReservationRow.id)
        .where(DeviceReservationRow.device_id.in_(device_ids))
        .where(ReservationRow.starts_at < ends_at, ReservationRow.ends_at > starts_at)
        .order_by(ReservationRow.id, DeviceReservationRow.device_id)
    )
    return [(row, device_id) for row, device_id in await session.execute(query)]


async def lock_nodes_of(session: AsyncSession, device_ids: Collection[str]) -> None:
    """Until the transaction ends nobody takes these devices; nodes are locked in the order of their ids."""
    on = select(DeviceRow.node_id).where(DeviceRow.id.in_(device_ids))
    locked = select(NodeRow.id).where(NodeRow.id.in_(on)).order_by(NodeRow.id).with_for_update()
    await session.execute(locked)


async def insert(session: AsyncSession, row: ReservationRow, device_ids: Collection[str]) -> None:
    """Write the reservation of these devices, whose nodes are locked. Raises `IntegrityError` where another of any
    overlaps it.
    """
    session.add(row)
    await session.flush()
    session.add_all(
        DeviceReservationRow(reservation_id=row.id, device_id=device_id) for device_id in sorted(device_ids)
    )
    await session.flush()


async def devices_of(session: AsyncSession, reservation_ids: Collection[str]) -> Mapping[str, list[str]]:
    """The ids of the devices of these reservations."""
    query = (
        select(DeviceReservationRow.reservation_id, DeviceReservationRow.device_id)
        .where(DeviceReservationRow.reservation_id.in_(reservation_ids))
        .order_by(DeviceReservationRow.device_id)
    )
    found: dict[str, list[str]] = defaultdict(list)
    for reservation_id, device_id in await session.execute(query):
        found[reservation_id].append(device_id)
    return found
