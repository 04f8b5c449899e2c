"""Who asks: a key with its tenant, made ready for the checks of each request.

Built once per key and snapshot, at the key's first use, so that a snapshot with 10,000 keys costs nothing for those
that nobody uses. What cannot be understood of a key's restrictions allows nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.schemas.tenants import SCOPE_INFERENCE, KeyEntry, TenantEntry

UNKNOWN_TENANT: Final = TenantEntry("")
"""Of a snapshot that was written before it told of tenants."""

_PRIORITIES: Final = {"low": Raw(b"1"), "normal": None, "high": Raw(b"-1")}
"""As vLLM orders: lower comes first, and 0 is what a request without one has."""


class Listing(NamedTuple):
    """Answers to `GET /v1/models`, and to `GET /v1/models/{model}` by the model's name."""

    whole: bytes
    each: dict[bytes, bytes]


class Principal:
    """`services` and `routes` None: all of them; `networks` None: from anywhere. `expires_at` is in Unix seconds,
    infinity for never. `priority` and `cache_salt` are JSON values for the request's body.
    """

    __slots__ = (
        "cache_salt",
        "expires_at",
        "key",
        "listings",
        "may_infer",
        "networks",
        "priority",
        "routes",
        "services",
        "tenant",
    )

    def __init__(self, key: KeyEntry, tenant: TenantEntry) -> None:
        self.key = key
        self.tenant = tenant
        self.expires_at = float("inf") if key.expires_at is None else key.expires_at
        self.may_infer = SCOPE_INFERENCE in key.scopes
        self.services = None if key.services is None else frozenset(key.services)
        self.routes = None if key.routes is None else frozenset(key.routes)
        self.networks = _networks(key.networks) if key.networks else None
        self.priority = _PRIORITIES[tenant.priority]
        self.cache_salt = None if tenant.cache_salt is None else Raw(msgspec.json.encode(tenant.cache_salt))
        self.listings: dict[str, Listing] = {}
        """The models by gateway, for a key that may not use every service."""

    def may_use(self, service_id: str) -> bool:
        return self.services is None or service_id in self.services

    def check_route(self, route: str) -> None:
        """`Refusal` 403 if the key is not for `route` ("METHOD /path", as the service's allow-list has it)."""
        if self.routes is not None and route not in self.routes:
            raise Refusal(
                403, "route_not_allowed", f"The API key '{self.key.name}' is not allowed to use {route[:200]}."
            )

    def may_come_from(self, peer: str) -> bool:
        """`peer`: an IP address as the operating system writes it."""
        if self.networks is None:
            return True
        try:
            address: IPv4Address | IPv6Address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def _networks(described: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    found = []
    for text in described:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            continue  # it allows nobody
    return tuple(found)
