"""From `placed` to `starting`: the intent is committed, so starting may be repeated; the launcher makes it once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.crashpoints import reached
from appliance.kernel.errors import ApplianceError, LeaseLost, Unavailable
from appliance.launchers.contract import DeviceGrant, Limits, ReplicaSpec
from appliance.runtimes.arguments import with_devices
from appliance.runtimes.rendering import render
from appliance.runtimes.spec import RuntimeSpec
from appliance.services import failing, preparing, trust
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.needs import Needs
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from appliance.services.transitions import move
from gpu import leasing
from gpu.snapshot import DeviceView
from gpu.states import WHOLE
from gpu.tables import FlavorRow


async def launch(machinery: Machinery, replica_id: str) -> None:
    """Start the replica's engine. Where the launcher is unreachable the state stays, and a later round repeats."""
    try:
        await preparing.prepare(machinery, replica_id)
        with machinery.line.standing(replica_id):
            await preparing.await_turn(machinery, replica_id)
            await _start(machinery, replica_id)
    except (Unavailable, LeaseLost):
        raise
    except ApplianceError as error:
        await failing.fail(machinery, replica_id, ReplicaState.placed, error.detail)


async def _start(machinery: Machinery, replica_id: str) -> None:
    async with machinery.guarded.read() as session:
        spec, start_timeout_s = await _specify(machinery, session, replica_id)
    reached("replica.launching")
    handle = await machinery.launcher.start(spec)
    reached("replica.launched")
    async with machinery.guarded.write() as session:
        await move(
            session,
            machinery.clock,
            replica_id,
            ReplicaState.placed,
            ReplicaState.starting,
            deadline=timedelta(seconds=start_timeout_s),
            handle=handle,
            started_at=machinery.clock.now(),
        )
        service_id = spec.labels["service"]
        note(session, machinery.clock, service_id, Phase.launching, "the engine was started", replica_id=replica_id)


async def _specify(machinery: Machinery, session: AsyncSession, replica_id: str) -> tuple[ReplicaSpec, float]:
    replica = await session.get_one(ReplicaRow, replica_id)
    deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    service = await session.get_one(ServiceRow, replica.service_id)
    await trust.check(session, machinery.launcher, service.tenant_id)
    flavor = await session.get_one(FlavorRow, deployment.flavor_id)
    runtime = machinery.catalog.get(deployment.runtime)
    model_dir = await machinery.model_folder(session, deployment.model_version_id)
    devices = await leasing.devices_of(session, replica_id)
    run_dir = machinery.run_dir(replica_id)
    cache_dir = machinery.home / "cache" / runtime.name / service.tenant_id  # writable by engines: never shared
    layout = machinery.launcher.layout(run_dir=run_dir, model_dir=model_dir, cache_dir=cache_dir)
    command = render(
        runtime,
        machinery.launcher.name,
        layout,
        served_name=service.served_model,
        args=with_devices(
            runtime,
            deployment.args,
            deployment.devices,
            device_share=_share(runtime, flavor, devices),
            cache_bytes=_cache_bytes(deployment),
        ),
        env=deployment.env,
        environments=machinery.environments,
    )
    spec = ReplicaSpec(
        replica_id=replica_id,
        labels={
            "appliance": machinery.appliance_id,
            "service": service.id,
            "deployment": deployment.id,
            "replica": replica_id,
            "generation": str(replica.generation),
        },
        argv=tuple(command.argv),
        env=command.env,
        run_dir=run_dir,
        log_path=machinery.log_path(replica_id),
        model_dir=model_dir,
        cache_dir=cache_dir,
        image=deployment.image,
        limits=Limits(cpus=flavor.cpus, memory_bytes=flavor.memory_bytes, tmp_bytes=flavor.tmp_bytes),
        devices=tuple(
            DeviceGrant(vendor=device.vendor, uuid=device.uuid, index=device.index, minor=device.minor)
            for device in devices
        ),
    )
    return spec, runtime.start_timeout_s


def _share(runtime: RuntimeSpec, flavor: FlavorRow, devices: Sequence[DeviceView]) -> float:
    """Percent of each device that the engine may count on: one that takes a part of the whole would not start where
    someone else's process holds some of it.
    """
    if runtime.sizing.share_argument is None or flavor.device_share < WHOLE:
        return flavor.device_share
    left = (WHOLE * (device.memory_bytes - device.memory_foreign) / device.memory_bytes for device in devices)
    return min(left, default=WHOLE)


def _cache_bytes(deployment: DeploymentRow) -> int | None:
    """What the cache of keys and values was estimated to take of all the replica's devices; None where it was not."""
    if deployment.needs is None:
        return None
    breakdown = msgspec.convert(deployment.needs, Needs).breakdown
    return None if breakdown is None else breakdown.kv_cache_bytes * breakdown.groups
