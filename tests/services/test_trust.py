"""An untrusted tenant's replicas run nowhere but behind a launcher that isolates, whenever that is found out."""

import pytest
from sqlalchemy import update

from appliance.services.errors import TenantUntrusted
from appliance.services.lifecycle import start_service, stop_service
from appliance.services.states import ReplicaState, ServiceState
from tenants.schemas import Trust
from tenants.tables import TenantRow
from tests.services.stage import Stage

REMEDY = r"untrusted, and the process launcher .* APPLIANCE_LAUNCHER=docker, .* tenant update \S+ --trust trusted"


async def _trust(stage: Stage, trust: Trust) -> None:
    async with stage.database.write() as session:
        await session.execute(update(TenantRow).where(TenantRow.id == stage.tenant_id).values(trust=trust.value))


async def test_creating_a_service_is_refused_with_the_remedy(stage: Stage) -> None:
    await _trust(stage, Trust.untrusted)
    with pytest.raises(TenantUntrusted, match=REMEDY):
        await stage.create()
    assert (await stage.counted())["services"] == 0
    await _trust(stage, Trust.trusted)
    await stage.until(await stage.create(), ServiceState.ready)


async def test_starting_a_service_is_refused(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    async with stage.service_work(service_id) as (work, row):
        await stop_service(work, row)
    await stage.until(service_id, ServiceState.stopped)
    await _trust(stage, Trust.untrusted)
    with pytest.raises(TenantUntrusted, match=REMEDY):
        async with stage.service_work(service_id) as (work, row):
            await start_service(work, row, stage.launcher)
    assert (await stage.service(service_id)).state == ServiceState.stopped


async def test_a_replica_is_not_placed_until_the_tenant_is_trusted(stage: Stage) -> None:
    """Created while the tenant was trusted; also what runs has no more replicas added."""
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    await _trust(stage, Trust.untrusted)
    await stage.scale(service_id, 2)
    await stage.until(service_id, ServiceState.degraded)
    await stage.round()
    (waiting,) = await stage.replicas(service_id, ReplicaState.pending)
    assert "is untrusted" in waiting.reason
    assert len(stage.launcher.running) == 1
    await _trust(stage, Trust.trusted)
    await stage.until(service_id, ServiceState.ready)
    assert len(stage.launcher.running) == 2


async def test_a_placed_replica_is_not_launched(stage: Stage) -> None:
    """The tenant lost its trust between the two, while the launcher did not answer."""
    stage.launcher.is_reachable = False
    service_id = await stage.create()
    await stage.round()
    await _trust(stage, Trust.untrusted)
    stage.launcher.is_reachable = True
    failed = await stage.until(service_id, ServiceState.failed)
    assert "is untrusted" in failed.reason
    assert not stage.launcher.running


async def test_a_launcher_that_isolates_runs_what_is_untrusted(stage: Stage) -> None:
    stage.launcher.isolates = True
    await _trust(stage, Trust.untrusted)
    await stage.until(await stage.create(), ServiceState.ready)
    assert len(stage.launcher.running) == 1
