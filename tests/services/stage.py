"""Services on a real database, with everything below them that is not the database in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow
from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.leases import Guarded
from appliance.models.tables import ModelRow, ModelVersionRow
from appliance.runtimes.catalog import Catalog
from appliance.services import queries
from appliance.services.backoff import Backoff
from appliance.services.creation import Publishing, create_service
from appliance.services.lifecycle import delete_service, update_service
from appliance.services.machinery import Machinery, Timing
from appliance.services.reconciler import ServiceReconciler
from appliance.services.schemas import CreateService, UpdateService
from appliance.services.states import ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow, EventRow, ReplicaRow, ServiceRow
from gpu.estimate.facts import ModelFacts, facts_of
from gpu.estimate.weights import TensorFact
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, FlavorRow, NodeClaimRow, NodeRow, PoolRow
from tenants.actors import Actor, ActorKind
from tenants.permissions import PERMISSIONS, Role
from tenants.quotas import PLATFORM_SCOPE, Resource
from tenants.tables import QuotaRow, TenantRow
from tenants.work import Work
from tests.runtimes.specs import LIGHT, light
from tests.services.launchers import MemoryLauncher
from tests.services.preparations import Verifier
from tests.support.waiting import eventually_async

GIB: Final = 1024**3
TINY: Final = facts_of(
    {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 256,
        "max_position_embeddings": 512,
    },
    (TensorFact("model.layers.0.mlp.up_proj.weight", (64, 64), 8192),),
)
"""What the files of the model `tiny` tell."""
LIMIT: Final = 10
"""Of each resource that a tenant's quota counts, but for the `SIZES`, which have room for everything."""
SIZES: Final = (Resource.device_memory_bytes, Resource.cpu_millis, Resource.memory_bytes)


class Publisher:
    """Counts versions; with `trouble` it cannot write any."""

    def __init__(self) -> None:
        self.version = 0
        self.trouble: Exception | None = None

    async def publish(self) -> int:
        if self.trouble is not None:
            raise self.trouble
        self.version += 1
        return self.version


@dataclass
class Workers:
    """What the gateway's workers would say."""

    in_flight_everywhere: int = 0

    def acknowledged(self, version: int) -> bool:
        return version > 0

    def in_flight(self, replica_ids: Iterable[str]) -> int:  # noqa: ARG002 - the protocol's
        return self.in_flight_everywhere


@dataclass(frozen=True)
class Found:
    """A model version as publishing sees it."""

    version_id: str
    model_id: str
    model_name: str = "tiny"
    version_name: str = "main"
    formats: Sequence[str] = ("safetensors",)
    quantised: bool = False
    encrypted: bool = False
    architectures: Sequence[str] = ("LlamaForCausalLM",)


