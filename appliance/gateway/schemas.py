"""What the API takes and gives for gateways."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from appliance.gateway.ports import MOST_PORTS
from appliance.gateway.states import GatewayState, ListenerState
from appliance.kernel.access import Access

# `$` also matches before a final line feed in Python, hence the look-ahead.
GatewayName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)", description="unique on the platform")
]
Host = Annotated[str, Meta(min_length=2, max_length=64, description="an address of the node, or 0.0.0.0 or ::")]
FirstPort = Annotated[int, Meta(ge=1, le=65535)]
PortCount = Annotated[int, Meta(ge=1, le=MOST_PORTS)]


class NewGateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: GatewayName
    first_port: FirstPort
    port_count: PortCount = MOST_PORTS
    host: Host = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    access: Access = Access.public


class GatewayChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Members that are absent stay as they are. A new range must hold every listener that the gateway has."""

    name: GatewayName | UnsetType = UNSET
    host: Host | UnsetType = UNSET
    first_port: FirstPort | UnsetType = UNSET
    port_count: PortCount | UnsetType = UNSET
    state: GatewayState | UnsetType = UNSET
    access: Access | UnsetType = UNSET


class SharedListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Without a port: the one that it has, or the lowest that is free."""

    port: Annotated[int, Meta(ge=1, le=65535)] | None = None


class ListenerView(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` says why a port that failed could not be bound; binding is tried again until it succeeds."""

    id: str
    port: int
    tenant_id: str | None
    service_id: str | None
    state: ListenerState
    reason: str | None
    created_at: datetime


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """`listeners` are those of the caller's tenant and the shared one, or all for an administrator; `free_ports` have
    none. `shared_port` leads to every service of the gateway, by path or by the model that a request names. `access`
    dedicated: only tenants with a grant may use it.
    """

    id: str
    name: str
    host: str
    node: str
    first_port: int
    port_count: int
    state: GatewayState
    access: Access
    free_ports: list[int]
    shared_port: int | None
    listeners: list[ListenerView]
    version: int
    created_at: datetime
