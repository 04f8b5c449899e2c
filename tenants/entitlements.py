"""What a tenant may use of pools, gateways and device classes at one instant. Pure, but for reading it.

* What is public may be used by everyone, what is dedicated by tenants with a grant that has not expired.
* A tenant with grants of device classes may use those classes and no other; one without may use all. An expired grant
  still counts as one here: that a right ends never gives another.

Whoever changes a tenant's grants locks the tenant's row; who takes a place in reliance on them holds it shared
(`hold`): until that transaction ends, what it read is true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from appliance.kernel.access import Access
from tenants.grant_schemas import GrantKind, Target
from tenants.grant_tables import GrantRow
from tenants.scope import TenantScope
from tenants.tables import TenantRow

Expiries = Mapping[str, datetime | None]
"""By the id (or class) of what is granted: until when, None without an end."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """The grants of one tenant, those that have expired by `now` among them."""

    tenant: str
    now: datetime
    grants: Mapping[GrantKind, Expiries] = field(default_factory=dict)

    def holds(self, kind: GrantKind, target: str) -> bool:
        """Whether a grant of it is in force."""
        found = self.grants.get(kind, {})
        return target in found and _is_live(found[target], self.now)

    def refusal(self, target: Target) -> str | None:
        """Why the tenant may not use a pool or gateway; None where it may."""
        if target.access is Access.public or self.holds(target.kind, target.id):
            return None
        expiry = self.grants.get(target.kind, {}).get(target.id)
        if expiry is not None:
            return f"the grant of {target.kind.value} {target.name} expired at {_told(expiry)}"
        return f"{target.kind.value} {target.name} is dedicated and not granted to tenant {self.tenant}"

    def refusal_of_class(self, vendor: str, model: str) -> str | None:
        """Why the tenant may not use devices of this class; None where it may."""
        classes = self.grants.get(GrantKind.device_class, {})
        named = device_class(vendor, model)
        if not classes or self.holds(GrantKind.device_class, named):
            return None
        expiry = classes.get(named)
        if expiry is not None:
            return f"the grant of device class {named} expired at {_told(expiry)}"
        return f"device class {named} is not granted to tenant {self.tenant}, which has grants of others"

    @property
    def is_bound_to_classes(self) -> bool:
        return bool(self.grants.get(GrantKind.device_class))

    def excluded(self, kinds: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Of devices of these (vendor, model): the models that the tenant may not use, each with why."""
        refusals = {model: self.refusal_of_class(vendor, model) for vendor, model in kinds}
        return {model: reason for model, reason in refusals.items() if reason is not None}

    def without(self, kind: GrantKind, target: str) -> Entitlement:
        """The same once that grant is deleted."""
        rest = {name: expiry for name, expiry in self.grants.get(kind, {}).items() if name != target}
        return Entitlement(self.tenant, self.now, {**self.grants, kind: rest})

    def until(self, kind: GrantKind, target: str, expires_at: datetime | None) -> Entitlement:
        """The same with that grant, until this instant."""
        return Entitlement(
            self.tenant, self.now, {**self.grants, kind: {**self.grants.get(kind, {}), target: expires_at}}
        )

    def at(self, now: datetime) -> Entitlement:
        """The same grants at another instant."""
        return Entitlement(self.tenant, now, self.grants)


def device_class(vendor: str, model: str) -> str:
    """The name of a class of devices: equal ones of one vendor."""
    return f"{vendor}/{model}"


async def load(session: AsyncSession, tenant_ids: Collection[str], now: datetime) -> dict[str, Entitlement]:
    """The entitlements of these tenants, by id; one that is not there has none."""
    names = dict(
        (await session.execute(select(TenantRow.id, TenantRow.name).where(TenantRow.id.in_(tenant_ids)))).all()
    )
    grants: dict[str, dict[GrantKind, dict[str, datetime | None]]] = {tenant_id: {} for tenant_id in names}
    columns = (GrantRow.tenant_id, GrantRow.kind, *_TARGETS.values(), GrantRow.expires_at)
    for tenant_id, kind, pool, gateway, named, expires_at in await session.execute(
        select(*columns).where(GrantRow.tenant_id.in_(names))
    ):
        grants[tenant_id].setdefault(GrantKind(kind), {})[pool or gateway or named] = expires_at
    return {tenant_id: Entitlement(name, now, grants[tenant_id]) for tenant_id, name in names.items()}


async def hold(session: AsyncSession, tenant_id: str) -> None:
    """Keep the tenant's grants as they are until the transaction ends; others may hold them at the same time."""
    await session.execute(select(TenantRow.id).where(TenantRow.id == tenant_id).with_for_update(read=True))


def usable(
    kind: GrantKind,
    access: InstrumentedAttribute[str],
    identity: InstrumentedAttribute[str],
    scope: TenantScope,
    now: datetime,
) -> ColumnElement[bool]:
    """The condition that a row of a pool or gateway is one that the scope's tenant may use; the platform may all."""
    if scope.tenant_id is None:
        return true()
    return or_(access == Access.public.value, identity.in_(_granted(kind, scope.tenant_id, now)))


def _granted(kind: GrantKind, tenant_id: str, now: datetime) -> Select[Any]:
    target = _TARGETS[kind]
    live = or_(GrantRow.expires_at.is_(None), GrantRow.expires_at > now)
    return select(target).where(GrantRow.tenant_id == tenant_id, target.is_not(None), live)


def _is_live(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is None or expires_at > now


def _told(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


_TARGETS: dict[GrantKind, InstrumentedAttribute[Any]] = {
    GrantKind.pool: GrantRow.pool_id,
    GrantKind.gateway: GrantRow.gateway_id,
    GrantKind.device_class: GrantRow.device_class,
}
