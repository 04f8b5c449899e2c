"""Reservations: made and ended by the platform's administrators; a tenant sees its own.

Who makes one locks the nodes of its devices until the transaction ends, so that no place is taken there meanwhile, and
names whom it takes the devices from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import BadInput, Conflict, FieldError, InUse, NotFound
from appliance.kernel.ids import new_id
from appliance.kernel.instants import checked
from appliance.kernel.pagination import Page, PageRequest
from appliance.services.displacing import guests, told
from appliance.services.reservation_schemas import NewReservation, Reservation, ReservationState
from appliance.services.tables import ReplicaRow, ServiceRow
from appliance.services.transitions import SERVICES
from gpu import reservations
from gpu.picking import Candidate, pick
from gpu.queries import pool_row
from gpu.reservation_tables import DeviceReservationRow, ReservationRow
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeRow
from tenants.queries.tenancy import find_tenant
from tenants.scope import TenantScope
from tenants.tables import TenantRow
from tenants.work import Work

LONGEST: Final = timedelta(days=366)


class ReservationOverlaps(Conflict):
    """Another reservation keeps one of the devices at that time."""

    code = "reservation-overlaps"
    title = "A device is reserved at that time"


async def create_reservation(work: Work, new: NewReservation, *, force: bool) -> Reservation:
    """Raises `NotFound`, `BadInput` for a window that is none, `ReservationOverlaps`, `Conflict` where the pool has too
    few devices, and `InUse` where services of others run on the devices.
    """
    starts_at, ends_at = _window(work, new)
    tenant = await find_tenant(work.session, work.scope, new.tenant)
    row = ReservationRow(
        id=new_id("rsv"),
        tenant_id=tenant.id,
        starts_at=starts_at,
        ends_at=ends_at,
        reason=new.reason,
        created_by=work.actor.id,
        created_at=work.now(),
    )
    device_ids = await _devices(work.session, new, row)
    await reservations.lock_nodes_of(work.session, device_ids)
    await _require_apart(work.session, row, device_ids)
    if not force:
        await _require_idle(work.session, row, device_ids)
    try:
        await reservations.insert(work.session, row, device_ids)
    except IntegrityError as error:
        raise ReservationOverlaps("a device was reserved for that time just now; look and choose again") from error
    shown = (await _shown(work, [row]))[0]
    _record(work, shown, "reservation.created")
    return shown


async def list_reservations(
    work: Work, page: PageRequest, *, tenant_id: str | None, device_id: str | None
) -> Page[Reservation]:
    """Those within the scope, ended ones too; `tenant_id` narrows the platform's."""
    query = page.apply(select(ReservationRow).where(work.scope.holds(ReservationRow.tenant_id)), ReservationRow.id)
    if tenant_id is not None:
        query = query.where(ReservationRow.tenant_id == tenant_id)
    if device_id is not None:
        of_device = DeviceReservationRow.device_id == device_id
        query = query.where(ReservationRow.id.in_(select(DeviceReservationRow.reservation_id).where(of_device)))
    rows = (await work.session.scalars(query)).all()
    return page.page(await _shown(work, rows), [row.id for row in rows])


async def get_reservation(work: Work, reservation_id: str) -> Reservation:
    return (await _shown(work, [await _find(work.session, work.scope, reservation_id)]))[0]


async def delete_reservation(work: Work, reservation_id: str) -> None:
    """End it: its devices are everyone's from now on."""
    row = await _find(work.session, work.scope, reservation_id)
    shown = (await _shown(work, [row]))[0]
    await work.session.execute(delete(ReservationRow).where(ReservationRow.id == row.id))
    _record(work, shown, "reservation.deleted")


def _window(work: Work, new: NewReservation) -> tuple[datetime, datetime]:
    now = work.now()
    starts_at = now if new.starts_at is None else checked(new.starts_at, "starts_at")
    ends_at = checked(new.ends_at, "ends_at")
    if starts_at < now:
        _refuse("/starts_at", f"{starts_at.isoformat()} is past; leave it out to begin at once")
    if ends_at <= starts_at:
        _refuse("/ends_at", f"{ends_at.isoformat()} is not later than the beginning, {starts_at.isoformat()}")
    if ends_at - starts_at > LONGEST:
        _refuse("/ends_at", f"a reservation lasts at most {LONGEST.days} days")
    return starts_at, ends_at


def _refuse(pointer: str, wrong: str) -> None:
    raise BadInput(wrong, errors=[FieldError(pointer, wrong)])


