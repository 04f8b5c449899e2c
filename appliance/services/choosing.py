"""What the publisher left open: runtime, flavor, pool. What was named is checked, with the reason where it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.runtimes.capability import CombinationRefused, ModelTraits, check
from appliance.runtimes.catalog import Catalog, Mode, RuntimeSpec
from appliance.services.needs import Needs
from appliance.services.sizing import Fit, Fitted, smallest, stock_of
from gpu.estimate.facts import ModelFacts
from gpu.tables import FlavorRow, PoolRow
from tenants import entitlements
from tenants.grant_schemas import GrantKind
from tenants.scope import TenantScope
from tenants.work import Work

DEFAULT_POOL = "default"


@dataclass(frozen=True, slots=True)
class Choice:
    runtime: RuntimeSpec
    flavor: FlavorRow
    pool: PoolRow
    image: str | None
    needs: Needs


async def choose_flavor(work: Work, wanted: str | None, pool: PoolRow, fit: Fit, facts: ModelFacts) -> Fitted:
    """The flavor by name or id, with runtime and needs; without one, the suggestion of `sizing` for what the tenant may
    use of the pool.
    """
    session, tenant_id = work.session, work.scope.one()
    size = FlavorRow.devices * FlavorRow.device_share
    flavors = (await session.scalars(select(FlavorRow).order_by(size, FlavorRow.memory_bytes, FlavorRow.id))).all()
    if wanted is None and flavors:
        entitlement = (await entitlements.load(session, {tenant_id}, work.now()))[tenant_id]
        stock = await stock_of(session, pool.id)
        refused = entitlement.excluded({(each.vendor, each.model) for each in stock})
        allowed = [each for each in stock if each.model not in refused]
        return smallest(flavors, allowed, fit, facts, pool.name)
    for flavor in flavors:
        if wanted in (flavor.name, flavor.id):
            return fit(flavor)
    known = ", ".join(sorted(flavor.name for flavor in flavors))
    raise NotFound(f"there is no flavor {wanted!r}; there are: {known or 'none, an administrator must make one'}")


async def choose_pool(session: AsyncSession, scope: TenantScope, now: datetime, wanted: str | None) -> PoolRow:
    """The pool by name or id; without one, `default`, else the oldest. Only those that the scope's tenant may use are
    there, for it.
    """
    usable = select(PoolRow).where(entitlements.usable(GrantKind.pool, PoolRow.access, PoolRow.id, scope, now))
    if wanted is not None:
        query = usable.where(or_(PoolRow.name == wanted, PoolRow.id == wanted))
    else:
        query = usable.order_by(PoolRow.name != DEFAULT_POOL, PoolRow.id).limit(1)
    pool = await session.scalar(query)
    if pool is None:
        known = ", ".join(row.name for row in await session.scalars(usable.order_by(PoolRow.name)))
        raise NotFound(f"there is no pool {wanted or DEFAULT_POOL!r}; there are: {known or 'none yet'}")
    return pool


def choose_runtime(
    catalog: Catalog,
    is_ready: Callable[[RuntimeSpec], bool],
    wanted: str | None,
    flavor: FlavorRow,
    traits: ModelTraits,
) -> RuntimeSpec:
    """The named runtime if it can serve the model, else the best that can: high performance before normal mode,
    those that are installed here before those that are not.
    """
    vendor = flavor.device_vendor or ("cpu" if flavor.devices == 0 else None)
    if wanted is not None:
        runtime = catalog.get(wanted)
        check(runtime, vendor, traits)
        return runtime
    refusals: list[str] = []
    ranked = sorted(catalog.all(), key=lambda r: (not is_ready(r), r.mode is not Mode.high_performance, r.name))
    for runtime in ranked:
        try:
            check(runtime, vendor, traits)
        except CombinationRefused as refusal:
            refusals.append(refusal.detail)
            continue
        return runtime
    raise CombinationRefused("no runtime can serve this model: " + "; ".join(refusals))
