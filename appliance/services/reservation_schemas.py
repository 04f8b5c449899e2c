"""What callers send and get about reservations."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from tenants.schemas import Input

_When = Annotated[datetime, Meta(tz=True, description="with a time zone")]
_DeviceId = Annotated[str, Meta(min_length=1, max_length=64)]


class NewReservation(Input, frozen=True, kw_only=True):
    """Of `devices`, by id, or of `count` equal ones of `pool`, of `device_class` where that is given (`vendor/model`).
    Without `starts_at` it begins at once.
    """

    tenant: Annotated[str, Meta(description="name or id of the tenant that the devices are kept for")]
    devices: Annotated[list[_DeviceId], Meta(min_length=1, max_length=1024)] | None = None
    pool: Annotated[str, Meta(description="name or id")] | None = None
    count: Annotated[int, Meta(ge=1, le=1024)] | None = None
    device_class: Annotated[str, Meta(min_length=1, max_length=192)] | None = None
    starts_at: _When | None = None
    ends_at: _When
    reason: Annotated[str, Meta(min_length=1, max_length=500, description="told to the tenant")]


class ReservationState(StrEnum):
    """Where now is, as seen from the window."""

    upcoming = "upcoming"
    active = "active"
    over = "over"


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Devices, by id, that are kept for a tenant from `starts_at` on, before `ends_at`. `replica_id`: for this replica
    of its alone, for which the appliance makes room; such a reservation ends once the replica has its place.
    """

    id: str
    tenant_id: str
    tenant: str
    devices: list[str]
    replica_id: str | None
    starts_at: datetime
    ends_at: datetime
    state: ReservationState
    reason: str
    created_by: str
    created_at: datetime
