"""What callers send and get about grants."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from appliance.kernel.access import Access
from tenants.schemas import Input


class GrantKind(StrEnum):
    """What is granted."""

    pool = "pool"
    gateway = "gateway"
    device_class = "device_class"


class Target(NamedTuple):
    """A pool or gateway, as far as its use is concerned."""

    kind: GrantKind
    id: str
    name: str
    access: Access


Expiry = Annotated[datetime, Meta(tz=True, description="with a time zone; later than now")]


class NewGrant(Input, frozen=True):
    """`target` is the name or id of a pool or gateway, or a device class, `vendor/model` as devices tell them. Without
    `expires_at` it holds until it is deleted.
    """

    tenant: Annotated[str, Meta(description="name or id of the tenant")]
    kind: GrantKind
    target: Annotated[str, Meta(min_length=1, max_length=192)]
    expires_at: Expiry | None = None


class GrantChange(Input, frozen=True):
    """Null: until it is deleted."""

    expires_at: Expiry | None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """`target` is the id of a pool or gateway, or a device class; `target_name` what people call it. An expired grant
    stays until it is deleted, and grants nothing.
    """

    id: str
    tenant_id: str
    tenant: str
    kind: GrantKind
    target: str
    target_name: str
    expires_at: datetime | None
    expired: bool
    created_by: str
    created_at: datetime
    version: int