@dataclass
class Stage:
    database: Database
    clock: ManualClock
    machinery: Machinery
    launcher: MemoryLauncher
    publisher: Publisher
    workers: Workers
    tenant_id: TenantId
    version_id: str
    publishing: Publishing
    verifier: Verifier
    reconciler: ServiceReconciler = field(init=False)

    def __post_init__(self) -> None:
        self.reconciler = ServiceReconciler(self.machinery)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work]:
        """One transaction of a developer of the tenant."""
        async with self.work_of(self.tenant_id) as work:
            yield work

    @asynccontextmanager
    async def work_of(self, tenant_id: TenantId) -> AsyncIterator[Work]:
        """The same, of any tenant."""
        actor = Actor(ActorKind.user, "usr_1", "dev", tenant_id, PERMISSIONS[Role.developer], "req_1")
        async with self.database.write() as session:
            yield Work(session, actor, self.clock)

    @asynccontextmanager
    async def service_work(self, service_id: str) -> AsyncIterator[tuple[Work, ServiceRow]]:
        """The same, with the service locked as a request has it."""
        async with self.work() as work:
            yield work, await queries.find(work.scope, work.session, service_id, lock=True)

    async def create(self, name: str = "chat", **values: Any) -> str:
        async with self.work() as work:
            request = CreateService(name=name, model="tiny", flavor=values.pop("flavor", "small"), **values)
            return (await create_service(work, self.publishing, request)).id

    async def delete(self, service_id: str) -> None:
        async with self.service_work(service_id) as (work, row):
            await delete_service(work, row)

    async def scale(self, service_id: str, replicas: int) -> None:
        async with self.service_work(service_id) as (work, row):
            await update_service(work, row, UpdateService(replicas=replicas))

    async def service(self, service_id: str) -> ServiceRow:
        async with self.database.read() as session:
            return await session.get_one(ServiceRow, service_id)

    async def exists(self, service_id: str) -> bool:
        async with self.database.read() as session:
            return await session.get(ServiceRow, service_id) is not None

    async def deployment(self, service_id: str) -> DeploymentRow:
        async with self.database.read() as session:
            return (await queries.deployments_of(session, [service_id]))[0]

    async def replicas(self, service_id: str, *states: ReplicaState) -> list[ReplicaRow]:
        """Oldest first; all of them, or those in one of `states`."""
        query = select(ReplicaRow).where(ReplicaRow.service_id == service_id).order_by(ReplicaRow.id)
        async with self.database.read() as session:
            rows = (await session.scalars(query)).all()
        return [row for row in rows if not states or row.state in states]

    async def events(self, service_id: str) -> list[str]:
        query = select(EventRow.message).where(EventRow.service_id == service_id).order_by(EventRow.id)
        async with self.database.read() as session:
            return list((await session.scalars(query)).all())

    async def used(self, scope: str, resource: Resource) -> int:
        async with self.database.read() as session:
            return (await session.get_one(QuotaRow, (scope, resource.value))).used

    async def counted(self) -> dict[str, int]:
        """What the tenant's quotas count, and the platform's services."""
        counted = {resource.value: await self.used(self.tenant_id, resource) for resource in _COUNTED}
        return counted | {"platform": await self.used(PLATFORM_SCOPE, Resource.services)}

    async def leased(self) -> set[str]:
        """The replicas that hold a device or memory of a node."""
        async with self.database.read() as session:
            devices = await session.scalars(select(DeviceLeaseRow.replica_id))
            claims = await session.scalars(select(NodeClaimRow.replica_id))
            return {*devices, *claims}

    async def round(self) -> None:
        await self.reconciler.reconcile()

    async def until(self, service_id: str, *states: ServiceState) -> ServiceRow:
        """Go round until the service is in one of the states."""

        async def reached() -> ServiceRow | None:
            await self.round()
            row = await self.service(service_id)
            return row if row.state in states else None

        row = await eventually_async(reached, message=f"service {', '.join(states)}")
        assert row is not None
        return row

    async def until_starting(self, service_id: str) -> None:
        """Go round until the launcher is about to start a replica (see `MemoryLauncher.may_start`)."""

        async def starting() -> bool:
            await self.round()
            return bool(self.launcher.starting)

        await eventually_async(starting, message=f"a start for {service_id}")

    async def until_forgotten(self, service_id: str) -> None:
        async def gone() -> bool:
            await self.round()
            return not await self.exists(service_id)

        await eventually_async(gone, message="the service is forgotten")


_COUNTED: Final = (Resource.services, Resource.replicas, Resource.devices)


