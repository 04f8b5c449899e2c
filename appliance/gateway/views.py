"""From rows, and what the supervisor reports of their ports, to what the API shows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import processes, queries
from appliance.gateway.plane.wire import ListenersReport, ListenerStatus
from appliance.gateway.schemas import GatewayView, ListenerView
from appliance.gateway.states import GatewayState, ListenerState
from appliance.gateway.tables import GatewayRow, ListenerRow
from appliance.kernel.access import Access
from tenants.scope import TenantScope


async def gateways(
    session: AsyncSession, scope: TenantScope, rows: Sequence[GatewayRow], home: Path
) -> list[GatewayView]:
    """The views of these gateways, in their order; listeners outside the scope only make their port not free."""
    ids = [row.id for row in rows]
    taken = await queries.ports_of(session, ids)
    listeners = await queries.listeners_of(session, scope, ids)
    reported = await asyncio.to_thread(read_report, home)
    return [
        GatewayView(
            id=row.id,
            name=row.name,
            host=row.host,
            node=row.node,
            first_port=row.first_port,
            port_count=row.port_count,
            state=GatewayState(row.state),
            access=Access(row.access),
            free_ports=[port for port in row.ports if port not in taken.get(row.id, ())],
            shared_port=next((one.port for one in listeners.get(row.id, ()) if one.service_id is None), None),
            listeners=[_listener(listener, row, reported) for listener in listeners.get(row.id, ())],
            version=row.version,
            created_at=row.created_at,
        )
        for row in rows
    ]


async def gateway(session: AsyncSession, scope: TenantScope, row: GatewayRow, home: Path) -> GatewayView:
    return (await gateways(session, scope, [row], home))[0]


def read_report(home: Path) -> Mapping[str, ListenerStatus] | None:
    """What the supervisor last said of each listener, by id; None if none runs or it has said nothing yet."""
    supervisor = processes.supervisor(home)
    if supervisor is None:
        return None
    supervisor.close()
    try:
        content = (home / "gateway" / "status" / "listeners.json").read_bytes()
    except FileNotFoundError:
        return None
    report = msgspec.json.decode(content, type=ListenersReport)
    return {status.id: status for status in report.listeners} if report.supervisor_pid == supervisor.pid else None


def _listener(row: ListenerRow, gateway: GatewayRow, reported: Mapping[str, ListenerStatus] | None) -> ListenerView:
    state, reason = _observed(row, gateway, reported)
    return ListenerView(
        id=row.id,
        port=row.port,
        tenant_id=row.tenant_id,
        service_id=row.service_id,
        state=state,
        reason=reason,
        created_at=row.created_at,
    )


def _observed(
    row: ListenerRow, gateway: GatewayRow, reported: Mapping[str, ListenerStatus] | None
) -> tuple[ListenerState, str | None]:
    if reported is None:
        return ListenerState.unknown, "the gateway's supervisor does not run; it is being started"
    status = reported.get(row.id)
    if status is None or (status.host, status.port) != (gateway.host, row.port):
        return ListenerState.pending, None
    if status.error is not None:
        return ListenerState.failed, f"port {row.port} at {gateway.host}: {status.error}"
    return (ListenerState.listening if status.bound else ListenerState.pending), None
