"""API keys: made with a scope within the maker's own, shown once, revoked at once.

A key of a tenant opens the gateway and the tenant port; a key of the platform opens the admin port and nothing
else. The secret is `ak_<8 characters>_<256 random bits>`; the part before the last underscore is the prefix, which
is shown in lists, and of the whole the SHA-256 is kept.

A key that is restricted (to services, routes or networks, or by limits) can only hold `inference`: the gateway is
where restrictions hold, and a key that could make others would make itself one without them.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.crypto import new_secret, sha256_hex
from appliance.kernel.errors import BadInput, Conflict, FieldError, NameTaken
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.instants import checked
from appliance.kernel.pagination import Page, PageRequest
from tenants import budgets, grants, limits, quotas
from tenants.actors import ActorKind
from tenants.errors import PermissionExceeded
from tenants.limits import Limits
from tenants.permissions import TENANT_PERMISSIONS, Permission
from tenants.queries import keys as queries
from tenants.quotas import Resource
from tenants.schemas import CreatedKey, Key, KeyChange, KeyState, NewKey
from tenants.tables import ApiKeyRow
from tenants.tenancy import SNAPSHOT
from tenants.work import Work

ServiceCheck = Callable[[AsyncSession, TenantId, Sequence[str]], Awaitable[Sequence[str]]]
"""The ids among those given that are no services of the tenant; the services' domain brings it."""

_PREFIX_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


async def create_key(work: Work, new: NewKey, check_services: ServiceCheck) -> CreatedKey:
    """Create a key of the scope's tenant and take one from its quota.

    Raises `PermissionExceeded`, `NameTaken`, `QuotaExceeded`, and `BadInput` for services that are not there.
    """
    tenant_id = work.scope.one()
    scopes = frozenset(new.scopes)
    if scopes - TENANT_PERMISSIONS:
        raise BadInput("a tenant's key cannot hold permissions on the platform; make a platform key")
    await _require_within_own(work, new)
    restrictions = await _restrictions(work.session, tenant_id, scopes, new, check_services)
    await quotas.take(work.session, tenant_id, Resource.keys)
    return await _insert(work, tenant_id, new, restrictions)


async def create_platform_key(work: Work, new: NewKey) -> CreatedKey:
    """Create a key for the admin port; it opens no gateway (but may give `inference` to a tenant's key)."""
    if _restricts(new) or frozenset(new.scopes) == {Permission.inference}:
        raise BadInput("a platform key opens the admin port, not services; name the scopes it shall have there")
    await _require_within_own(work, new)
    return await _insert(work, None, new, {})


async def update_key(work: Work, row: ApiKeyRow, change: KeyChange, check_services: ServiceCheck) -> Key:
    """Change what a locked key (`lock_key`) is restricted to; its secret, scopes and expiry never change.

    Raises `Conflict` for a revoked key, otherwise as `create_key`.
    """
    if row.revoked_at is not None:
        raise Conflict(f"key {row.name!r} was revoked and opens nothing; make a new one")
    scopes = frozenset(map(Permission, row.scopes))
    tenant_id = TenantId(row.tenant_id or "")
    changed = await _restrictions(work.session, tenant_id, scopes, change, check_services)
    for column, value in changed.items():
        setattr(row, column, value)
    row.version += 1
    work.record("key.updated", "key", row.id, tenant_id=row.tenant_id, detail={"name": row.name, **changed})
    work.wake(SNAPSHOT)
    return shown(row, work.now())


async def lock_key(work: Work, name_or_id: str) -> ApiKeyRow:
    """The row to compare an ETag with and to change, locked until the transaction ends."""
    return await queries.lock_key(work.session, work.scope, name_or_id)


async def _require_within_own(work: Work, new: NewKey) -> None:
    if new.expires_at is not None and checked(new.expires_at, "expires_at") <= work.now():
        raise BadInput(f"expires_at {new.expires_at.isoformat()} lies in the past")
    grants.require_scopes(work.actor, new.scopes)
    if work.actor.kind is not ActorKind.key:
        return
    parent = await work.session.get_one(ApiKeyRow, work.actor.id)
    if parent.expires_at is not None and (new.expires_at is None or new.expires_at > parent.expires_at):
        raise PermissionExceeded(
            f"the key {parent.name!r} expires at {parent.expires_at.isoformat()} and cannot make one that lives "
            f"longer; set expires_at to that or earlier"
        )


def _restricts(wanted: NewKey | KeyChange) -> bool:
    return bool(wanted.services or wanted.routes or wanted.networks or wanted.limits not in (None, Limits()))


