"""The names that requests on a shared listener call services by: each leads to one, whoever's key it is.

A request's `model` may be a service's served model, its name or `{tenant}.{service}` (the data plane's `directory`
resolves it). What a key may use are its tenant's services and those shared with it; no two of these on one gateway
with a shared listener have a name in common. All that could break this locks the gateway first: creating a service,
sharing one, opening a shared listener.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.queries import lock_gateway, shared_listener
from appliance.gateway.tables import ListenerRow
from appliance.services.errors import ServedModelTaken
from appliance.services.states import Desired
from appliance.services.tables import ServiceRow, ServiceShareRow
from tenants.tables import TenantRow


class Called(NamedTuple):
    """A service, and the ids of the tenants whose keys may use it."""

    id: str
    tenant: str
    name: str
    served_model: str
    users: frozenset[str]

    @property
    def qualified(self) -> str:
        return f"{self.tenant}.{self.name}"

    @property
    def names(self) -> frozenset[str]:
        return frozenset((self.served_model, self.name, self.qualified))


class Clash(NamedTuple):
    name: str
    one: Called
    other: Called


async def require_clear_names(session: AsyncSession, service: ServiceRow) -> None:
    """`ServedModelTaken` if a name of the flushed service leads elsewhere, too, for one who may use it."""
    gateway_id = service.gateway_id or await session.scalar(
        select(ListenerRow.gateway_id).where(ListenerRow.service_id == service.id)
    )
    if gateway_id is None:
        return
    await lock_gateway(session, gateway_id)
    if await shared_listener(session, gateway_id) is None:
        return
    for name, one, other in clashes(await called_on(session, gateway_id)):
        if service.id in (one.id, other.id):
            there = other if one.id == service.id else one
            raise ServedModelTaken(
                f"a request on the shared listener that names the model {name!r} reaches service {there.qualified!r} "
                "already; choose another name or served_model, or a gateway of its own"
            )


async def require_clear_gateway(session: AsyncSession, gateway_id: str) -> None:
    """`ServedModelTaken` if two services of the locked gateway could not be told apart on its first shared listener."""
    if await shared_listener(session, gateway_id) is not None:
        return
    for name, one, other in clashes(await called_on(session, gateway_id)):
        raise ServedModelTaken(
            f"services {one.qualified!r} and {other.qualified!r} are both called {name!r} by requests, and some keys "
            "may use both; delete one of them, or publish it on another gateway, before you share a port"
        )


def clashes(services: Iterable[Called]) -> Sequence[Clash]:
    """Each two that a tenant may use and that have a name in common, by the name."""
    by_name: dict[str, list[Called]] = defaultdict(list)
    for service in sorted(services):
        for name in service.names:
            by_name[name].append(service)
    return [
        Clash(name, one, other)
        for name, named in sorted(by_name.items())
        for one, other in combinations(named, 2)
        if one.users & other.users
    ]


async def called_on(session: AsyncSession, gateway_id: str) -> Sequence[Called]:
    """All services of the gateway that are not being deleted."""
    query = (
        select(ServiceRow, TenantRow.name)
        .join(TenantRow, TenantRow.id == ServiceRow.tenant_id)
        .outerjoin(ListenerRow, ListenerRow.service_id == ServiceRow.id)
        .where(func.coalesce(ServiceRow.gateway_id, ListenerRow.gateway_id) == gateway_id)
        .where(ServiceRow.desired != Desired.deleted)
    )
    rows = (await session.execute(query)).all()
    guests = await _guests(session, [row.id for row, _ in rows])
    return [
        Called(row.id, tenant, row.name, row.served_model, frozenset((row.tenant_id, *guests.get(row.id, ()))))
        for row, tenant in rows
    ]


async def _guests(session: AsyncSession, service_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The tenants that each of the services is shared with."""
    query = select(ServiceShareRow.service_id, ServiceShareRow.tenant_id)
    found: dict[str, list[str]] = defaultdict(list)
    for service_id, tenant_id in await session.execute(query.where(ServiceShareRow.service_id.in_(service_ids))):
        found[service_id].append(tenant_id)
    return found
