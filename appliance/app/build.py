"""Wiring: from settings and an open home to every long-lived part. Nothing is started here."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.api.parts import Parts
from appliance.app.defaults import quota_defaults
from appliance.app.home import Home
from appliance.app.housekeeping import Housekeeping
from appliance.gateway import metrics, ports
from appliance.gateway.acknowledgements import Acknowledgements
from appliance.gateway.captures import CaptureIngest
from appliance.gateway.ingest import Insert, Kind, UsageIngest
from appliance.gateway.keeper import GatewayKeeper
from appliance.gateway.plane.wire import LatencyRecord, NodeSettings, SnapshotWriter, TlsFiles, UsageRollup
from appliance.gateway.publisher import GatewayNode, SnapshotPublisher
from appliance.gateway.tenancy import CacheSalt
from appliance.gateway.user import GatewayUser, resolve, tls_files
from appliance.kernel.activation import Activations, Reconciler
from appliance.kernel.clock import Clock
from appliance.kernel.crypto import Passwords, hmac_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import Unavailable
from appliance.kernel.leases import Guarded, Lease, LeaseWatch
from appliance.kernel.settings import Settings
from appliance.launchers.contract import Launcher
from appliance.launchers.ownership import pids_of
from appliance.launchers.process.launcher import ProcessLauncher, ProcessSettings
from appliance.models.estimation import FactsReader
from appliance.models.maintenance import ModelStoreKeeper
from appliance.models.queries import models_of_tenant
from appliance.models.repository import ModelRepository
from appliance.models.serving import folder_of, version_for_service
from appliance.models.verification import ModelVerifier
from appliance.observe import recorder
from appliance.observe.recorder import Telemetry
from appliance.observe.store import Store
from appliance.runtimes import environments
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.spec import RuntimeSpec
from appliance.services import users
from appliance.services.backoff import Backoff
from appliance.services.creation import Publishing
from appliance.services.discretion import HostPaths
from appliance.services.logs import read_log
from appliance.services.machinery import Machinery, Timing
from appliance.services.metering import Metering
from appliance.services.published import Routes
from appliance.services.reconciler import ServiceReconciler
from appliance.services.transitions import SERVICES
from appliance.services.views import Origin
from gpu.discovery import Change
from gpu.inventory import Inventory, Surroundings
from gpu.probe import Probe
from tenants.activity import ActivityReconciler, Sightings
from tenants.actors import system
from tenants.logins import LoginDesk
from tenants.provisions import Provisions
from tenants.schemas import Trust
from tenants.sealing import SealReconciler
from tenants.usage import insert_latencies, insert_rollups, insert_usage
from tenants.work import Work

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that lives as long as the control plane."""

    launcher: Launcher
    machinery: Machinery
    services: ServiceReconciler
    keeper: GatewayKeeper
    ingest: UsageIngest
    store_keeper: ModelStoreKeeper
    inventory: Inventory
    telemetry: Telemetry
    activations: Activations
    parts: Parts
    gateway_metrics: Callable[[], Awaitable[str]]


