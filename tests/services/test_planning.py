"""A plan tells what publishing would do, and does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update

from appliance.gateway.tables import ListenerRow
from appliance.kernel.access import Access
from appliance.kernel.errors import NotFound
from appliance.runtimes.errors import ArgumentRefused
from appliance.services.planning import ServicePlan, plan_service
from appliance.services.schemas import CreateService
from appliance.services.tables import ServiceRow
from gpu.requests import Cause
from gpu.tables import DeviceRow, PoolRow
from tenants.permissions import Permission
from tests.services.stage import GIB, Stage


async def plan(stage: Stage, **values: Any) -> ServicePlan:
    async with stage.work() as work:
        return await plan_service(work, stage.publishing, CreateService(name="chat", model="tiny", **values))


async def test_a_plan_tells_choice_needs_counts_and_place(stage: Stage) -> None:
    told = await plan(stage, replicas=2)
    assert (told.runtime, told.pool, told.flavor) == ("light", "default", "gpu")
    assert told.flavor_reason.startswith("the smallest flavor that suffices")
    assert told.guide.text.startswith("2 devices are usual")
    assert told.memory.breakdown is not None
    assert told.memory.device_memory_bytes == told.memory.breakdown.total_bytes
    assert told.counts == {
        "replicas": 2,
        "devices": 2,
        "device_memory_bytes": 2 * told.memory.device_memory_bytes,
        "cpu_millis": 2000,
        "memory_bytes": 2 * GIB,
    }
    assert (told.node, told.devices, told.waits) == (None, ["H200"], None)  # a tenant reads no names of nodes


async def test_a_plan_says_why_it_would_wait(stage: Stage) -> None:
    told = await plan(stage, flavor="gpu", device_memory_bytes=100 * GIB)
    assert told.node is None
    assert told.waits is not None
    assert "100" in told.waits


@pytest.mark.parametrize("reads_all", [True, False])
async def test_a_plan_counts_what_each_cause_rules_out_and_names_it_to_administrators(
    stage: Stage, *, reads_all: bool
) -> None:
    request = CreateService(name="chat", model="tiny", flavor="gpu", device_memory_bytes=100 * GIB)
    async with stage.work() as work:
        granted = {Permission.platform_read} if reads_all else frozenset[Permission]()
        actor = replace(work.actor, permissions=work.actor.permissions | granted)
        told = await plan_service(replace(work, actor=actor), stage.publishing, request)
        devices = set((await work.session.scalars(select(DeviceRow.id))).all())
    (memory,) = told.reasons
    assert memory.cause is Cause.device_memory
    assert memory.text.startswith(f"{len(devices)} devices with less memory than the 100.0 GiB needed")
    assert set(memory.devices) == (devices if reads_all else set())


@pytest.mark.parametrize("access", [Access.public, Access.dedicated])
async def test_a_plan_names_another_pool_only_where_the_tenant_may_use_it(stage: Stage, access: Access) -> None:
    async with stage.database.write() as session:
        await session.execute(update(PoolRow).values(access=access.value))
        session.add(PoolRow(id="pol_night", name="night", created_at=stage.clock.now()))
    told = await plan(stage, pool="night", flavor="gpu")
    assert told.waits == "pool night has no node"
    assert ("use pool default" in told.would_help) is (access is Access.public)


async def test_a_plan_refuses_what_publishing_refuses(stage: Stage) -> None:
    with pytest.raises(NotFound, match="there is no flavor 'huge'; there are: gpu, small"):
        await plan(stage, flavor="huge")
    with pytest.raises(ArgumentRefused, match="--max-model-len cannot be '0'"):
        await plan(stage, args=["--max-model-len=0"])


async def test_nothing_is_made(stage: Stage) -> None:
    await plan(stage)
    async with stage.database.read() as session:
        for table in (ServiceRow, ListenerRow):
            assert await session.scalar(select(func.count()).select_from(table)) == 0
    assert set((await stage.counted()).values()) == {0}
