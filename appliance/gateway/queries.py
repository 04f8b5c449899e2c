"""All SQL of gateways and listeners. Gateways belong to the platform; a listener belongs to its service's tenant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Select, func, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow, ListenerRow
from appliance.kernel.errors import NotFound
from appliance.kernel.ids import is_id
from appliance.kernel.pagination import PageRequest
from tenants import entitlements
from tenants.grant_schemas import GrantKind
from tenants.scope import TenantScope

EVERY: Final = true()
"""The condition of the platform: gateways that only some tenants may use are there for it."""


def usable_by(scope: TenantScope, now: datetime) -> ColumnElement[bool]:
    """The condition that the scope's tenant may use a gateway; one that it may not is not there for it."""
    return entitlements.usable(GrantKind.gateway, GatewayRow.access, GatewayRow.id, scope, now)


async def find_gateway(session: AsyncSession, name_or_id: str, usable: ColumnElement[bool] = EVERY) -> GatewayRow:
    """By name or id; raises `NotFound`."""
    return _found(await session.scalar(_gateway(name_or_id, usable)), name_or_id)


async def lock_gateway(session: AsyncSession, name_or_id: str, usable: ColumnElement[bool] = EVERY) -> GatewayRow:
    """The gateway as it is now; until the transaction ends nobody else allocates on it or changes it."""
    query = _gateway(name_or_id, usable).with_for_update(key_share=True)
    return _found(await session.scalar(query.execution_options(populate_existing=True)), name_or_id)


def _gateway(name_or_id: str, usable: ColumnElement[bool]) -> Select[GatewayRow]:
    column = GatewayRow.id if is_id(name_or_id, "gwy") else GatewayRow.name
    return select(GatewayRow).where(column == name_or_id, usable)


def _found(row: GatewayRow | None, name_or_id: str) -> GatewayRow:
    if row is None:
        raise NotFound(f"there is no gateway {name_or_id!r}")
    return row


async def lock_all_gateways(session: AsyncSession) -> None:
    """Let nobody else add or change a gateway until the transaction ends: ranges are compared with one another,
    which no constraint that both databases know can do. SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("LOCK TABLE gateways IN SHARE ROW EXCLUSIVE MODE"))


async def list_gateways(
    session: AsyncSession, page: PageRequest, usable: ColumnElement[bool] = EVERY
) -> Sequence[GatewayRow]:
    return (await session.scalars(page.apply(select(GatewayRow).where(usable), GatewayRow.id))).all()


async def gateways_with_room(session: AsyncSession, usable: ColumnElement[bool] = EVERY) -> Sequence[str]:
    """The ids of open gateways with fewer listeners than ports, oldest first. Others may be about to fill them."""
    taken = select(func.count()).where(ListenerRow.gateway_id == GatewayRow.id).correlate(GatewayRow).scalar_subquery()
    query = select(GatewayRow.id).where(GatewayRow.state == GatewayState.open.value, taken < GatewayRow.port_count)
    return (await session.scalars(query.where(usable).order_by(GatewayRow.id))).all()


async def gateway_overlapping(
    session: AsyncSession, node: str, ports: range, *, but: str | None = None
) -> GatewayRow | None:
    """A gateway of the node, other than `but`, that has one of these ports."""
    query = select(GatewayRow).where(
        GatewayRow.node == node,
        GatewayRow.first_port < ports.stop,
        GatewayRow.first_port + GatewayRow.port_count > ports.start,
    )
    if but is not None:
        query = query.where(GatewayRow.id != but)
    return await session.scalar(query.limit(1))


async def gateway_named(session: AsyncSession, name: str) -> GatewayRow | None:
    return await session.scalar(select(GatewayRow).where(GatewayRow.name == name))


async def taken_ports(session: AsyncSession, node: str, ports: range) -> set[int]:
    """Those of the node's ports that have a listener."""
    query = select(ListenerRow.port).where(ListenerRow.node == node, ListenerRow.port.between(ports[0], ports[-1]))
    return set(await session.scalars(query))


async def listeners_of(
    session: AsyncSession, scope: TenantScope, gateway_ids: Iterable[str]
) -> Mapping[str, list[ListenerRow]]:
    """The listeners within the scope and the shared ones, by gateway, in the order of their ports."""
    query = select(ListenerRow).where(
        ListenerRow.gateway_id.in_(list(gateway_ids)),
        or_(scope.holds(ListenerRow.tenant_id), ListenerRow.service_id.is_(None)),
    )
    found: dict[str, list[ListenerRow]] = defaultdict(list)
    for row in await session.scalars(query.order_by(ListenerRow.port)):
        found[row.gateway_id].append(row)
    return found


async def ports_of(session: AsyncSession, gateway_ids: Iterable[str]) -> Mapping[str, set[int]]:
    """The ports that have a listener, by gateway, whoever's it is."""
    query = select(ListenerRow.gateway_id, ListenerRow.port).where(ListenerRow.gateway_id.in_(list(gateway_ids)))
    found: dict[str, set[int]] = defaultdict(set)
    for gateway_id, port in (await session.execute(query)).all():
        found[gateway_id].add(port)
    return found


async def shared_ports(session: AsyncSession, gateway_ids: Iterable[str]) -> Mapping[str, int]:
    """The ports of the shared listeners of those gateways that have one."""
    query = select(ListenerRow.gateway_id, ListenerRow.port).where(
        ListenerRow.gateway_id.in_(list(gateway_ids)), ListenerRow.service_id.is_(None)
    )
    return dict((await session.execute(query)).all())


async def shared_listener(session: AsyncSession, gateway_id: str) -> ListenerRow | None:
    query = select(ListenerRow).where(ListenerRow.gateway_id == gateway_id, ListenerRow.service_id.is_(None))
    return await session.scalar(query)


async def gateways_with_shared_listener(session: AsyncSession, usable: ColumnElement[bool] = EVERY) -> Sequence[str]:
    """The ids of open gateways that have one, oldest first."""
    query = select(GatewayRow.id).join(ListenerRow, ListenerRow.gateway_id == GatewayRow.id)
    query = query.where(ListenerRow.service_id.is_(None), GatewayRow.state == GatewayState.open.value, usable)
    return (await session.scalars(query.order_by(GatewayRow.id))).all()


async def has_listener(session: AsyncSession, service_id: str) -> bool:
    return await session.scalar(select(ListenerRow.id).where(ListenerRow.service_id == service_id)) is not None


async def listeners_on(session: AsyncSession, node: str) -> Sequence[tuple[ListenerRow, str]]:
    """All listeners of a node, each with its gateway's address."""
    query = (
        select(ListenerRow, GatewayRow.host)
        .join(GatewayRow, GatewayRow.id == ListenerRow.gateway_id)
        .where(ListenerRow.node == node)
        .order_by(ListenerRow.port)
    )
    return [(listener, host) for listener, host in (await session.execute(query)).all()]
