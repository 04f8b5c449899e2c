"""From rows to what the API shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.queries import shared_ports
from appliance.gateway.tables import GatewayRow
from appliance.services import queries
from appliance.services.needs import Needs
from appliance.services.schemas import (
    Affinity,
    Capture,
    DeploymentView,
    EventView,
    Exposure,
    MemoryNeeds,
    Placement,
    Queue,
    ReplicaView,
    SamplingDefaults,
    ServiceTimeouts,
    ServiceView,
)
from appliance.services.states import Action, Desired, ReplicaState, can
from appliance.services.tables import DeploymentRow, EventRow, ReplicaRow, ServiceRow
from gpu.requests import Strategy
from tenants import limits

_EVERY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
_NO_SERVICES = {"v1", "v2", "healthz"}
"""What a shared listener never reads as a service's name at the beginning of a path."""


class Origin(NamedTuple):
    """How clients reach the ports of gateways that listen on every address."""

    scheme: str
    host: str


async def services(session: AsyncSession, rows: Sequence[ServiceRow], origin: Origin) -> list[ServiceView]:
    """The views of these services, in their order, in a fixed number of queries."""
    ids = [row.id for row in rows]
    replicas: dict[str, list[ReplicaRow]] = defaultdict(list)
    for replica in await queries.replicas_of(session, ids):
        replicas[replica.deployment_id].append(replica)
    deployments: dict[str, list[DeploymentView]] = defaultdict(list)
    for deployment in await queries.deployments_of(session, ids):
        deployments[deployment.service_id].append(_deployment(deployment, replicas[deployment.id]))
    tenants = await queries.tenant_names(session, [row.tenant_id for row in rows])
    places = await _places(session, rows, tenants, origin)
    shares = await queries.shares_of(session, ids)
    return [
        _service(row, tenants[row.tenant_id], deployments[row.id], places[row.id], shares.get(row.id, []))
        for row in rows
    ]


async def service(session: AsyncSession, row: ServiceRow, origin: Origin) -> ServiceView:
    return (await services(session, [row], origin))[0]


def event(row: EventRow) -> EventView:
    return EventView(
        id=row.id, replica_id=row.replica_id, at=row.at, phase=row.phase, message=row.message, detail=row.detail
    )


class _Place(NamedTuple):
    """Where a service is reached."""

    gateway: str | None
    port: int | None
    urls: list[str]


async def _places(
    session: AsyncSession, rows: Sequence[ServiceRow], tenants: Mapping[str, str], origin: Origin
) -> dict[str, _Place]:
    listeners = await queries.listeners_of(session, [row.id for row in rows])
    elsewhere = await queries.gateways_named(session, [row.gateway_id for row in rows if row.gateway_id is not None])
    gateways = {service_id: gateway for service_id, (_, gateway) in listeners.items()}
    gateways |= {row.id: elsewhere[row.gateway_id] for row in rows if row.gateway_id in elsewhere}
    shared = await shared_ports(session, {gateway.id for gateway in gateways.values()})
    places = {}
    for row in rows:
        gateway = gateways.get(row.id)
        port = listeners[row.id][0].port if row.id in listeners else None
        urls = []
        if gateway is not None:
            path = f"{tenants[row.tenant_id]}.{row.name}" if row.name in _NO_SERVICES else row.name
            urls = _urls(gateway, path, port, shared.get(gateway.id), origin)
        places[row.id] = _Place(gateway.name if gateway else None, port, urls)
    return places


def _urls(gateway: GatewayRow, path: str, own: int | None, shared: int | None, origin: Origin) -> list[str]:
    host = origin.host if gateway.host in _EVERY_ADDRESS else gateway.host
    host = f"[{host}]" if ":" in host else host
    return [
        *([f"{origin.scheme}://{host}:{own}/v1"] if own is not None else []),
        *([f"{origin.scheme}://{host}:{shared}/{path}/v1"] if shared is not None else []),
    ]


def _service(
    row: ServiceRow, tenant: str, deployments: list[DeploymentView], place: _Place, shared_with: list[str]
) -> ServiceView:
    return ServiceView(
        id=row.id,
        tenant=tenant,
        tenant_id=row.tenant_id,
        name=row.name,
        description=row.description,
        served_model=row.served_model,
        desired=row.desired,
        state=row.state,
        reason=row.reason,
        state_since=row.state_since,
        gateway=place.gateway,
        listener=Exposure.own if row.gateway_id is None else Exposure.shared,
        port=place.port,
        url=next(iter(place.urls), None),
        urls=place.urls,
        defaults=msgspec.convert(row.defaults, SamplingDefaults),
        timeouts=msgspec.convert(row.timeouts, ServiceTimeouts),
        limits=limits.read(row.limits),
        affinity=Affinity(row.affinity or Affinity.prefix),
        queue=msgspec.convert(row.queue or {}, Queue),
        capture=msgspec.convert(row.capture, Capture | None),
        shared_with=shared_with,
        replicas=sum(deployment.replicas for deployment in deployments),
        ready_replicas=sum(deployment.ready_replicas for deployment in deployments),
        actions=[action.value for action in Action if can(Desired(row.desired), action)],
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        deployments=deployments,
    )


def _deployment(row: DeploymentRow, replicas: Sequence[ReplicaRow]) -> DeploymentView:
    return DeploymentView(
        id=row.id,
        name=row.name,
        generation=row.generation,
        weight=row.weight,
        model=row.model_name,
        model_version=row.model_version,
        runtime=row.runtime,
        image=row.image,
        flavor=row.flavor_name,
        memory=None if row.needs is None else memory_needs(msgspec.convert(row.needs, Needs)),
        placement=Placement(
            strategy=Strategy(row.strategy), node_labels=row.node_labels or {}, preemptible=row.preemptible
        ),
        preemptions=row.preemptions,
        replicas=row.replicas,
        ready_replicas=sum(replica.state == ReplicaState.ready for replica in replicas),
        args=row.args,
        env=row.env,
        failures=row.failures,
        next_start_at=row.next_start_at,
        current=[_replica(replica) for replica in replicas],
    )


def memory_needs(needs: Needs) -> MemoryNeeds:
    return MemoryNeeds(
        source=needs.source,
        reason=needs.reason,
        problem=needs.problem,
        device_memory_bytes=needs.device_memory_bytes,
        devices=needs.devices,
        context=needs.context,
        concurrency=needs.concurrency,
        share=needs.share,
        breakdown=needs.breakdown,
        correction=needs.correction,
    )


def _replica(row: ReplicaRow) -> ReplicaView:
    return ReplicaView(
        id=row.id,
        state=row.state,
        reason=row.reason,
        generation=row.generation,
        node_id=row.node_id,
        created_at=row.created_at,
        started_at=row.started_at,
        ready_at=row.ready_at,
        ended_at=row.ended_at,
        exit=row.exit,
    )