async def set_stage(database: Database, clock: ManualClock, folder: Path, first_port: int) -> Stage:
    """A tenant `acme`, a node with 8 GiB and two devices, the flavors `small` (1 GiB) and `gpu`, a model `tiny`."""
    tenant_id = TenantId(new_id("ten"))
    found = Found(version_id=new_id("ver"), model_id=new_id("mdl"))
    async with database.write() as session:
        lease = await leases.take(session, "control", "test", clock)
        await _add_tenant(session, clock, tenant_id, found)
        await _add_compute(session, clock, first_port)

    async def find_model(*_: object) -> Found:
        return found

    async def read_facts(_: str) -> ModelFacts:
        return TINY

    catalog = Catalog([light(folder / "light", f'{LIGHT}\n[sizing]\nreport = "vllm"\nshare_argument = "--share"\n')])
    launcher, publisher, workers, verifier = MemoryLauncher(clock), Publisher(), Workers(), Verifier()

    async def model_folder(*_: object) -> Path:
        return folder

    machinery = Machinery(
        guarded=Guarded(database, lease),
        clock=clock,
        launcher=launcher,
        catalog=catalog,
        publisher=publisher,
        acknowledgements=workers,
        model_folder=model_folder,
        model_verifier=verifier,
        appliance_id="apl_test",
        home=folder,
        environments=folder / "runtimes",
        backoff=Backoff(first_s=1, cap_s=300),
        timing=Timing(probe_s=5, probe_period_s=0.02, stop_grace_s=5, drain=timedelta(seconds=30)),
    )
    publishing = Publishing(catalog, find_model, launcher, read_facts, is_ready=lambda _: True)
    return Stage(
        database, clock, machinery, launcher, publisher, workers, tenant_id, found.version_id, publishing, verifier
    )


async def _add_tenant(session: AsyncSession, clock: ManualClock, tenant_id: TenantId, found: Found) -> None:
    now = clock.now()
    session.add(TenantRow(id=tenant_id, name="acme", display_name="Acme", state="active", created_at=now))
    session.add(QuotaRow(scope=PLATFORM_SCOPE, resource=Resource.services.value, used=0, quota_limit=500))
    for resource in _COUNTED:
        session.add(QuotaRow(scope=tenant_id, resource=resource.value, used=0, quota_limit=LIMIT))
    for resource in SIZES:
        session.add(QuotaRow(scope=tenant_id, resource=resource.value, used=0, quota_limit=1 << 50))
    await session.flush()
    session.add(ModelRow(id=found.model_id, tenant_id=tenant_id, name="tiny", description="", created_at=now))
    await session.flush()
    session.add(
        ModelVersionRow(
            id=found.version_id,
            model_id=found.model_id,
            name="main",
            kind="branch",
            state="normal",
            is_current=True,
            total_bytes=0,
            details={},
            created_at=now,
        )
    )


async def _add_compute(session: AsyncSession, clock: ManualClock, first_port: int) -> None:
    now = clock.now()
    pool, node = new_id("pol"), new_id("nod")
    session.add(PoolRow(id=pool, name="default", description="", created_at=now))
    for name, devices in (("small", 0), ("gpu", 1)):
        flavor = FlavorRow(id=new_id("flv"), name=name, description="", devices=devices, cpus=1.0, created_at=now)
        flavor.memory_bytes, flavor.tmp_bytes = GIB, 0
        session.add(flavor)
    session.add(
        GatewayRow(
            id=new_id("gwy"),
            name="default",
            host="127.0.0.1",
            node="node-1",
            first_port=first_port,
            port_count=16,
            state=GatewayState.open.value,
            created_at=now,
        )
    )
    await session.flush()
    session.add(
        NodeRow(
            id=node,
            name="node-1",
            pool_id=pool,
            state=NodeState.ready.value,
            cpus=8.0,
            memory_bytes=8 * GIB,
            memory_claimed=0,
            boot_id="boot",
            seen_at=now,
            created_at=now,
        )
    )
    await session.flush()
    for index in range(2):
        session.add(
            DeviceRow(
                id=new_id("dev"),
                node_id=node,
                vendor="nvidia",
                model="H200",
                uuid=f"GPU-{index}",
                index=index,
                minor=index,
                pci_address=f"0000:0{index}:00.0",
                memory_bytes=80 * GIB,
                state=DeviceState.healthy.value,
                seen_at=now,
                created_at=now,
            )
        )
