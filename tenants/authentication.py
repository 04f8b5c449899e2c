"""From a secret to an `Actor`: an API key, or the token of a login.

The admin port (`platform=True`) admits keys of the platform and administrators; the chosen tenant, if any, narrows
their scope. The tenant port admits keys of tenants and members; there nobody holds a permission on the platform,
whoever he is elsewhere. A tenant that the caller may not know of is answered as one that does not exist.

A secret is looked up by its SHA-256: with 256 random bits, how long the look-up takes tells nothing of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.errors import ApplianceError, BadInput, Forbidden, NotFound, Unauthenticated
from appliance.kernel.ids import TenantId
from tenants.activity import Sightings
from tenants.actors import Actor, ActorKind
from tenants.errors import PasswordChangeRequired, TenantSuspended
from tenants.permissions import PERMISSIONS, TENANT_PERMISSIONS, Permission, Role
from tenants.queries import keys as key_queries
from tenants.queries import logins as login_queries
from tenants.queries import people, tenancy
from tenants.schemas import TenantState
from tenants.scope import NOWHERE, PLATFORM
from tenants.tables import ApiKeyRow, LoginRow, MemberRow, TenantRow, UserRow


async def authenticate_key(
    session: AsyncSession,
    clock: Clock,
    secret: str,
    *,
    request_id: str | None,
    chosen_tenant: str | None,
    platform: bool,
    sightings: Sightings | None = None,
) -> Actor:
    """The actor of an API key. Raises `Unauthenticated`, `NotFound` (the chosen tenant) or `TenantSuspended`."""
    found = await key_queries.key_with_hash(session, sha256_hex(secret))
    if found is None:
        raise Unauthenticated("the API key is not valid")
    key, tenant = found
    now = clock.now()
    _require_in_force(key, now)
    if platform:
        actor = await _platform_key(session, key, chosen_tenant, request_id)
    else:
        actor = _tenant_key(key, tenant, chosen_tenant, request_id)
    if sightings is not None:
        sightings.saw_key(key.id, now)
    return actor


def _require_in_force(key: ApiKeyRow, now: datetime) -> None:
    if key.revoked_at is not None:
        raise Unauthenticated(f"the API key {key.prefix}... was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthenticated(f"the API key {key.prefix}... expired at {key.expires_at.isoformat()}")


async def _platform_key(
    session: AsyncSession, key: ApiKeyRow, chosen_tenant: str | None, request_id: str | None
) -> Actor:
    if key.tenant_id is not None:
        raise Unauthenticated("this is a tenant's API key; use it on the tenant port")
    tenant_id = await _chosen_by_platform(session, chosen_tenant)
    return Actor(ActorKind.key, key.id, key.name, tenant_id, _scopes(key), request_id)


def _tenant_key(key: ApiKeyRow, tenant: TenantRow | None, chosen_tenant: str | None, request_id: str | None) -> Actor:
    if tenant is None:
        raise Unauthenticated("this is a platform key; use it on the admin port")
    if chosen_tenant not in (None, tenant.id, tenant.name):
        raise NotFound(f"there is no tenant {chosen_tenant!r}")
    if refusal := _suspension(tenant):
        raise refusal
    permissions = _scopes(key) & TENANT_PERMISSIONS
    return Actor(ActorKind.key, key.id, key.name, TenantId(tenant.id), permissions, request_id)


def _scopes(key: ApiKeyRow) -> frozenset[Permission]:
    return frozenset(Permission(scope) for scope in key.scopes)


async def authenticate_login(
    session: AsyncSession,
    clock: Clock,
    token: str,
    *,
    request_id: str | None,
    chosen_tenant: str | None,
    platform: bool,
    allow_password_change: bool = False,
    sightings: Sightings | None = None,
) -> tuple[Actor, str]:
    """The actor of a login and the token that his writes must bring (see `Me`).

    Raises `Unauthenticated`, `NotFound` (the chosen tenant), `Forbidden` (no administrator, on the admin port), and
    `PasswordChangeRequired` unless `allow_password_change`.
    """
    token_sha256, now = sha256_hex(token), clock.now()
    found = await login_queries.login_with_hash(session, token_sha256)
    if found is None or _has_ended(found[0], now, sightings):
        raise Unauthenticated("the login has ended; sign in again")
    login, user = found
    if user.must_change_password and not allow_password_change:
        raise PasswordChangeRequired("change the one-time password first: PUT /api/v1/me/password")
    if platform:
        actor = await _administrator(session, user, chosen_tenant, request_id)
    else:
        actor = await _member(session, user, chosen_tenant, request_id)
    if sightings is not None:
        sightings.saw_login(token_sha256, now)
    return actor, login.csrf_token


def _has_ended(login: LoginRow, now: datetime, sightings: Sightings | None) -> bool:
    noted = sightings.login_seen(login.token_sha256) if sightings is not None else None
    seen_at = max(login.seen_at, noted or login.seen_at)
    return now >= login.expires_at or now - seen_at >= timedelta(seconds=login.idle_s)


async def _administrator(
    session: AsyncSession, user: UserRow, chosen_tenant: str | None, request_id: str | None
) -> Actor:
    if not user.is_platform_admin:
        raise Forbidden(f"{user.name!r} is no administrator of the platform; use the tenants' console")
    tenant_id = await _chosen_by_platform(session, chosen_tenant)
    return Actor(ActorKind.user, user.id, user.name, tenant_id, PERMISSIONS[Role.platform_admin], request_id)


async def _chosen_by_platform(session: AsyncSession, chosen_tenant: str | None) -> TenantId | None:
    if chosen_tenant is None:
        return None
    return TenantId((await tenancy.find_tenant(session, PLATFORM, chosen_tenant)).id)


async def _member(session: AsyncSession, user: UserRow, chosen_tenant: str | None, request_id: str | None) -> Actor:
    memberships = await people.memberships(session, user.id)
    if chosen_tenant is not None:
        memberships = [pair for pair in memberships if chosen_tenant in (pair[1].id, pair[1].name)]
        if not memberships:
            raise NotFound(f"there is no tenant {chosen_tenant!r}")
    if len(memberships) != 1:
        refusal = _choice(memberships)
        return Actor(ActorKind.user, user.id, user.name, NOWHERE.tenant_id, frozenset(), request_id, refusal)
    member, tenant = memberships[0]
    permissions = PERMISSIONS[Role(member.role)] & TENANT_PERMISSIONS
    tenant_id = TenantId(tenant.id)
    return Actor(ActorKind.user, user.id, user.name, tenant_id, permissions, request_id, _suspension(tenant))


def _choice(memberships: Sequence[tuple[MemberRow, TenantRow]]) -> ApplianceError:
    if not memberships:
        return Forbidden("you are a member of no tenant; ask an administrator to add you to one")
    names = ", ".join(tenant.name for _, tenant in memberships)
    return BadInput(f"you are a member of {names}; choose one with the header Appliance-Tenant")


def _suspension(tenant: TenantRow) -> TenantSuspended | None:
    if tenant.state != TenantState.suspended:
        return None
    return TenantSuspended(f"tenant {tenant.name!r} is suspended; ask an administrator of the platform")
