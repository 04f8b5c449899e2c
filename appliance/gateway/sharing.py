"""The shared listener of a gateway: one of its ports, by which all its services are reached.

A service without a port of its own is on one; so it stays while there is such a service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import ports, queries
from appliance.gateway.allocation import allocate_shared_listener
from appliance.gateway.errors import GatewayClosed, NoSharedListener
from appliance.gateway.ports import PortProbe
from appliance.gateway.publisher import SNAPSHOT
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow
from appliance.kernel.errors import InUse, NotFound
from tenants.work import Work

ServicesOn = Callable[[AsyncSession, str], Awaitable[Sequence[str]]]
"""The services without a port of their own on a gateway, as a person calls them; the services' domain brings it."""


async def open_shared_listener(
    work: Work, gateway: GatewayRow, port: int | None, *, probe: PortProbe = ports.probe
) -> None:
    """See that a locked gateway has a shared listener, at `port` if one is given; errors as `allocate_listener`."""
    there = await queries.shared_listener(work.session, gateway.id)
    if there is None or port not in (None, there.port):
        if there is not None:
            await work.session.delete(there)
        there = await allocate_shared_listener(work, gateway, port, probe=probe)
        gateway.version += 1
        work.wake(SNAPSHOT)
    work.record("gateway.shared", "gateway", gateway.id, detail={"name": gateway.name, "port": there.port})


async def close_shared_listener(work: Work, gateway: GatewayRow, services_on: ServicesOn) -> None:
    """Free the port of a locked gateway's shared listener; `InUse`, naming them, while services have no other."""
    there = await queries.shared_listener(work.session, gateway.id)
    if there is None:
        raise NotFound(f"gateway {gateway.name!r} has no shared listener")
    if services := await services_on(work.session, gateway.id):
        raise InUse(
            f"{', '.join(services)} are reached by the shared listener of gateway {gateway.name!r} alone; delete them "
            "first"
        )
    await work.session.delete(there)
    gateway.version += 1
    work.record("gateway.unshared", "gateway", gateway.id, detail={"name": gateway.name, "port": there.port})
    work.wake(SNAPSHOT)


async def lock_shared_gateway(
    session: AsyncSession, gateway: str | None, usable: ColumnElement[bool] = queries.EVERY
) -> GatewayRow:
    """The open gateway whose shared listener a new service goes to, locked: this one, or the oldest that has one.

    Raises `NoSharedListener`, `GatewayClosed`, `NotFound`.
    """
    remedy = "give the service a port of its own, or ask an administrator to share one"
    if gateway is None:
        for gateway_id in await queries.gateways_with_shared_listener(session, usable):
            return await _checked(session, await queries.lock_gateway(session, gateway_id), remedy)
        raise NoSharedListener(f"no open gateway has a shared listener; {remedy}")
    return await _checked(session, await queries.lock_gateway(session, gateway, usable), remedy)


async def _checked(session: AsyncSession, row: GatewayRow, remedy: str) -> GatewayRow:
    if row.state != GatewayState.open.value:
        raise GatewayClosed(f"gateway {row.name!r} is closed; {remedy}")
    if await queries.shared_listener(session, row.id) is None:
        raise NoSharedListener(f"gateway {row.name!r} has no shared listener; {remedy}")
    return row
