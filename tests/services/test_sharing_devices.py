"""Replicas that share a device: placed by their shares, launched one after another, told so."""

from sqlalchemy import select

from appliance.services.states import ReplicaState, ServiceState
from gpu.tables import DeviceRow, FlavorRow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async


async def _halves(stage: Stage) -> None:
    """A flavor of half a device, and only one device to place it on."""
    async with stage.database.write() as session:
        whole = (await session.scalars(select(FlavorRow).where(FlavorRow.name == "gpu"))).one()
        whole.device_share = 50
        other = (await session.scalars(select(DeviceRow).order_by(DeviceRow.uuid.desc()).limit(1))).one()
        other.cordoned = "elsewhere"


async def _until(stage: Stage, service_id: str, *states: ReplicaState, count: int) -> None:
    async def reached() -> bool:
        await stage.round()
        return len(await stage.replicas(service_id, *states)) == count

    await eventually_async(reached, message=f"{count} replicas are {' or '.join(states)}")


async def test_engines_on_one_device_start_one_after_another(stage: Stage) -> None:
    await _halves(stage)
    stage.launcher.manners.health = 503
    service_id = await stage.create(flavor="gpu", replicas=2)
    await _until(stage, service_id, ReplicaState.starting, count=1)
    (first,) = await stage.replicas(service_id, ReplicaState.starting)

    async def told() -> bool:
        await stage.round()
        events = await stage.events(service_id)
        return "another replica's engine loads on the same device; they start one after another" in events

    await eventually_async(told, message="the other waits for its turn")
    assert stage.launcher.running == {first.id}
    stage.launcher.manners.health = 200
    await stage.until(service_id, ServiceState.ready)
    ready = await stage.replicas(service_id, ReplicaState.ready)
    assert stage.launcher.running == {row.id for row in ready} == await stage.leased()


async def test_a_third_half_waits_and_says_what_would_help(stage: Stage) -> None:
    await _halves(stage)
    service_id = await stage.create(flavor="gpu", replicas=3)

    async def waits() -> bool:
        await stage.round()
        reason = (await stage.service(service_id)).reason
        return reason == "pool default has no device with 50 % free of vendor nvidia: 1 cordoned, 1 held by replicas"

    await eventually_async(waits, message="the third waits")
    await _until(stage, service_id, ReplicaState.ready, count=2)
    assert (await stage.service(service_id)).state == ServiceState.degraded
