"""What a new appliance begins with: the platform's counters, its first administrator, and the operator's key.

Idempotent: the composition root runs it at each start, within one transaction.
"""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.kernel.crypto import Passwords, same, sha256_hex
from appliance.kernel.ids import new_id
from tenants import users
from tenants.keys import make_secret
from tenants.permissions import Permission
from tenants.queries import keys as key_queries
from tenants.queries import people, tenancy
from tenants.quotas import PLATFORM_SCOPE, Resource
from tenants.schemas import NewUser
from tenants.tables import ApiKeyRow
from tenants.work import Work

FIRST_ADMINISTRATOR: Final = "admin"
OPERATOR_KEY: Final = "operator"


class Bootstrapped(msgspec.Struct, frozen=True):
    """Secrets that exist nowhere else: each is None unless it was made just now."""

    admin_password: str | None
    operator_key: str | None


async def ensure_platform(
    work: Work, *, services_limit: int, passwords: Passwords, operator_key: str | None
) -> Bootstrapped:
    """Make what is missing; `work` is the system's own.

    `operator_key` is what the operator's key file holds, None where there is none. If it is not the secret of the
    operator's key in the database, that key gets a new secret, which the caller writes to the file once the
    transaction is committed.
    """
    await _ensure_quotas(work, services_limit)
    return Bootstrapped(await _ensure_administrator(work, passwords), await _ensure_operator_key(work, operator_key))


async def _ensure_quotas(work: Work, services_limit: int) -> None:
    if await tenancy.find_quota(work.session, PLATFORM_SCOPE, Resource.services) is not None:
        return
    tenancy.add_quotas(work.session, PLATFORM_SCOPE, {Resource.services: services_limit})
    target = f"{PLATFORM_SCOPE}/{Resource.services.value}"
    work.record("quota.created", "quota", target, detail={"limit": services_limit})


async def _ensure_administrator(work: Work, passwords: Passwords) -> str | None:
    """The one-time password of the first administrator, if there was none yet."""
    if await people.lock_platform_admins(work.session):
        return None
    account = NewUser(name=FIRST_ADMINISTRATOR, display_name="Administrator", is_platform_admin=True)
    _, password = await users.add_user(work, account, passwords)
    return password


async def _ensure_operator_key(work: Work, secret: str | None) -> str | None:
    """The new secret of the operator's key, if the one at hand does not open it."""
    row = await key_queries.key_named(work.session, None, OPERATOR_KEY)
    everything = sorted(permission.value for permission in Permission)
    if row is not None and row.revoked_at is None and secret and same(sha256_hex(secret), row.secret_sha256):
        if row.scopes != everything:  # an older release made it, which knew fewer permissions
            row.scopes, row.version = everything, row.version + 1
            work.record("key.updated", "key", row.id, detail={"name": OPERATOR_KEY, "scopes": everything})
        return None
    fresh, prefix = make_secret()
    if row is None:
        row = ApiKeyRow(
            id=new_id("key"),
            tenant_id=None,
            name=OPERATOR_KEY,
            services=[],
            created_by=work.actor.id,
            created_at=work.now(),
            expires_at=None,
            last_used_at=None,
        )
        work.session.add(row)
    row.prefix, row.secret_sha256, row.revoked_at = prefix, sha256_hex(fresh), None
    row.scopes = everything
    work.record("key.replaced", "key", row.id, detail={"name": OPERATOR_KEY, "prefix": prefix})
    return fresh
