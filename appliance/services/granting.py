"""Grants: given, changed and taken back by the platform's administrators; a tenant sees its own.

Whoever changes a tenant's grants holds the tenant's row until the transaction ends, so that no place is taken in
reliance on what is no more (`tenants.entitlements`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.queries import find_gateway
from appliance.gateway.tables import GatewayRow
from appliance.kernel.errors import BadInput, Conflict, FieldError, NotFound
from appliance.kernel.ids import new_id
from appliance.kernel.instants import checked
from appliance.kernel.pagination import Page, PageRequest
from appliance.runtimes.catalog import Catalog
from appliance.services.moving import Effects
from appliance.services.permits import Permit
from appliance.services.reclaiming import Affected, Change, affected, effects_of_change, require_idle
from appliance.services.transitions import SERVICES
from gpu.queries import device_kinds, pool_row
from gpu.tables import PoolRow
from tenants.entitlements import device_class
from tenants.grant_schemas import Grant, GrantChange, GrantKind, NewGrant
from tenants.grant_tables import GrantRow
from tenants.queries import grants as queries
from tenants.queries.tenancy import lock_tenant
from tenants.tables import TenantRow
from tenants.work import Work


class Ending(StrEnum):
    """How a grant ends. The two differ for device classes: a tenant whose last grant of one is deleted may use all
    again, one whose last has expired may use none.
    """

    deletion = "deletion"
    expiry = "expiry"


class GrantExists(Conflict):
    code = "grant-exists"
    title = "The tenant has that grant already"


async def create_grant(work: Work, new: NewGrant, *, force: bool) -> Grant:
    """Raises `NotFound`, `GrantExists`, and `InUse` where a first grant of a device class would stop services that run
    on other classes.
    """
    _check_expiry(work, new.expires_at)
    tenant = await lock_tenant(work.session, work.scope, new.tenant)
    row = GrantRow(
        id=new_id("grt"),
        tenant_id=tenant.id,
        kind=new.kind.value,
        expires_at=new.expires_at,
        version=1,
        created_by=work.actor.id,
        created_at=work.now(),
    )
    await _aim(work.session, row, new)
    if new.kind is GrantKind.device_class and not force:
        bound = await affected(work.session, work.now(), _given(row), tenant_ids=[tenant.id])
        require_idle(bound, f"a grant of {row.device_class} alone")
    taken = GrantExists(f"tenant {tenant.name!r} has a grant of {new.target!r} already; change that one")
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    shown = (await _shown(work, [row]))[0]
    _record(work, shown, "grant.created")
    return shown


async def list_grants(
    work: Work, page: PageRequest, *, tenant_id: str | None, kind: GrantKind | None, target: str | None
) -> Page[Grant]:
    """Those within the scope; `tenant_id` narrows the platform's."""
    rows = await queries.list_grants(work.session, work.scope, page, tenant_id=tenant_id, kind=kind, target=target)
    return page.page(await _shown(work, rows), [row.id for row in rows])


async def get_grant(work: Work, grant_id: str) -> Grant:
    return (await _shown(work, [await queries.find_grant(work.session, work.scope, grant_id)]))[0]


async def preview(work: Work, catalog: Catalog, grant_id: str, ending: Ending) -> Effects:
    """What would become of what runs by this grant, if it ended now."""
    row = await queries.find_grant(work.session, work.scope, grant_id)
    change = _ended(row, ending, work.now())
    return await effects_of_change(work.session, catalog, work.now(), change, tenant_ids=[row.tenant_id])


async def update_grant(work: Work, row: GrantRow, change: GrantChange, *, force: bool) -> Grant:
    """Set when a locked grant expires. Raises `InUse` where that is sooner than before and services run by it."""
    _check_expiry(work, change.expires_at)
    if _is_sooner(change.expires_at, row.expires_at) and not force:
        require_idle(await _affected_by_end(work, row, Ending.expiry), f"an end of grant {row.id} sooner than before")
    row.expires_at = change.expires_at
    row.version += 1
    await work.session.flush()
    shown = (await _shown(work, [row]))[0]
    _record(work, shown, "grant.updated")
    return shown


