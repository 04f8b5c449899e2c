"""A device that is fenced or gone: the replica that holds it moves, and its owner is told why."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from appliance.services.states import ReplicaState, ServiceState
from gpu import operations
from gpu.states import DeviceState
from gpu.tables import DeviceLeaseRow, DeviceRow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async


async def _held(stage: Stage) -> dict[str, str]:
    """Replica by the UUID of the device that it leases."""
    query = select(DeviceRow.uuid, DeviceLeaseRow.replica_id).join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
    async with stage.database.read() as session:
        return dict((await session.execute(query)).all())


async def _set(stage: Stage, uuid: str, state: DeviceState, reason: str) -> None:
    async with stage.database.write() as session:
        row = (await session.scalars(select(DeviceRow).where(DeviceRow.uuid == uuid))).one()
        if state is DeviceState.fenced:
            await operations.fence_device(session, row, reason)
        else:
            row.state, row.reason = state.value, reason


@pytest.mark.parametrize("state", [DeviceState.fenced, DeviceState.absent])
async def test_the_replica_of_a_lost_device_moves_to_a_healthy_one(stage: Stage, state: DeviceState) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    ((lost, first),) = (await _held(stage)).items()
    await _set(stage, lost, state, "XID 79")

    async def moved() -> bool:
        await stage.round()
        ready = await stage.replicas(service_id, ReplicaState.ready)
        return [row.id for row in ready] not in ([], [first])

    await eventually_async(moved, message="a replica is ready elsewhere")
    ((other, second),) = (await _held(stage)).items()
    assert other != lost
    assert second != first
    assert f"its device {lost[-1]} (H200) is {state}: XID 79" in await stage.events(service_id)
    assert (await stage.deployment(service_id)).failures == 0


async def test_a_device_that_is_not_seen_for_a_while_keeps_its_replica(stage: Stage) -> None:
    """A driver that does not answer says nothing of what runs."""
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    held = await _held(stage)
    await _set(stage, next(iter(held)), DeviceState.stale, "the driver hangs")
    for _ in range(3):
        await stage.round()
    assert await _held(stage) == held
    assert len(await stage.replicas(service_id, ReplicaState.ready)) == 1


async def test_without_another_device_the_service_waits_and_says_why(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu", replicas=2)
    await stage.until(service_id, ServiceState.ready)
    lost = next(iter(await _held(stage)))
    await _set(stage, lost, DeviceState.fenced, "too hot")

    async def waits() -> bool:
        await stage.round()
        reason = (await stage.service(service_id)).reason
        return reason == "pool default has no free device of vendor nvidia: 1 fenced, 1 held by replicas"

    await eventually_async(waits, message="the successor waits, and the service says for what")
    assert (await stage.service(service_id)).state == ServiceState.degraded
    assert lost not in await _held(stage)
