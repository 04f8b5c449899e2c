"""Tenants and their keys, as a snapshot has them."""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from appliance.gateway.plane.schemas.limits import Budget, Limits, Priority

SCOPE_INFERENCE: Final = "inference"


class TenantEntry(Struct, frozen=True, omit_defaults=True):
    """`priority` orders its waiting requests, here and in the engine; `cache_salt` keeps its prefix cache apart."""

    name: str
    limits: Limits = Limits()
    budgets: list[Budget] = []
    priority: Priority = "normal"
    cache_salt: str | None = None


class TenantsShard(Struct, frozen=True):
    """By the tenant's id."""

    tenants: dict[str, TenantEntry]


class KeyEntry(Struct, frozen=True):
    """`services` None: every service of the tenant; `routes` None: every route ("METHOD /path") of a service;
    `networks`, if there are any: the only networks (CIDR) that it may be used from. `expires_at`: Unix seconds.
    """

    key_id: str
    tenant_id: str
    name: str = ""
    scopes: list[str] = field(default_factory=lambda: [SCOPE_INFERENCE])
    services: list[str] | None = None
    expires_at: float | None = None
    routes: list[str] | None = None
    networks: list[str] = []
    limits: Limits = Limits()
    budgets: list[Budget] = []


class KeysShard(Struct, frozen=True):
    """By the SHA-256 of the whole key, in lower-case hexadecimal."""

    keys: dict[str, KeyEntry]
