"""What callers send and get about tenants, quotas, people and keys.

Input structs list the writable fields and refuse every other one, so that nobody sets a field that was merely
forgotten. In a change, a field that is left out (or null) stays as it is.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from tenants.limits import Limits, Network, Priority, Route
from tenants.permissions import MemberRole, Permission, Role
from tenants.quotas import Resource

# `$` also matches before a final line feed in Python, hence the look-ahead.
TenantName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)")]
UserName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.@-]{0,61}[a-z0-9])?$(?!\n)")]
KeyName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$(?!\n)")]
DisplayName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
Password = Annotated[str, Meta(max_length=256)]
KeyServices = Annotated[list[str], Meta(max_length=500)]
KeyRoutes = Annotated[list[Route], Meta(max_length=100)]
KeyNetworks = Annotated[list[Network], Meta(max_length=100)]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of what callers send."""


class TenantState(StrEnum):
    active = "active"
    suspended = "suspended"


class Trust(StrEnum):
    """`untrusted`: its replicas run only where the launcher keeps them from those of others, and from the machine."""

    trusted = "trusted"
    untrusted = "untrusted"


class NewTenant(Input, frozen=True):
    """Without `trust` the appliance's own setting (`tenant_trust`) holds."""

    name: TenantName
    display_name: DisplayName | None = None
    limits: Limits = Limits()
    priority: Priority = Priority.normal
    trust: Trust | None = None


class TenantChange(Input, frozen=True):
    """`limits` are replaced as a whole: `{}` lifts them all."""

    display_name: DisplayName | None = None
    state: TenantState | None = None
    limits: Limits | None = None
    priority: Priority | None = None
    trust: Trust | None = None


class Tenant(msgspec.Struct, frozen=True):
    id: str
    name: str
    display_name: str
    state: TenantState
    limits: Limits
    priority: Priority
    trust: Trust
    version: int
    created_at: datetime


class QuotaDefaults(msgspec.Struct, frozen=True):
    """The limits of a new tenant, and its trust where nothing is said of it."""

    services: int
    replicas: int
    devices: int
    device_memory_bytes: int
    cpu_millis: int
    memory_bytes: int
    storage_bytes: int
    keys: int
    trust: Trust = Trust.trusted


class Quota(msgspec.Struct, frozen=True):
    """`used` of `limit`; `scope` is a tenant's id or `platform`."""

    scope: str
    resource: Resource
    used: int
    limit: int


class QuotaChange(Input, frozen=True):
    limit: Annotated[int, Meta(ge=0, le=2**53)]


class NewUser(Input, frozen=True):
    name: UserName
    display_name: DisplayName | None = None
    is_platform_admin: bool = False


class UserChange(Input, frozen=True):
    display_name: DisplayName | None = None
    is_platform_admin: bool | None = None


class User(msgspec.Struct, frozen=True):
    id: str
    name: str
    display_name: str
    is_platform_admin: bool
    must_change_password: bool
    version: int
    created_at: datetime


class NewMember(Input, frozen=True):
    """`name` is a new user's, who gets a one-time password; an administrator of the platform may name one that
    exists, who becomes a member as he is.
    """

    name: UserName
    role: MemberRole
    display_name: DisplayName | None = None


class MemberChange(Input, frozen=True):
    role: MemberRole


class Member(msgspec.Struct, frozen=True):
    user_id: str
    name: str
    display_name: str
    role: Role
    created_at: datetime


class AddedMember(msgspec.Struct, frozen=True):
    """`one_time_password` is shown this once and must be changed at the first login.

    It is null for a user who existed, and when an answer is repeated.
    """

    member: Member
    one_time_password: str | None


class CreatedUser(msgspec.Struct, frozen=True):
    """`one_time_password` is shown this once (null when an answer is repeated); the first login has to change it."""

    user: User
    one_time_password: str | None


class OneTimePassword(msgspec.Struct, frozen=True):
    one_time_password: str


class NewKey(Input, frozen=True):
    """`scopes` default to inference alone.

    `services` are the ids of the services that it opens, `routes` what it may call of them, `networks` where it may
    be used from; where one is empty, all of them. These and `limits` hold at the gateway.
    """

    name: KeyName
    scopes: Annotated[list[Permission], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [Permission.inference]
    )
    services: KeyServices = []
    routes: KeyRoutes = []
    networks: KeyNetworks = []
    limits: Limits = Limits()
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyChange(Input, frozen=True):
    """Each list and `limits` are replaced as a whole: an empty list opens everything, `{}` lifts the limits."""

    services: KeyServices | None = None
    routes: KeyRoutes | None = None
    networks: KeyNetworks | None = None
    limits: Limits | None = None


class KeyState(StrEnum):
    active = "active"
    expired = "expired"
    revoked = "revoked"


class Key(msgspec.Struct, frozen=True):
    """`tenant_id` is null for a key of the platform; `prefix` is how the secret begins."""

    id: str
    tenant_id: str | None
    name: str
    prefix: str
    scopes: list[Permission]
    services: list[str]
    routes: list[str]
    networks: list[str]
    limits: Limits
    state: KeyState
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    version: int


class CreatedKey(msgspec.Struct, frozen=True):
    """`secret` is shown this once (null when an answer is repeated); the appliance keeps its SHA-256."""

    key: Key
    secret: str | None


class Credentials(Input, frozen=True):
    name: Annotated[str, Meta(max_length=128)]
    password: Password


class PasswordChange(Input, frozen=True):
    current: Password
    new: Password


class Membership(msgspec.Struct, frozen=True):
    tenant_id: str
    tenant_name: str
    tenant_display_name: str
    tenant_state: TenantState
    role: Role


class Me(msgspec.Struct, frozen=True):
    """Who is asking. `tenant_id` and `permissions` hold for this request (see the header `Appliance-Tenant`);
    `csrf_token` goes into the header `X-CSRF-Token` of every write and is null for an API key.
    """

    kind: str
    id: str
    name: str
    tenant_id: str | None
    permissions: list[Permission]
    memberships: list[Membership]
    must_change_password: bool
    csrf_token: str | None
