"""API keys: made with a scope within the maker's own, shown once, revoked at once.

A key of a tenant opens the gateway and the tenant port; a key of the platform opens the admin port and nothing
else. The secret is `ak_<8 characters>_<256 random bits>`; the part before the last underscore is the prefix, which
is shown in lists, and of the whole the SHA-256 is kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.crypto import new_secret, sha256_hex
from appliance.kernel.errors import BadInput, Conflict, FieldError, NameTaken
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.pagination import Page, PageRequest
from tenants import grants, quotas
from tenants.actors import ActorKind
from tenants.errors import PermissionExceeded
from tenants.permissions import TENANT_PERMISSIONS, Permission
from tenants.queries import keys as queries
from tenants.quotas import Resource
from tenants.schemas import CreatedKey, Key, KeyState, NewKey
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
    if new.services:
        await _check_services(work, tenant_id, new, check_services)
    await quotas.take(work.session, tenant_id, Resource.keys)
    return await _insert(work, tenant_id, new)


async def create_platform_key(work: Work, new: NewKey) -> CreatedKey:
    """Create a key for the admin port; it opens no gateway (but may give `inference` to a tenant's key)."""
    if new.services or frozenset(new.scopes) == {Permission.inference}:
        raise BadInput("a platform key opens the admin port, not services; name the scopes it shall have there")
    await _require_within_own(work, new)
    return await _insert(work, None, new)


async def _require_within_own(work: Work, new: NewKey) -> None:
    if new.expires_at is not None and new.expires_at <= work.now():
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


async def _check_services(work: Work, tenant_id: TenantId, new: NewKey, check_services: ServiceCheck) -> None:
    if frozenset(new.scopes) != {Permission.inference}:
        raise BadInput("a key for certain services can only hold 'inference': leave out services or the other scopes")
    if missing := await check_services(work.session, tenant_id, new.services):
        pointers = {service: f"/services/{new.services.index(service)}" for service in missing}
        raise BadInput(
            f"the tenant has no service {', '.join(missing)}",
            errors=[FieldError(pointer, f"there is no service {service}") for service, pointer in pointers.items()],
        )


async def _insert(work: Work, tenant_id: TenantId | None, new: NewKey) -> CreatedKey:
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
        services=sorted(set(new.services)),
        created_by=work.actor.id,
        created_at=work.now(),
        expires_at=new.expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    detail = {"name": row.name, "prefix": prefix, "scopes": row.scopes, "services": row.services}
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
    row.revoked_at = row.revoked_at or work.now()
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
        state=state_of(row, now),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def state_of(row: ApiKeyRow, now: datetime) -> KeyState:
    """Whether the key opens anything at `now`."""
    if row.revoked_at is not None:
        return KeyState.revoked
    if row.expires_at is not None and row.expires_at <= now:
        return KeyState.expired
    return KeyState.active