def build(
    settings: Settings, home: Home, database: Database, lease: Lease, passwords: Passwords, clock: Clock
) -> Built:
    guarded = Guarded(database, lease)
    catalog = Catalog.load([Path(folder) for folder in settings.engines.runtime_folders])
    node = home.node_name()
    publisher = _publisher(settings, home, guarded, catalog, node, clock)
    repository = _repository(settings, home)
    machinery = _machinery(settings, home, guarded, catalog, publisher, repository, clock)
    services = ServiceReconciler(machinery)
    keeper = GatewayKeeper(home.path, drain_s=settings.gateway.drain_s, user=gateway_user(settings))
    others: dict[Kind, Insert] = {UsageRollup: insert_rollups, LatencyRecord: insert_latencies}
    ingest = UsageIngest(guarded, home.path / "gateway" / "spool", insert_usage, others)
    store_keeper = ModelStoreKeeper(guarded, repository, clock)
    sightings = Sightings()
    history = Store(home.path / "telemetry.sqlite", most_bytes=settings.compute.telemetry_bytes)
    telemetry = Telemetry(database, clock, history)
    inventory = _inventory(settings, home, database, lease, machinery.launcher, clock)
    reconcilers: list[Reconciler] = [
        LeaseWatch(database, lease),
        services,
        publisher,
        keeper,
        ingest,
        CaptureIngest(home.path, settings.gateway.capture_bytes),
        store_keeper,
        inventory,
        telemetry,
        Metering(guarded, clock),
        SealReconciler(database, clock, lease),
        ActivityReconciler(database, clock, lease, sightings),
        Housekeeping(guarded, clock, home.path / "logs" / "replicas"),
    ]
    activations = Activations(reconcilers, clock)
    parts = Parts(
        activations=activations,
        catalog=catalog,
        publishing=Publishing(
            catalog=catalog,
            find_model=version_for_service,
            launcher=machinery.launcher,
            read_facts=FactsReader(repository.store).facts,
            is_ready=_readiness(machinery),
        ),
        models=repository,
        port_rules=ports.rules(settings, node),
        flavor_blockers=users.services_with_flavor,
        pool_blockers=users.services_in_pool,
        origin=Origin(
            "https" if settings.gateway.tls else "http", settings.hostnames[0] if settings.hostnames else _LOOPBACK
        ),
        read_log=partial(read_log, machinery.launcher, home.path / "logs" / "replicas"),
        host_paths=HostPaths(home.path, machinery.environments, [spec.folder for spec in catalog.all()]),
        telemetry=history,
        tenancy=_provisions(settings, database, passwords, clock, sightings),
    )
    return Built(
        launcher=machinery.launcher,
        machinery=machinery,
        services=services,
        keeper=keeper,
        ingest=ingest,
        store_keeper=store_keeper,
        inventory=inventory,
        telemetry=telemetry,
        activations=activations,
        parts=parts,
        gateway_metrics=partial(metrics.exposition, home.path),
    )


def _inventory(
    settings: Settings, home: Home, database: Database, lease: Lease, launcher: Launcher, clock: Clock
) -> Inventory:
    compute = settings.compute

    async def pids_of_ours(pids: Collection[int]) -> Collection[int] | None:
        try:
            replicas = await launcher.list() if pids else ()
        except Unavailable:
            return None
        return await asyncio.to_thread(pids_of, replicas, pids)

    def record_fence(session: AsyncSession, change: Change) -> None:
        detail = {"reason": change.reason}
        Work(session, system("inventory"), clock).record("device.fenced", "device", change.device_id, detail=detail)

    return Inventory(
        database,
        clock,
        identity=home.path / "node.id",
        probe=Probe(
            deadline_s=compute.probe_deadline_s, simulation=Path(compute.simulation) if compute.simulation else None
        ),
        surroundings=Surroundings(
            lease.guard, pids_of_ours, record_fence, wakes=(SERVICES,), followers=(recorder.NAME,)
        ),
        period_s=compute.probe_period_s,
    )


def _publisher(
    settings: Settings, home: Home, guarded: Guarded, catalog: Catalog, node: str, clock: Clock
) -> SnapshotPublisher:
    salt = _cache_salt(home.master_key())
    routes = Routes(
        catalog,
        home.path,
        clock,
        salt=salt,
        body_bytes=settings.limits.body_bytes,
        owner_uid=settings.docker.user if settings.launcher == "docker" else os.getuid(),
    )
    writer = SnapshotWriter(home.path / "gateway" / "snapshot")
    return SnapshotPublisher(guarded, writer, routes, clock, node=_gateway_node(settings, home, node), salt=salt)


def _cache_salt(master_key: bytes) -> CacheSalt:
    """Keeps one tenant's prefix cache apart from another's, so that timing tells nothing."""
    key = hmac.new(master_key, b"cache-salt", hashlib.sha256).digest()
    return lambda tenant_id: hmac_hex(key, f"cache-salt:{tenant_id}")[:32]


def gateway_user(settings: Settings) -> GatewayUser | None:
    """None: the control plane's own. Raises `Misconfigured`."""
    return resolve(settings.gateway.user, engines_uid=settings.docker.user if settings.launcher == "docker" else None)


