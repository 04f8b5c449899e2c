"""Who am I: the answer to `GET /api/v1/me`."""

from __future__ import annotations

from appliance.kernel.crypto import sha256_hex
from tenants.actors import ActorKind
from tenants.permissions import Role
from tenants.queries import logins, people
from tenants.schemas import Me, Membership, TenantState
from tenants.work import Work


async def describe(work: Work, token: str | None) -> Me:
    """The actor with permissions and memberships; `token` is the login's, None for an API key."""
    actor = work.actor
    found = await logins.login_with_hash(work.session, sha256_hex(token)) if token else None
    pairs = await people.memberships(work.session, actor.id) if actor.kind is ActorKind.user else []
    return Me(
        kind=actor.kind.value,
        id=actor.id,
        name=actor.name,
        tenant_id=actor.tenant_id or None,
        permissions=sorted(actor.permissions),
        memberships=[
            Membership(tenant.id, tenant.name, tenant.display_name, TenantState(tenant.state), Role(member.role))
            for member, tenant in pairs
        ],
        must_change_password=found is not None and found[1].must_change_password,
        csrf_token=found[0].csrf_token if found is not None else None,
    )
