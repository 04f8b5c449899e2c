"""What may be done, and which role may do it: one table, from which the API's guards and the tests are made."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    inference = "inference"
    service_read = "service:read"
    service_write = "service:write"
    model_read = "model:read"
    model_write = "model:write"
    key_read = "key:read"
    key_write = "key:write"
    member_read = "member:read"
    member_write = "member:write"
    budget_write = "budget:write"
    usage_read = "usage:read"
    audit_read = "audit:read"
    compute_read = "compute:read"
    platform_read = "platform:read"
    platform_write = "platform:write"


class Role(StrEnum):
    platform_admin = "platform_admin"
    tenant_admin = "tenant_admin"
    developer = "developer"
    viewer = "viewer"


class MemberRole(StrEnum):
    """The roles that a tenant can give: all but the platform's own."""

    tenant_admin = Role.tenant_admin.value
    developer = Role.developer.value
    viewer = Role.viewer.value


_VIEWER: Final = frozenset(
    {Permission.service_read, Permission.model_read, Permission.usage_read, Permission.compute_read}
)
_DEVELOPER: Final = _VIEWER | {
    Permission.inference,
    Permission.service_write,
    Permission.model_write,
    Permission.key_read,
    Permission.key_write,
    Permission.member_read,
}
_TENANT_ADMIN: Final = _DEVELOPER | {Permission.member_write, Permission.budget_write, Permission.audit_read}

PERMISSIONS: Final[dict[Role, frozenset[Permission]]] = {
    Role.viewer: _VIEWER,
    Role.developer: _DEVELOPER,
    Role.tenant_admin: _TENANT_ADMIN,
    Role.platform_admin: frozenset(Permission),
}
TENANT_PERMISSIONS: Final = _TENANT_ADMIN
"""What may ever be held on the tenant port; `platform:*` does not exist there."""
