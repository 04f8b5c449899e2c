"""Publishing: one transaction makes the service, its first deployment, its port, its counts and its audit row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.operations import allocate_listener
from appliance.gateway.queries import usable_by
from appliance.gateway.sharing import lock_shared_gateway
from appliance.kernel.errors import ApplianceError, BadInput, Conflict, FieldError, NameTaken
from appliance.kernel.ids import new_id
from appliance.runtimes import arguments, capability
from appliance.runtimes.catalog import Catalog, RuntimeSpec
from appliance.runtimes.images import choose_image
from appliance.services import trust
from appliance.services.choosing import Choice, choose_flavor, choose_pool, choose_runtime
from appliance.services.corrections import corrections_of, family_of
from appliance.services.counting import amounts
from appliance.services.events import note
from appliance.services.names import require_clear_names
from appliance.services.needs import Asked, needs
from appliance.services.schemas import CreateService, Exposure
from appliance.services.sizing import Fitted
from appliance.services.states import Desired, Phase, ServiceState
from appliance.services.tables import DeploymentRow, ServiceRow
from appliance.services.transitions import SERVICES, SNAPSHOT
from appliance.services.trust import Isolation
from gpu.estimate.correction import NONE
from gpu.estimate.facts import ModelFacts
from gpu.tables import FlavorRow
from tenants import entitlements, limits, quotas
from tenants.quotas import PLATFORM_SCOPE, Resource
from tenants.scope import TenantScope
from tenants.work import Work

FIRST_DEPLOYMENT = "main"


class ModelVersion(Protocol):
    """What publishing needs to know of a model version."""

    @property
    def version_id(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def model_name(self) -> str: ...
    @property
    def version_name(self) -> str: ...
    @property
    def formats(self) -> Sequence[str]: ...
    @property
    def quantised(self) -> bool: ...
    @property
    def encrypted(self) -> bool: ...
    @property
    def architectures(self) -> Sequence[str]: ...


class ReadFacts(Protocol):
    async def __call__(self, version_id: str, /) -> ModelFacts:
        """What the files of a version tell of its memory."""
        ...


class FindModel(Protocol):
    async def __call__(
        self, session: AsyncSession, scope: TenantScope, model: str, version: str | None
    ) -> ModelVersion: ...


@dataclass(frozen=True, slots=True)
class Publishing:
    """What the operations of services use besides the database."""

    catalog: Catalog
    find_model: FindModel
    launcher: Isolation
    read_facts: ReadFacts
    is_ready: Callable[[RuntimeSpec], bool]
    """Whether a runtime could start here now, for the choice among those that could serve."""


async def create_service(work: Work, publishing: Publishing, request: CreateService) -> ServiceRow:
    """Publish a model; the answer is `pending`, the reconciler does the rest."""
    tenant_id = work.scope.one()
    await entitlements.hold(work.session, tenant_id)
    await trust.check(work.session, publishing.launcher, tenant_id)
    model = await publishing.find_model(work.session, work.scope, request.model, request.model_version)
    choice = await choose(work, publishing, request, model)
    await _check_name(work, tenant_id, request.name)
    service = service_row(work, tenant_id, request)
    deployment = deployment_row(service, request, model, choice)
    await _count(work.session, tenant_id, deployment)
    await _insert(work.session, service, NameTaken(f"the tenant has a service {request.name!r}; choose another name"))
    gone = Conflict("the model version, the flavor or the pool was deleted just now; look and choose again")
    await _insert(work.session, deployment, gone)
    detail = {"name": service.name, "model": model.model_name, "runtime": choice.runtime.name}
    work.record("service.created", "service", service.id, detail=detail | await _expose(work, service, request))
    await require_clear_names(work.session, service)
    note(work.session, work.clock, service.id, Phase.changed, f"created by {work.actor.name}")
    work.wake(SERVICES, SNAPSHOT)
    return service


async def _expose(work: Work, service: ServiceRow, request: CreateService) -> dict[str, Any]:
    """Give the service a port of its own or a place on a shared listener; what the audit trail says of it."""
    match request.listener:
        case Exposure.own:
            listener = await allocate_listener(work, request.gateway, service.id, request.port)
            return {"port": listener.port}
        case Exposure.shared:
            if request.port is not None:
                wrong = "a service on a shared listener has no port of its own; leave out port or listener"
                raise BadInput(wrong, errors=[FieldError("/port", wrong)])
            usable = usable_by(work.scope, work.now())
            gateway = await lock_shared_gateway(work.session, request.gateway, usable)
            service.gateway_id = gateway.id
            await work.session.flush()
            return {"gateway": gateway.name}
        case _:
            assert_never(request.listener)


async def choose(work: Work, publishing: Publishing, request: CreateService, model: ModelVersion) -> Choice:
    session = work.session
    pool = await choose_pool(session, work.scope, work.now(), request.pool)
    traits = capability.ModelTraits(
        formats=tuple(model.formats),
        quantised=model.quantised,
        encrypted=model.encrypted,
        architectures=tuple(model.architectures),
    )
    facts = await publishing.read_facts(model.version_id)
    corrections = await corrections_of(session, family_of(model.architectures))

    def fit(flavor: FlavorRow) -> Fitted:
        runtime = choose_runtime(publishing.catalog, publishing.is_ready, request.runtime, flavor, traits)
        asked = Asked(
            runtime=runtime,
            args=arguments.check_args(runtime, request.args),
            devices=flavor.devices,
            device_share=flavor.device_share,
            device_memory_bytes=request.device_memory_bytes,
        )
        return Fitted(flavor, runtime, needs(asked, facts, corrections.get(runtime.name, NONE)))

    flavor, runtime, found = await choose_flavor(work, request.flavor, pool, fit, facts)
    arguments.check_env(runtime, request.env)
    image = await choose_image(session, runtime, publishing.launcher.name, request.image)
    return Choice(runtime, flavor, pool, image, found)


async def _check_name(work: Work, tenant_id: str, name: str) -> None:
    query = select(ServiceRow.state).where(ServiceRow.tenant_id == tenant_id, ServiceRow.name == name)
    state = await work.session.scalar(query)
    if state is not None:
        gone = "; the old one is still being deleted" if state == ServiceState.deleting else ""
        raise NameTaken(f"the tenant has a service {name!r}{gone}; choose another name")


async def _insert(session: AsyncSession, row: ServiceRow | DeploymentRow, overtaken: ApplianceError) -> None:
    """Add the row; `overtaken` where another transaction has changed what was checked before."""
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        raise overtaken from error


async def _count(session: AsyncSession, tenant_id: str, deployment: DeploymentRow) -> None:
    await quotas.take(session, PLATFORM_SCOPE, Resource.services)
    await quotas.take(session, tenant_id, Resource.services)
    await quotas.take_all(session, tenant_id, amounts(deployment, deployment.replicas))


def service_row(work: Work, tenant_id: str, request: CreateService) -> ServiceRow:
    now = work.now()
    return ServiceRow(
        id=new_id("svc"),
        tenant_id=tenant_id,
        name=request.name,
        description=request.description,
        served_model=request.served_model or request.name,
        desired=Desired.running.value,
        state=ServiceState.pending.value,
        reason="",
        defaults=msgspec.to_builtins(request.defaults),
        timeouts=msgspec.to_builtins(request.timeouts),
        limits=limits.stored(request.limits),
        affinity=request.affinity.value,
        queue=msgspec.to_builtins(request.queue),
        capture=msgspec.to_builtins(request.capture),
        version=1,
        created_at=now,
        updated_at=now,
        state_since=now,
    )


def deployment_row(service: ServiceRow, request: CreateService, model: ModelVersion, choice: Choice) -> DeploymentRow:
    return DeploymentRow(
        id=new_id("dep"),
        service_id=service.id,
        tenant_id=service.tenant_id,
        name=FIRST_DEPLOYMENT,
        generation=1,
        model_id=model.model_id,
        model_version_id=model.version_id,
        model_name=model.model_name,
        model_version=model.version_name,
        runtime=choice.runtime.name,
        image=choice.image,
        pool_id=choice.pool.id,
        flavor_id=choice.flavor.id,
        flavor_name=choice.flavor.name,
        devices=choice.flavor.devices,
        device_memory_bytes=choice.needs.device_memory_bytes,
        cpu_millis=round(choice.flavor.cpus * 1000),
        memory_bytes=choice.flavor.memory_bytes,
        needs=msgspec.to_builtins(choice.needs),
        strategy=request.placement.strategy.value,
        node_labels=dict(request.placement.node_labels),
        preemptible=request.placement.preemptible,
        replicas=request.replicas,
        args=list(request.args),
        env=dict(request.env),
        weight=100,
        failures=0,
    )