def _gateway_node(settings: Settings, home: Home, name: str) -> GatewayNode:
    gateway = settings.gateway
    return GatewayNode(
        name=name,
        workers=gateway.workers,
        max_body_bytes=settings.limits.body_bytes,
        head_s=gateway.head_s,
        idle_s=gateway.idle_s,
        body_grace_s=gateway.body_grace_s,
        body_min_rate=gateway.body_min_rate,
        tls=TlsFiles(*map(str, tls_files(home.path, gateway_user(settings)))) if gateway.tls else None,
        settings=NodeSettings(
            access_log=gateway.access_log,
            spool_bytes=gateway.spool_bytes,
            capture_bytes=gateway.capture_bytes,
            access_log_bytes=gateway.access_log_bytes,
            connections=gateway.connections,
            connections_per_peer=gateway.connections_per_peer,
        ),
    )


def _machinery(
    settings: Settings,
    home: Home,
    guarded: Guarded,
    catalog: Catalog,
    publisher: SnapshotPublisher,
    repository: ModelRepository,
    clock: Clock,
) -> Machinery:
    engines = settings.engines
    return Machinery(
        guarded=guarded,
        clock=clock,
        launcher=_launcher(settings, home, clock),
        catalog=catalog,
        publisher=publisher,
        acknowledgements=Acknowledgements(home.path),
        model_folder=folder_of(repository),
        model_verifier=ModelVerifier(guarded.database, repository.store),
        appliance_id=home.appliance_id(),
        home=home.path,
        environments=Path(engines.environments) if engines.environments else home.path / "runtimes",
        backoff=Backoff(engines.backoff_first_s, engines.backoff_cap_s),
        timing=Timing(
            probe_s=engines.ready_probe_s,
            probe_period_s=engines.ready_period_s,
            stop_grace_s=engines.stop_grace_s,
            drain=timedelta(seconds=settings.gateway.drain_s),
        ),
    )


def _launcher(settings: Settings, home: Home, clock: Clock) -> Launcher:
    root = home.path / "run" / "e"
    match settings.launcher:
        case "process":
            user = gateway_user(settings)
            process = ProcessSettings(gid=user.gid) if user else ProcessSettings()
            return ProcessLauncher(home.appliance_id(), root=root, settings=process)
        case "docker":
            # Its SDK is large and slow to import: only who uses it pays for it.
            from appliance.launchers.docker.launcher import DockerLauncher  # noqa: PLC0415
            from appliance.launchers.docker.settings import DockerSettings  # noqa: PLC0415

            docker = DockerSettings(
                host=settings.docker.host,
                uid=settings.docker.user,
                gid=settings.docker.user,
                allow_old_toolkit=settings.docker.allow_old_toolkit,
            )
            return DockerLauncher(home.appliance_id(), root=root, settings=docker, clock=clock)


def _repository(settings: Settings, home: Home) -> ModelRepository:
    roots = [Path(folder) for folder in settings.models.import_roots]
    repository = ModelRepository(
        home.path / "models",
        upload_bytes=settings.limits.upload_bytes,
        import_roots=[*roots, home.path / "demo-model"],
    )
    repository.add_users(users.users_of_versions)
    return repository


def _readiness(machinery: Machinery) -> Callable[[RuntimeSpec], bool]:
    """Whether a runtime could be started at once: its environment is whole, or it has an image."""

    def is_ready(runtime: RuntimeSpec) -> bool:
        if machinery.launcher.name == "docker":
            return runtime.docker is not None
        return environments.is_ready(runtime, machinery.environments)

    return is_ready


def _provisions(
    settings: Settings, database: Database, passwords: Passwords, clock: Clock, sightings: Sightings
) -> Provisions:
    return Provisions(
        login_desk=LoginDesk(database, clock, passwords, settings.logins),
        quota_defaults=quota_defaults(settings.limits, Trust(settings.tenant_trust)),
        blockers=(users.services_of_tenant, models_of_tenant),
        check_services=users.services_elsewhere,
        find_service=users.service_for_budget,
        sightings=sightings,
    )
