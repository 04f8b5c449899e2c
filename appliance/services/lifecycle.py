"""Changing, starting, stopping and deleting a service: the desire is written, the reconciler follows."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from appliance.kernel.errors import Conflict
from appliance.services import queries, trust
from appliance.services.counting import amounts
from appliance.services.errors import ActionNotAllowed
from appliance.services.events import note
from appliance.services.names import require_clear_names
from appliance.services.schemas import Placement, ShareService, UpdateService
from appliance.services.states import Action, Desired, Phase, ServiceState, can
from appliance.services.tables import DeploymentRow, ServiceRow, ServiceShareRow
from appliance.services.transitions import SERVICES, SNAPSHOT
from appliance.services.trust import Isolation
from tenants import limits, quotas
from tenants.queries.tenancy import find_tenant
from tenants.scope import PLATFORM
from tenants.work import Work

_WORDS = {Action.start: "started", Action.stop: "stopped", Action.delete: "deleted"}
_DESIRES = {
    Action.start: (Desired.running, ServiceState.pending),
    Action.stop: (Desired.stopped, ServiceState.stopping),
    Action.delete: (Desired.deleted, ServiceState.deleting),
}


async def start_service(work: Work, service: ServiceRow, launcher: Isolation) -> ServiceRow:
    """Run the service's replicas; raises `TenantUntrusted` where `launcher` may not run them."""
    await trust.check(work.session, launcher, service.tenant_id)
    await _count_again(work, service)
    await work.session.execute(
        update(DeploymentRow).where(DeploymentRow.service_id == service.id).values(failures=0, next_start_at=None)
    )
    return _desire(work, service, Action.start)


async def stop_service(work: Work, service: ServiceRow) -> ServiceRow:
    """Let every replica finish what runs, then stop it; the service keeps its name and port."""
    stopped = _desire(work, service, Action.stop)
    await _give_back(work, service)
    return stopped


async def delete_service(work: Work, service: ServiceRow) -> ServiceRow:
    """Stop everything and forget the service; its name and port are free once it is gone."""
    counted = service.desired == Desired.running
    deleted = _desire(work, service, Action.delete)
    if counted:
        await _give_back(work, service)
    return deleted


async def update_service(work: Work, service: ServiceRow, change: UpdateService) -> ServiceRow:
    """Change what can change while the service runs; nothing is restarted."""
    _check(service, Action.update)
    changed: dict[str, Any] = {}
    if change.replicas is not UNSET:
        changed["replicas"] = await _scale(work, service, change.replicas)
    if change.placement is not UNSET:
        changed["placement"] = await _aim(work, service, change.placement)
    if change.description is not UNSET:
        service.description = changed["description"] = change.description
    if change.defaults is not UNSET:
        service.defaults = changed["defaults"] = msgspec.to_builtins(change.defaults)
    if change.timeouts is not UNSET:
        service.timeouts = changed["timeouts"] = msgspec.to_builtins(change.timeouts)
    changed |= _update_traffic(service, change)
    _touch(work, service)
    told = _without_prompt(changed)
    work.record("service.updated", "service", service.id, tenant_id=service.tenant_id, detail=told)
    note(work.session, work.clock, service.id, Phase.changed, f"changed by {work.actor.name}", detail=told)
    return service


def _without_prompt(changed: dict[str, Any]) -> dict[str, Any]:
    """What is kept for good does not hold the system prompt, only which it was."""
    defaults = changed.get("defaults")
    if not defaults or not defaults.get("system_prompt"):
        return changed
    digest = hashlib.sha256(defaults["system_prompt"].encode()).hexdigest()
    return changed | {"defaults": defaults | {"system_prompt": f"sha256:{digest}"}}


