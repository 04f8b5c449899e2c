"""Tenants: create, change, delete; and the limits of what they own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import InUse, NameTaken, NotFound
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.pagination import Page, PageRequest
from tenants import limits as limiting
from tenants.errors import LimitBelowUse
from tenants.limits import Priority
from tenants.queries import tenancy as queries
from tenants.quotas import PLATFORM_SCOPE, Resource
from tenants.schemas import NewTenant, Quota, QuotaDefaults, Tenant, TenantChange, TenantState, Trust
from tenants.scope import TenantScope
from tenants.tables import TenantRow
from tenants.work import Work

Blocker = Callable[[AsyncSession, TenantId], Awaitable[Mapping[str, int]]]
"""Counts what a tenant still owns, by the noun shown to people (`{"services": 3}`); each domain brings one."""

SNAPSHOT = "snapshot"
"""The reconciler that publishes keys and tenants to the gateway."""


async def resolve_tenant(session: AsyncSession, scope: TenantScope, name_or_id: str) -> TenantRow:
    """The tenant with this name or id; `NotFound` also where it exists outside the scope."""
    return await queries.find_tenant(session, scope, name_or_id)


async def create_tenant(work: Work, new: NewTenant, defaults: QuotaDefaults) -> Tenant:
    """Create the tenant and its counters; raise `NameTaken`."""
    taken = NameTaken(f"there is a tenant {new.name!r} already; choose another name")
    if await queries.tenant_name_exists(work.session, new.name):
        raise taken
    row = TenantRow(
        id=new_id("ten"),
        name=new.name,
        display_name=new.display_name or new.name,
        state=TenantState.active.value,
        limits=limiting.stored(new.limits),
        priority=new.priority.value,
        trust=(new.trust or defaults.trust).value,
        version=1,
        created_at=work.now(),
    )
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    limits = {
        Resource.services: defaults.services,
        Resource.replicas: defaults.replicas,
        Resource.devices: defaults.devices,
        Resource.device_memory_bytes: defaults.device_memory_bytes,
        Resource.cpu_millis: defaults.cpu_millis,
        Resource.memory_bytes: defaults.memory_bytes,
        Resource.storage_bytes: defaults.storage_bytes,
        Resource.keys: defaults.keys,
    }
    queries.add_quotas(work.session, row.id, limits)
    work.record("tenant.created", "tenant", row.id, tenant_id=row.id, detail={"name": row.name, "trust": row.trust})
    work.wake(SNAPSHOT)
    return shown(row)


async def list_tenants(work: Work, page: PageRequest, *, name: str | None = None) -> Page[Tenant]:
    rows = await queries.list_tenants(work.session, work.scope, page, name=name)
    return page.page([shown(row) for row in rows], [row.id for row in rows])


async def get_tenant(work: Work, name_or_id: str) -> Tenant:
    return shown(await queries.find_tenant(work.session, work.scope, name_or_id))


async def lock_tenant(work: Work, name_or_id: str) -> TenantRow:
    """The row to compare an ETag with and to change, locked until the transaction ends."""
    return await queries.lock_tenant(work.session, work.scope, name_or_id)


async def update_tenant(work: Work, row: TenantRow, change: TenantChange) -> Tenant:
    """Change what `change` names; suspending stops the tenant's keys at the gateway and its members' logins."""
    detail: dict[str, Any] = {}
    if change.display_name is not None and change.display_name != row.display_name:
        row.display_name = detail["display_name"] = change.display_name
    if change.state is not None and change.state != row.state:
        row.state = detail["state"] = change.state.value
    if change.limits is not None and change.limits != limiting.read(row.limits):
        row.limits = limiting.stored(change.limits)
        detail["limits"] = row.limits or {}
    if change.priority is not None and change.priority != row.priority:
        row.priority = detail["priority"] = change.priority.value
    if change.trust is not None and change.trust != row.trust:
        row.trust = detail["trust"] = change.trust.value
    if detail:
        row.version += 1
        work.wake(SNAPSHOT)
    work.record("tenant.updated", "tenant", row.id, tenant_id=row.id, detail=detail)
    return shown(row)


async def delete_tenant(work: Work, row: TenantRow, blockers: Sequence[Blocker]) -> None:
    """Delete the tenant with its members and revoked keys; raise `InUse` while it owns anything else.

    The users stay: they may be members elsewhere.
    """
    tenant_id = TenantId(row.id)
    counts = {"API keys": await queries.count_live_keys(work.session, TenantScope(tenant_id))}
    for blocker in blockers:
        counts.update(await blocker(work.session, tenant_id))
    owned = [f"{count} {noun}" for noun, count in counts.items() if count]
    if owned:
        raise InUse(f"tenant {row.name!r} still has {', '.join(owned)}; delete them (revoke the keys) first")
    await queries.delete_quotas(work.session, row.id)
    await work.session.delete(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise InUse(f"something was created in tenant {row.name!r} meanwhile; look and try again") from error
    work.record("tenant.deleted", "tenant", row.id, tenant_id=row.id, detail={"name": row.name})
    work.wake(SNAPSHOT)


async def list_quotas(work: Work) -> list[Quota]:
    """The counters of the scope's tenant, or the platform's own."""
    rows = await queries.list_quotas(work.session, _quota_scope(work))
    return [Quota(row.scope, Resource(row.resource), row.used, row.quota_limit) for row in rows]


async def set_limit(work: Work, resource: Resource, limit: int) -> Quota:
    """Set the limit of the scope's tenant or of the platform; raise `LimitBelowUse`, or `NotFound`."""
    scope = _quota_scope(work)
    changed = await queries.set_limit(work.session, scope, resource, limit)
    row = await queries.find_quota(work.session, scope, resource)
    if row is None:
        raise NotFound(f"{scope} has no quota of {resource.value}")
    if not changed:
        raise LimitBelowUse(
            f"{row.used} {resource.value} are in use, so the limit cannot be {limit}; delete some first, "
            f"or set {row.used} or more"
        )
    work.record("quota.updated", "quota", f"{scope}/{resource.value}", detail={"limit": limit})
    return Quota(scope, resource, row.used, row.quota_limit)


def _quota_scope(work: Work) -> str:
    return PLATFORM_SCOPE if work.scope.tenant_id is None else work.scope.tenant_id


def shown(row: TenantRow) -> Tenant:
    return Tenant(
        row.id,
        row.name,
        row.display_name,
        TenantState(row.state),
        limiting.read(row.limits),
        Priority(row.priority),
        Trust(row.trust),
        row.version,
        row.created_at,
    )