async def _devices(session: AsyncSession, new: NewReservation, row: ReservationRow) -> Sequence[str]:
    """The ids of those that are named, or of those that are picked from the pool."""
    if new.devices is not None and (new.pool, new.count, new.device_class) == (None, None, None):
        known = set(await session.scalars(select(DeviceRow.id).where(DeviceRow.id.in_(new.devices))))
        if missing := sorted(set(new.devices) - known):
            raise NotFound(f"there is no device {missing[0]!r}")
        return sorted(known)
    if new.devices is not None or new.pool is None or new.count is None:
        raise BadInput("say which devices: give either devices, or pool and count and, if you like, device_class")
    pool = await pool_row(session, new.pool)
    picked = pick(await _candidates(session, row, pool.id, new.device_class), new.count)
    if picked is None:
        kind = f" of class {new.device_class}" if new.device_class else ""
        raise Conflict(
            f"pool {pool.name} has no {new.count} equal devices{kind} that are healthy, open and not reserved then"
        )
    return picked


async def _candidates(
    session: AsyncSession, row: ReservationRow, pool_id: str, device_class: str | None
) -> list[Candidate]:
    """The devices of the pool that are well, open, and not reserved by others within the window."""
    query = (
        select(DeviceRow.id, DeviceRow.node_id, DeviceRow.vendor, DeviceRow.model, DeviceRow.index)
        .join(NodeRow, NodeRow.id == DeviceRow.node_id)
        .where(func.coalesce(DeviceRow.pool_id, NodeRow.pool_id) == pool_id)
        .where(DeviceRow.state == DeviceState.healthy.value, DeviceRow.cordoned.is_(None))
        .where(NodeRow.state == NodeState.ready.value, NodeRow.cordoned.is_(None))
    )
    if device_class is not None:
        query = query.where(DeviceRow.vendor + "/" + DeviceRow.model == device_class)
    found = [Candidate(*device, is_held=False) for device in await session.execute(query)]
    ids = [each.device_id for each in found]
    overlapping = await reservations.overlapping(session, ids, row.starts_at, row.ends_at)
    taken = {device_id for theirs, device_id in overlapping if theirs.replica_id is None}
    held = set(await session.scalars(guests(row.tenant_id, ids, DeviceLeaseRow.device_id)))
    return [each._replace(is_held=each.device_id in held) for each in found if each.device_id not in taken]


async def _require_apart(session: AsyncSession, row: ReservationRow, device_ids: Collection[str]) -> None:
    """What is kept for a replica alone, by the appliance, gives way: it finds another place, or is told why not."""
    for theirs, device_id in await reservations.overlapping(session, device_ids, row.starts_at, row.ends_at):
        if theirs.replica_id is None:
            raise ReservationOverlaps(
                f"device {device_id} is reserved by {theirs.id} from {told(theirs.starts_at)} to "
                f"{told(theirs.ends_at)}; choose another time or device, or delete that reservation"
            )
        await session.execute(delete(ReservationRow).where(ReservationRow.id == theirs.id))


async def _require_idle(session: AsyncSession, row: ReservationRow, device_ids: Collection[str]) -> None:
    names = TenantRow.name + "/" + ServiceRow.name
    query = guests(row.tenant_id, device_ids, names).join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
    services = sorted(set(await session.scalars(query.join(ServiceRow, ServiceRow.id == ReplicaRow.service_id))))
    if services:
        listed = ", ".join(repr(service) for service in services)
        raise InUse(
            f"{listed} run on these devices and would have to leave them at {told(row.starts_at)}; choose others, or "
            f"say force=true: then they are drained when the reservation begins"
        )


async def _find(session: AsyncSession, scope: TenantScope, reservation_id: str) -> ReservationRow:
    query = select(ReservationRow).where(scope.holds(ReservationRow.tenant_id), ReservationRow.id == reservation_id)
    row = await session.scalar(query)
    if row is None:
        raise NotFound(f"there is no reservation {reservation_id!r}")
    return row


def _record(work: Work, shown: Reservation, action: str) -> None:
    detail = {
        "devices": shown.devices,
        "starts_at": shown.starts_at.isoformat(),
        "ends_at": shown.ends_at.isoformat(),
        "reason": shown.reason,
    }
    work.record(action, "reservation", shown.id, tenant_id=shown.tenant_id, detail=detail)
    work.wake(SERVICES)


async def _shown(work: Work, rows: Sequence[ReservationRow]) -> list[Reservation]:
    query = select(TenantRow.id, TenantRow.name).where(TenantRow.id.in_([row.tenant_id for row in rows]))
    tenants = dict((await work.session.execute(query)).all())
    devices = await reservations.devices_of(work.session, [row.id for row in rows])
    return [
        Reservation(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant=tenants[row.tenant_id],
            devices=devices.get(row.id, []),
            replica_id=row.replica_id,
            starts_at=row.starts_at,
            ends_at=row.ends_at,
            state=_state(row, work.now()),
            reason=row.reason,
            created_by=row.created_by,
            created_at=row.created_at,
        )
        for row in rows
    ]


def _state(row: ReservationRow, now: datetime) -> ReservationState:
    if row.ends_at <= now:
        return ReservationState.over
    return ReservationState.active if row.starts_at <= now else ReservationState.upcoming