async def _restrictions(
    session: AsyncSession,
    tenant_id: TenantId,
    scopes: frozenset[Permission],
    wanted: NewKey | KeyChange,
    check_services: ServiceCheck,
) -> dict[str, Any]:
    """The columns that hold what is wanted, without those that a change leaves alone."""
    if _restricts(wanted) and scopes != {Permission.inference}:
        raise BadInput(
            "a key with services, routes, networks or limits can only hold 'inference': leave these or the other "
            "scopes out"
        )
    columns: dict[str, Any] = {}
    if wanted.services is not None:
        await _check_services(session, tenant_id, wanted.services, check_services)
        columns["services"] = sorted(set(wanted.services))
    if wanted.routes is not None:
        columns["routes"] = sorted(set(wanted.routes))
    if wanted.networks is not None:
        columns["networks"] = limits.normal_networks(wanted.networks)
    if wanted.limits is not None:
        columns["limits"] = limits.stored(wanted.limits)
    return columns


async def _check_services(
    session: AsyncSession, tenant_id: TenantId, services: Sequence[str], check_services: ServiceCheck
) -> None:
    if services and (missing := await check_services(session, tenant_id, services)):
        raise BadInput(
            f"the tenant has no service {', '.join(missing)}",
            errors=[FieldError(f"/services/{services.index(one)}", f"there is no service {one}") for one in missing],
        )


async def _insert(work: Work, tenant_id: TenantId | None, new: NewKey, restrictions: dict[str, Any]) -> CreatedKey:
    taken = NameTaken(f"there is a key {new.name!r} already; choose another name, or revoke and delete that one")
    if await queries.key_named(work.session, tenant_id, new.name) is not None:
        raise taken
    secret, prefix = make_secret()
    row = ApiKeyRow(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=new.name,
        prefix=prefix,
        secret_sha256=sha256_hex(secret),
        scopes=sorted({scope.value for scope in new.scopes}),
        created_by=work.actor.id,
        created_at=work.now(),
        expires_at=new.expires_at,
        revoked_at=None,
        last_used_at=None,
        **{"services": [], "version": 1, **restrictions},
    )
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    detail = {"name": row.name, "prefix": prefix, "scopes": row.scopes, **restrictions}
    work.record("key.created", "key", row.id, detail=detail)
    work.wake(SNAPSHOT)
    return CreatedKey(shown(row, work.now()), secret)


def make_secret() -> tuple[str, str]:
    """A new secret and its prefix."""
    prefix = "ak_" + "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(8))
    return f"{prefix}_{new_secret()}", prefix


async def list_keys(work: Work, page: PageRequest) -> Page[Key]:
    return _page(work, page, await queries.list_keys(work.session, work.scope, page))


async def list_platform_keys(work: Work, page: PageRequest) -> Page[Key]:
    return _page(work, page, await queries.list_platform_keys(work.session, page))


async def get_key(work: Work, name_or_id: str) -> Key:
    return shown(await queries.find_key(work.session, work.scope, name_or_id), work.now())


async def revoke_key(work: Work, name_or_id: str) -> Key:
    """Make the key useless, keep its row, give the quota back. Revoking twice is the same as once."""
    row = await queries.lock_key(work.session, work.scope, name_or_id)
    if row.revoked_at is None and row.tenant_id is not None:
        await quotas.give_back(work.session, row.tenant_id, Resource.keys)
    return _revoke(work, row)


async def revoke_platform_key(work: Work, name_or_id: str) -> Key:
    return _revoke(work, await queries.lock_platform_key(work.session, name_or_id))


def _revoke(work: Work, row: ApiKeyRow) -> Key:
    if row.revoked_at is None:
        row.revoked_at, row.version = work.now(), row.version + 1
    work.record("key.revoked", "key", row.id, tenant_id=row.tenant_id, detail={"name": row.name})
    work.wake(SNAPSHOT)
    return shown(row, work.now())


async def delete_key(work: Work, name_or_id: str) -> None:
    """Delete a revoked key's row, which frees its name."""
    await _delete(work, await queries.lock_key(work.session, work.scope, name_or_id))


async def delete_platform_key(work: Work, name_or_id: str) -> None:
    await _delete(work, await queries.lock_platform_key(work.session, name_or_id))


async def _delete(work: Work, row: ApiKeyRow) -> None:
    if row.revoked_at is None:
        raise Conflict(f"key {row.name!r} is in force; revoke it first")
    await budgets.forget(work.session, row.id)
    await work.session.delete(row)
    work.record("key.deleted", "key", row.id, tenant_id=row.tenant_id, detail={"name": row.name})


def _page(work: Work, page: PageRequest, rows: Sequence[ApiKeyRow]) -> Page[Key]:
    return page.page([shown(row, work.now()) for row in rows], [row.id for row in rows])


def shown(row: ApiKeyRow, now: datetime) -> Key:
    return Key(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        prefix=row.prefix,
        scopes=[Permission(scope) for scope in row.scopes],
        services=list(row.services),
        routes=list(row.routes or ()),
        networks=list(row.networks or ()),
        limits=limits.read(row.limits),
        state=state_of(row, now),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        version=row.version,
    )


def state_of(row: ApiKeyRow, now: datetime) -> KeyState:
    """Whether the key opens anything at `now`."""
    if row.revoked_at is not None:
        return KeyState.revoked
    if row.expires_at is not None and row.expires_at <= now:
        return KeyState.expired
    return KeyState.active