async def delete_grant(work: Work, row: GrantRow, *, force: bool) -> None:
    """Take a locked grant back. Raises `InUse` where services run by it alone."""
    shown = (await _shown(work, [row]))[0]
    if not force:
        require_idle(await _affected_by_end(work, row, Ending.deletion), f"taking grant {row.id} back")
    await work.session.execute(delete(GrantRow).where(GrantRow.id == row.id))
    _record(work, shown, "grant.deleted")


def _record(work: Work, grant: Grant, action: str) -> None:
    expiry = grant.expires_at.isoformat() if grant.expires_at else None
    detail = {"kind": grant.kind.value, "target": grant.target_name, "expires_at": expiry}
    work.record(action, "grant", grant.id, tenant_id=grant.tenant_id, detail=detail)
    work.wake(SERVICES)


async def _aim(session: AsyncSession, row: GrantRow, new: NewGrant) -> None:
    """Set what the grant is of."""
    match new.kind:
        case GrantKind.pool:
            row.pool_id = (await pool_row(session, new.target)).id
        case GrantKind.gateway:
            row.gateway_id = (await find_gateway(session, new.target)).id
        case GrantKind.device_class:
            known = sorted({device_class(kind.vendor, kind.model) for kind in await device_kinds(session)})
            if new.target not in known:
                raise NotFound(f"there is no device of class {new.target!r}; there are: {', '.join(known) or 'none'}")
            row.device_class = new.target
        case _:
            assert_never(new.kind)


def _check_expiry(work: Work, expires_at: datetime | None) -> None:
    if expires_at is not None and checked(expires_at, "expires_at") <= work.now():
        wrong = f"{expires_at.isoformat()} is past; a grant ends later than now, or is deleted"
        raise BadInput(wrong, errors=[FieldError("/expires_at", wrong)])


def _is_sooner(then: datetime | None, before: datetime | None) -> bool:
    return then is not None and (before is None or then < before)


def _target(row: GrantRow) -> str:
    return row.pool_id or row.gateway_id or row.device_class or ""


def _given(row: GrantRow) -> Change:
    kind, target, expires_at = GrantKind(row.kind), _target(row), row.expires_at

    def change(permit: Permit) -> Permit:
        return replace(permit, entitlement=permit.entitlement.until(kind, target, expires_at))

    return change


def _ended(row: GrantRow, ending: Ending, now: datetime) -> Change:
    kind, target = GrantKind(row.kind), _target(row)

    def change(permit: Permit) -> Permit:
        before = permit.entitlement
        is_gone = ending is Ending.deletion
        return replace(permit, entitlement=before.without(kind, target) if is_gone else before.until(kind, target, now))

    return change


async def _affected_by_end(work: Work, row: GrantRow, ending: Ending) -> Affected:
    change = _ended(row, ending, work.now())
    return await affected(work.session, work.now(), change, tenant_ids=[row.tenant_id])


async def _shown(work: Work, rows: Sequence[GrantRow]) -> list[Grant]:
    pools = select(PoolRow.id, PoolRow.name).where(PoolRow.id.in_([row.pool_id for row in rows]))
    gateways = select(GatewayRow.id, GatewayRow.name).where(GatewayRow.id.in_([row.gateway_id for row in rows]))
    tenants = select(TenantRow.id, TenantRow.name).where(TenantRow.id.in_([row.tenant_id for row in rows]))
    names: dict[str, str] = {}
    for query in (pools, gateways, tenants):
        names.update((await work.session.execute(query)).all())
    return [
        Grant(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant=names[row.tenant_id],
            kind=GrantKind(row.kind),
            target=_target(row),
            target_name=names.get(_target(row), _target(row)),
            expires_at=row.expires_at,
            expired=row.expires_at is not None and row.expires_at <= work.now(),
            created_by=row.created_by,
            created_at=row.created_at,
            version=row.version,
        )
        for row in rows
    ]