def _update_traffic(service: ServiceRow, change: UpdateService) -> dict[str, Any]:
    """How the gateway treats requests; what the audit trail says of it."""
    changed: dict[str, Any] = {}
    if change.limits is not UNSET:
        service.limits = limits.stored(change.limits)
        changed["limits"] = service.limits or {}
    if change.affinity is not UNSET:
        service.affinity = changed["affinity"] = change.affinity.value
    if change.queue is not UNSET:
        service.queue = changed["queue"] = msgspec.to_builtins(change.queue)
    if change.capture is not UNSET:
        service.capture = changed["capture"] = msgspec.to_builtins(change.capture)
    return changed


async def share_service(work: Work, service: ServiceRow, request: ShareService) -> ServiceRow:
    """Let the keys of exactly these further tenants use the service; `NotFound` for a tenant that is not there,
    `ServedModelTaken` for one that would find two services by one name.
    """
    _check(service, Action.update)
    tenants = {}
    for name in request.tenants:
        tenant = await find_tenant(work.session, PLATFORM, name)
        if tenant.id != service.tenant_id:
            tenants[tenant.id] = tenant.name
    await work.session.execute(delete(ServiceShareRow).where(ServiceShareRow.service_id == service.id))
    work.session.add_all(
        ServiceShareRow(service_id=service.id, tenant_id=tenant_id, created_at=work.now()) for tenant_id in tenants
    )
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise Conflict("one of the tenants was deleted just now; look and choose again") from error
    await require_clear_names(work.session, service)
    _touch(work, service)
    detail = {"name": service.name, "shared_with": sorted(tenants.values())}
    work.record("service.shared", "service", service.id, tenant_id=service.tenant_id, detail=detail)
    said = f"shared with {', '.join(detail['shared_with'])}" if tenants else "shared with nobody any more"
    note(work.session, work.clock, service.id, Phase.changed, f"{said}, by {work.actor.name}")
    return service


async def _scale(work: Work, service: ServiceRow, replicas: int) -> int:
    """Set the replicas of the service's deployment that takes the traffic."""
    deployments = await queries.deployments_of(work.session, [service.id])
    deployment = max(deployments, key=lambda row: row.weight)
    more = replicas - deployment.replicas
    if service.desired == Desired.running and more:
        count = quotas.take_all if more > 0 else quotas.give_back_all
        await count(work.session, service.tenant_id, amounts(deployment, abs(more)))
    deployment.replicas = replicas
    deployment.failures, deployment.next_start_at = 0, None
    return replicas


async def _aim(work: Work, service: ServiceRow, placement: Placement) -> dict[str, Any]:
    """Say where further replicas of all the service's deployments go."""
    told: dict[str, Any] = msgspec.to_builtins(placement)
    await work.session.execute(update(DeploymentRow).where(DeploymentRow.service_id == service.id).values(**told))
    return told


def _desire(work: Work, service: ServiceRow, action: Action) -> ServiceRow:
    _check(service, action)
    desired, state = _DESIRES[action]
    service.desired, service.state, service.reason, service.state_since = desired.value, state.value, "", work.now()
    _touch(work, service)
    word = _WORDS[action]
    work.record(f"service.{word}", "service", service.id, tenant_id=service.tenant_id, detail={"name": service.name})
    note(work.session, work.clock, service.id, Phase.changed, f"{word} by {work.actor.name}")
    return service


def _check(service: ServiceRow, action: Action) -> None:
    if not can(Desired(service.desired), action):
        raise ActionNotAllowed(f"service {service.name!r} is {service.state}; {action.value} is not possible now")


def _touch(work: Work, service: ServiceRow) -> None:
    service.version += 1
    service.updated_at = work.now()
    work.wake(SERVICES, SNAPSHOT)


async def _count_again(work: Work, service: ServiceRow) -> None:
    _check(service, Action.start)
    for row in await queries.deployments_of(work.session, [service.id]):
        await quotas.take_all(work.session, service.tenant_id, amounts(row, row.replicas))


async def _give_back(work: Work, service: ServiceRow) -> None:
    """A service that is not to run counts no replicas and nothing of theirs, though they may take a while to stop."""
    for row in await queries.deployments_of(work.session, [service.id]):
        await quotas.give_back_all(work.session, service.tenant_id, amounts(row, row.replicas))
