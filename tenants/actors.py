"""Who is acting: a member with a login, an API key, or the appliance itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from appliance.kernel.errors import ApplianceError, Forbidden
from appliance.kernel.ids import TenantId
from tenants.permissions import Permission
from tenants.scope import TenantScope


class ActorKind(StrEnum):
    user = "user"
    key = "key"
    system = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """`tenant_id` is the tenant acted on or None (platform); `request_id` ties audit rows and logs to a request.

    `refusal` says why nothing that needs a permission may be done yet: for example that a member of several
    tenants has to choose one first.
    """

    kind: ActorKind
    id: str
    name: str
    tenant_id: TenantId | None
    permissions: frozenset[Permission]
    request_id: str | None = None
    refusal: ApplianceError | None = None

    @property
    def scope(self) -> TenantScope:
        return TenantScope(self.tenant_id)

    def require(self, permission: Permission) -> None:
        """Raise `Forbidden` unless the actor holds `permission`, or what stands in the way of any permission."""
        if self.refusal is not None:
            raise self.refusal
        if permission not in self.permissions:
            raise Forbidden(f"{self.name} lacks the permission {permission.value!r}")


def system(name: str, tenant_id: TenantId | None = None) -> Actor:
    """The appliance acting by itself, for example a reconciler."""
    return Actor(ActorKind.system, f"system:{name}", name, tenant_id, frozenset(Permission))
