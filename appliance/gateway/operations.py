"""Opening, changing and removing gateways. Ports are allocated in `appliance.gateway.allocation`."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import queries
from appliance.gateway.allocation import allocate_listener, release_listener
from appliance.gateway.errors import PortsTaken
from appliance.gateway.ports import PortRules
from appliance.gateway.publisher import SNAPSHOT
from appliance.gateway.schemas import GatewayChange, NewGateway
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow
from appliance.kernel.errors import BadInput, FieldError, InUse, NameTaken
from appliance.kernel.ids import new_id
from tenants.scope import PLATFORM
from tenants.work import Work

__all__ = [
    "ServiceNames",
    "allocate_listener",
    "change_gateway",
    "create_gateway",
    "delete_gateway",
    "ensure_gateway",
    "release_listener",
]

ServiceNames = Callable[[AsyncSession, Sequence[str]], Awaitable[Mapping[str, str]]]
"""The names of services by their ids; comes from the services' domain, which is above this one."""


async def create_gateway(work: Work, new: NewGateway, rules: PortRules) -> GatewayRow:
    """Open a gateway. `PortRangeRefused`, `PortsTaken`, `NameTaken`, `BadInput` for an address that is none."""
    ports = range(new.first_port, new.first_port + new.port_count)
    host = _address(new.host)
    rules.check(ports)
    await queries.lock_all_gateways(work.session)
    await _check_name(work.session, new.name)
    await _check_overlap(work.session, rules.node, ports)
    row = GatewayRow(
        id=new_id("gwy"),
        name=new.name,
        host=host,
        node=rules.node,
        first_port=new.first_port,
        port_count=new.port_count,
        state=GatewayState.open.value,
        access=new.access.value,
        version=1,
        created_at=work.now(),
    )
    work.session.add(row)
    await work.session.flush()
    work.record("gateway.created", "gateway", row.id, detail={"name": row.name, "ports": _span(ports)})
    return row


async def ensure_gateway(work: Work, new: NewGateway, rules: PortRules) -> GatewayRow:
    """The gateway of this name, made if it is missing and left as it is if it is there."""
    return await queries.gateway_named(work.session, new.name) or await create_gateway(work, new, rules)


async def change_gateway(work: Work, row: GatewayRow, change: GatewayChange, rules: PortRules) -> GatewayRow:
    """Change a locked gateway (`queries.lock_gateway`); errors as `create_gateway`, and `InUse` for a range that
    leaves out a port with a listener.
    """
    first_port = row.first_port if change.first_port is UNSET else change.first_port
    ports = range(first_port, first_port + (row.port_count if change.port_count is UNSET else change.port_count))
    if change.name is not UNSET and change.name != row.name:
        await _check_name(work.session, change.name)
        row.name = change.name
    if ports != row.ports:
        await _move(work, row, ports, rules)
    if change.host is not UNSET:
        row.host = _address(change.host)
    if change.state is not UNSET:
        row.state = change.state.value
    if change.access is not UNSET:
        row.access = change.access.value
    row.version += 1
    await work.session.flush()
    work.record(
        "gateway.changed", "gateway", row.id, detail={"name": row.name, "ports": _span(ports), "access": row.access}
    )
    work.wake(SNAPSHOT)
    return row


async def delete_gateway(work: Work, row: GatewayRow, names: ServiceNames) -> None:
    """Remove a locked gateway; `InUse`, naming the services, while it has listeners."""
    listeners = (await queries.listeners_of(work.session, PLATFORM, [row.id])).get(row.id, [])
    if listeners:
        service_ids = [listener.service_id for listener in listeners if listener.service_id is not None]
        known = await names(work.session, service_ids)
        called = ", ".join(sorted(repr(known.get(service_id, service_id)) for service_id in service_ids))
        users = f"services {called} listen" if called else f"{len(listeners)} shared listeners are"
        raise InUse(f"{users} on gateway {row.name!r}; delete them or move them to another gateway first")
    await work.session.execute(delete(GatewayRow).where(GatewayRow.id == row.id))
    work.record("gateway.deleted", "gateway", row.id, detail={"name": row.name})
    work.wake(SNAPSHOT)


async def _move(work: Work, row: GatewayRow, ports: range, rules: PortRules) -> None:
    rules.check(ports)
    await queries.lock_all_gateways(work.session)
    await _check_overlap(work.session, row.node, ports, but=row.id)
    taken = (await queries.ports_of(work.session, [row.id])).get(row.id, set())
    if outside := sorted(port for port in taken if port not in ports):
        listed = ", ".join(map(str, outside))
        raise InUse(f"ports {_span(ports)} leave out {listed}, where services of gateway {row.name!r} listen")
    row.first_port, row.port_count = ports.start, len(ports)


async def _check_name(session: AsyncSession, name: str) -> None:
    if await queries.gateway_named(session, name) is not None:
        raise NameTaken(f"there is a gateway {name!r} already; choose another name")


async def _check_overlap(session: AsyncSession, node: str, ports: range, *, but: str | None = None) -> None:
    other = await queries.gateway_overlapping(session, node, ports, but=but)
    if other is not None:
        raise PortsTaken(
            f"ports {_span(ports)} meet gateway {other.name!r}, which has {_span(other.ports)} on node {node!r}; "
            "choose a range beside it"
        )


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        wrong = f"{host!r} is no IP address; give one of the node's, or 0.0.0.0 for all"
        raise BadInput(wrong, errors=[FieldError("/host", wrong)]) from error


def _span(ports: range) -> str:
    return f"{ports.start} to {ports.stop - 1}" if len(ports) > 1 else str(ports.start)
