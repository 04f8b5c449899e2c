"""Giving a service its port, in the transaction that creates the service (invariant I2), and a gateway its shared one.

The gateway's row is locked, so of many at once each sees what the one before it took. The unique constraint has
the last word all the same: who loses against it goes on to the next port. The machine is asked meanwhile whether
a process of others holds a port: sixteen attempts to bind cost well under a millisecond. A port that is taken
between that and the supervisor's own bind shows as a failed listener with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import ports, queries
from appliance.gateway.errors import GatewayClosed, GatewayFull, PortOutsideGateway, PortTaken
from appliance.gateway.ports import PortProbe, PortUse
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow, ListenerRow
from appliance.kernel.errors import Conflict
from appliance.kernel.ids import new_id
from tenants.work import Work

REMEDY = "choose another gateway, or ask an administrator to open one"


async def allocate_listener(
    work: Work, gateway: str | None, service_id: str, wanted_port: int | None = None, *, probe: PortProbe = ports.probe
) -> ListenerRow:
    """A port for a service of the actor's tenant: the wanted one, or the lowest that is free.

    `gateway` is a name or an id; None takes the oldest open gateway with room (or the one that has the wanted
    port). Only gateways that the tenant may use are there for it. Raises `GatewayFull`, `GatewayClosed`,
    `PortOutsideGateway`, `PortTaken`, `NotFound`.
    """
    tenant_id = work.scope.one()
    await work.session.flush()  # so that a failure within a savepoint below is the listener's own
    if await queries.has_listener(work.session, service_id):
        raise Conflict(f"service {service_id} has a listener already")
    attempt = _Attempt(work, tenant_id, service_id, wanted_port, probe)
    if gateway is not None:
        usable = queries.usable_by(work.scope, work.now())
        return await attempt.on(await queries.lock_gateway(work.session, gateway, usable))
    return await attempt.anywhere()


async def release_listener(session: AsyncSession, service_id: str) -> None:
    """Give the service's port back, if it has one; the caller wakes the snapshot's publisher."""
    await session.execute(delete(ListenerRow).where(ListenerRow.service_id == service_id))


async def allocate_shared_listener(
    work: Work, gateway: GatewayRow, wanted_port: int | None = None, *, probe: PortProbe = ports.probe
) -> ListenerRow:
    """The port of a locked gateway that all its services are reached by; errors as `allocate_listener`."""
    await work.session.flush()
    return await _Attempt(work, None, None, wanted_port, probe).on(gateway)


class _Attempt:
    """One search for a port."""

    def __init__(
        self, work: Work, tenant_id: str | None, service_id: str | None, wanted_port: int | None, probe: PortProbe
    ) -> None:
        self._work, self._tenant_id, self._service_id = work, tenant_id, service_id
        self._wanted, self._probe = wanted_port, probe

    async def anywhere(self) -> ListenerRow:
        """In the order of their ids, always the same, so that two transactions never wait for each other."""
        usable = queries.usable_by(self._work.scope, self._work.now())
        for gateway_id in await queries.gateways_with_room(self._work.session, usable):
            row = await queries.lock_gateway(self._work.session, gateway_id)
            if self._wanted is not None and self._wanted not in row.ports:
                continue
            try:
                return await self.on(row)
            except (GatewayFull, GatewayClosed):
                continue  # filled or closed since the list was made
        if self._wanted is not None:
            raise PortTaken(f"port {self._wanted} is free on no open gateway; leave the port out, or {REMEDY}")
        raise GatewayFull("every open gateway has all its ports in use; ask an administrator to open one")

    async def on(self, gateway: GatewayRow) -> ListenerRow:
        """On this locked gateway."""
        if gateway.state != GatewayState.open.value:
            raise GatewayClosed(f"gateway {gateway.name!r} is closed; {REMEDY}")
        taken = await queries.taken_ports(self._work.session, gateway.node, gateway.ports)
        for port in self._candidates(gateway, taken):
            listener = await self._claim(gateway, port)
            if listener is not None:
                return listener
        raise self._refusal(gateway, taken)

    def _candidates(self, gateway: GatewayRow, taken: set[int]) -> Sequence[int]:
        """Ports to try: those nobody listens on first, the lowest first."""
        if self._wanted is not None and self._wanted not in gateway.ports:
            raise PortOutsideGateway(
                f"port {self._wanted} is not one of gateway {gateway.name!r}, "
                f"which has {gateway.ports.start} to {gateway.ports.stop - 1}"
            )
        chosen = gateway.ports if self._wanted is None else [self._wanted]
        uses = {port: self._probe(gateway.host, port) for port in chosen if port not in taken}
        return sorted((port for port, use in uses.items() if use is not PortUse.held), key=lambda p: (uses[p], p))

    async def _claim(self, gateway: GatewayRow, port: int) -> ListenerRow | None:
        listener = ListenerRow(
            id=new_id("lsn"),
            gateway_id=gateway.id,
            node=gateway.node,
            port=port,
            tenant_id=self._tenant_id,
            service_id=self._service_id,
            created_at=self._work.now(),
        )
        try:
            async with self._work.session.begin_nested():
                self._work.session.add(listener)
        except IntegrityError:
            return None
        return listener

    def _refusal(self, gateway: GatewayRow, taken: set[int]) -> Conflict | GatewayFull:
        if self._wanted is not None:
            holder = "has a listener" if self._wanted in taken else "is held by another process on the machine"
            return PortTaken(
                f"port {self._wanted} of gateway {gateway.name!r} {holder}; choose another or leave it out"
            )
        count = gateway.port_count
        foreign = [port for port in gateway.ports if port not in taken]
        by_others = f" ({', '.join(map(str, foreign))} by other processes on the machine)" if foreign else ""
        return GatewayFull(f"gateway {gateway.name!r} has all its {count} ports in use{by_others}; {REMEDY}")
