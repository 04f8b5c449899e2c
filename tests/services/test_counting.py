"""What replicas take counts against the tenant's quotas: exactly, in any order, however many are asked for at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from sqlalchemy import update

from appliance.kernel.errors import ApplianceError
from appliance.services.lifecycle import start_service, stop_service
from tenants.quotas import QuotaExceeded, Resource
from tenants.tables import QuotaRow
from tests.services.stage import GIB, SIZES, Stage

AT_ONCE, ROOM = 100, 3
NEEDED = 3 * GIB


async def limit(stage: Stage, resource: Resource, amount: int) -> None:
    mine = update(QuotaRow).where(QuotaRow.scope == stage.tenant_id, QuotaRow.resource == resource.value)
    async with stage.database.write() as session:
        await session.execute(mine.values(quota_limit=amount))


async def sizes(stage: Stage) -> tuple[int, int, int]:
    device_memory, cpus, memory = [await stage.used(stage.tenant_id, resource) for resource in SIZES]
    return device_memory, cpus, memory


async def stop(stage: Stage, service_id: str) -> None:
    async with stage.service_work(service_id) as (work, row):
        await stop_service(work, row)


async def start(stage: Stage, service_id: str) -> None:
    async with stage.service_work(service_id) as (work, row):
        await start_service(work, row, stage.launcher)


async def test_sizes_follow_what_is_to_run(stage: Stage) -> None:
    one = (NEEDED, 1000, GIB)

    def times(replicas: int) -> tuple[int, ...]:
        return tuple(replicas * size for size in one)

    service_id = await stage.create(replicas=2, flavor="gpu", device_memory_bytes=NEEDED)
    assert await sizes(stage) == times(2)
    await stage.scale(service_id, 5)
    assert await sizes(stage) == times(5)
    await stage.scale(service_id, 1)
    assert await sizes(stage) == times(1)
    await stop(stage, service_id)
    assert await sizes(stage) == times(0)
    await stage.scale(service_id, 3)
    await start(stage, service_id)
    assert await sizes(stage) == times(3)
    await stage.delete(service_id)
    assert await sizes(stage) == times(0)


async def test_the_estimate_is_what_counts_of_devices(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu")
    deployment = await stage.deployment(service_id)
    assert deployment.needs["source"] == "estimate"
    assert deployment.device_memory_bytes > deployment.needs["estimated"]["weights_bytes"]
    assert (await sizes(stage))[0] == deployment.device_memory_bytes


@pytest.mark.alone  # a hundred writers wait for one another, and are refused after a bounded time
@pytest.mark.parametrize(
    ("resource", "each"),
    [(Resource.device_memory_bytes, NEEDED), (Resource.cpu_millis, 1000), (Resource.memory_bytes, GIB)],
)
async def test_of_a_hundred_at_once_as_many_succeed_as_there_is_room_for(
    stage: Stage, resource: Resource, each: int
) -> None:
    await limit(stage, resource, ROOM * each + each // 2)
    refusals: list[str] = []

    async def attempt(number: int) -> str:
        try:
            await stage.create(f"chat-{number}", flavor="gpu", device_memory_bytes=NEEDED)
        except QuotaExceeded as error:
            refusals.append(error.detail)
            return error.code
        return "created"

    outcomes = await asyncio.gather(*(attempt(number) for number in range(AT_ONCE)))
    assert Counter(outcomes) == {"created": ROOM, QuotaExceeded.code: AT_ONCE - ROOM}
    assert await stage.used(stage.tenant_id, resource) == ROOM * each
    assert f"the tenant uses {ROOM * each} of {ROOM * each + each // 2} {resource.value}" in refusals[0]
    assert (await stage.counted())["replicas"] == ROOM  # what was refused left nothing behind


async def test_scaling_beyond_a_size_changes_nothing(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu", device_memory_bytes=NEEDED)
    await limit(stage, Resource.memory_bytes, 2 * GIB)
    before = await sizes(stage)
    with pytest.raises(ApplianceError, match="memory_bytes"):
        await stage.scale(service_id, 4)
    assert await sizes(stage) == before
    assert (await stage.counted())["replicas"] == 1
