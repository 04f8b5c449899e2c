"""Replicas that consented leave their places to those of tenants of a higher priority; nobody else does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from appliance.kernel.ids import TenantId, new_id
from appliance.observe.metrics import exposition
from appliance.observe.recorder import Telemetry
from appliance.services import placing, preempting
from appliance.services.creation import create_service
from appliance.services.lifecycle import start_service, stop_service
from appliance.services.queries import find
from appliance.services.schemas import CreateService, Placement
from appliance.services.states import ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow, ReplicaRow
from gpu import reservations
from gpu.requests import Plan
from gpu.reservation_tables import DeviceReservationRow, ReservationRow
from gpu.tables import DeviceLeaseRow, DeviceRow
from tenants.limits import Priority
from tenants.tables import QuotaRow, TenantRow
from tests.observe.conftest import telemetry  # noqa: F401 - a fixture
from tests.services.stage import Stage
from tests.support.waiting import eventually_async

CONSENTS = Placement(preemptible=True)
WHY = "its service is preemptible, and a replica of high priority needs its place"
LEAVE = "1 replica of lower priority told to make room"


@pytest.fixture
async def vip(stage: Stage) -> TenantId:
    """A tenant `zeta` of high priority, beside `acme`, which is of low."""
    tenant_id, now = TenantId(new_id("ten")), stage.clock.now()
    async with stage.database.write() as session:
        await session.execute(update(TenantRow).values(priority=Priority.low.value))
        row = TenantRow(id=tenant_id, name="zeta", display_name="Zeta", state="active", created_at=now)
        row.priority = Priority.high.value
        session.add(row)
        quotas = (await session.scalars(select(QuotaRow).where(QuotaRow.scope == stage.tenant_id))).all()
        for quota in quotas:
            session.add(QuotaRow(scope=tenant_id, resource=quota.resource, used=0, quota_limit=quota.quota_limit))
    return tenant_id


async def _publish(stage: Stage, tenant_id: TenantId, name: str, replicas: int = 1) -> str:
    async with stage.work_of(tenant_id) as work:
        request = CreateService(name=name, model="tiny", flavor="gpu", replicas=replicas)
        return (await create_service(work, stage.publishing, request)).id


async def _holders(stage: Stage) -> set[str]:
    """The services that hold devices."""
    query = select(ReplicaRow.service_id).join(DeviceLeaseRow, DeviceLeaseRow.replica_id == ReplicaRow.id)
    async with stage.database.read() as session:
        return set(await session.scalars(query))


async def _kept(stage: Stage) -> list[ReservationRow]:
    async with stage.database.read() as session:
        return list(await session.scalars(select(ReservationRow)))


async def _until_reason(stage: Stage, service_id: str, said: str) -> None:
    async def waits() -> bool:
        await stage.round()
        return said in (await stage.service(service_id)).reason

    await eventually_async(waits, message=said)


async def _rounds(stage: Stage, number: int = 4) -> None:
    for _ in range(number):
        await stage.round()


async def test_who_consented_makes_room_waits_and_comes_back(
    stage: Stage,
    vip: TenantId,
    telemetry: Telemetry,  # noqa: F811 - the fixture
) -> None:
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    await stage.until(low, ServiceState.ready)
    high = await _publish(stage, vip, "high")
    await stage.until(high, ServiceState.ready)
    await _until_reason(stage, low, "pool default has no free device of vendor nvidia: 2 held by replicas")
    assert (await stage.service(low)).state == ServiceState.degraded
    assert await _holders(stage) == {low, high}
    told = await stage.events(low)
    assert told.count(WHY) == 1
    assert "zeta" not in " ".join(told)
    assert (await stage.events(high)).count(LEAVE) == 1
    assert await _kept(stage) == []
    deployment = await stage.deployment(low)
    assert (deployment.preemptions, deployment.failures) == (1, 0)
    async with stage.database.read() as session:
        metrics = (await exposition(session, telemetry)).decode()
    assert 'appliance_preempted_replicas_total{service="low",tenant="acme"} 1.0' in metrics
    assert 'appliance_preempted_replicas_total{service="high"' not in metrics
    async with stage.work_of(vip) as work:
        await stop_service(work, await find(work.scope, work.session, high, lock=True))
    await stage.until(low, ServiceState.ready)
    assert await _holders(stage) == {low}


async def test_who_did_not_consent_stays(stage: Stage, vip: TenantId) -> None:
    low = await stage.create("low", flavor="gpu", replicas=2)
    await stage.until(low, ServiceState.ready)
    high = await _publish(stage, vip, "high")
    await _until_reason(stage, high, "pool default has no free device of vendor nvidia: 2 held by replicas")
    await _rounds(stage)
    assert len(await stage.replicas(low, ReplicaState.ready)) == 2
    assert await _holders(stage) == {low}
    assert await _kept(stage) == []


@pytest.mark.parametrize("priority", [Priority.high, Priority.normal])
async def test_only_a_higher_priority_counts(stage: Stage, vip: TenantId, priority: Priority) -> None:
    """Of equal ones nobody leaves; normal is lower than high."""
    async with stage.database.write() as session:
        mine = update(TenantRow).where(TenantRow.id == stage.tenant_id)
        await session.execute(mine.values(priority=priority.value))
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    await stage.until(low, ServiceState.ready)
    high = await _publish(stage, vip, "high")
    if priority is Priority.normal:
        await stage.until(high, ServiceState.ready)
        return
    await _until_reason(stage, high, "2 held by replicas")
    await _rounds(stage)
    assert await _holders(stage) == {low}


async def test_while_they_leave_nobody_else_goes_and_nobody_else_comes(stage: Stage, vip: TenantId) -> None:
    """Requests run on, so that who leaves takes his time."""
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    await stage.until(low, ServiceState.ready)
    stage.workers.in_flight_everywhere = 1
    high = await _publish(stage, vip, "high")

    async def leaves() -> bool:
        await stage.round()
        return len(await stage.replicas(low, ReplicaState.draining)) == 1

    await eventually_async(leaves, message="one drains")
    (kept,) = await _kept(stage)
    (waiting,) = await stage.replicas(high)
    assert (kept.replica_id, kept.tenant_id) == (waiting.id, vip)
    assert kept.ends_at == stage.clock.now() + timedelta(seconds=30 + 35 + 60)
    await _rounds(stage)
    assert len(await stage.replicas(low, ReplicaState.draining)) == 1
    assert len(await stage.replicas(low, ReplicaState.ready)) == 1
    assert len(await _kept(stage)) == 1
    stage.workers.in_flight_everywhere = 0
    await stage.until(high, ServiceState.ready)
    assert await _kept(stage) == []
    assert (await stage.deployment(low)).preemptions == 1


async def test_two_get_two_places_and_no_more_go(stage: Stage, vip: TenantId) -> None:
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    await stage.until(low, ServiceState.ready)
    high = await _publish(stage, vip, "high", replicas=3)

    async def both() -> bool:
        await stage.round()
        return len(await stage.replicas(high, ReplicaState.ready)) == 2

    await eventually_async(both, message="two are ready")
    await _rounds(stage)
    assert await _holders(stage) == {high}
    assert (await stage.deployment(low)).preemptions == 2
    assert await _kept(stage) == []


async def _full_house(stage: Stage, vip: TenantId) -> tuple[str, str, placing.Decision]:
    """What is decided for `high` while `low` holds everything."""
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    await stage.until(low, ServiceState.ready)
    high = await _publish(stage, vip, "high")
    async with stage.database.write() as session:
        deployment = (await session.scalars(select(DeploymentRow).where(DeploymentRow.service_id == high))).one()
        session.add(_pending(stage, deployment))
    (waiting,) = await stage.replicas(high, ReplicaState.pending)
    decision = await placing.decide(stage.machinery, [waiting])
    assert len(decision.evictions) == 1
    return low, high, decision


def _pending(stage: Stage, deployment: DeploymentRow) -> ReplicaRow:
    return ReplicaRow(
        id=new_id("rpl"),
        service_id=deployment.service_id,
        deployment_id=deployment.id,
        tenant_id=deployment.tenant_id,
        generation=deployment.generation,
        state=ReplicaState.pending.value,
        reason="",
        exit=None,
        created_at=stage.clock.now(),
    )


@pytest.mark.parametrize("what", ["consent", "victims' priority", "own priority", "waiting", "another's"])
async def test_what_changed_since_it_was_decided_is_seen(stage: Stage, vip: TenantId, what: str) -> None:
    low, high, decision = await _full_house(stage, vip)
    device_id = decision.evictions[0].plan.device_ids[0]
    async with stage.database.write() as session:
        match what:
            case "consent":
                await session.execute(update(DeploymentRow).values(preemptible=False))
            case "victims' priority":
                await session.execute(update(TenantRow).values(priority=Priority.high.value))
            case "own priority":
                await session.execute(update(TenantRow).values(priority=Priority.normal.value))
            case "waiting":
                gone = update(ReplicaRow).where(ReplicaRow.service_id == high)
                await session.execute(gone.values(state=ReplicaState.stopped.value))
            case _:
                await _reserve(stage, session, stage.tenant_id, device_id, 0)
    assert not await preempting.make_room(stage.machinery, decision.evictions)
    assert len(await stage.replicas(low, ReplicaState.ready)) == 2
    assert all(row.replica_id is None for row in await _kept(stage))
    assert (await stage.deployment(low)).preemptions == 0


async def _reserve(stage: Stage, session: object, tenant_id: str, device_id: str, begins_s: int) -> None:
    now = stage.clock.now()
    row = ReservationRow(id=new_id("rsv"), tenant_id=tenant_id, reason="", created_by="usr_1", created_at=now)
    row.starts_at, row.ends_at = now + timedelta(seconds=begins_s), now + timedelta(hours=1)
    await reservations.insert(session, row, [device_id])  # type: ignore[arg-type]


async def test_devices_are_kept_until_others_have_reserved_them(stage: Stage, vip: TenantId) -> None:
    low, _, decision = await _full_house(stage, vip)
    device_id = decision.evictions[0].plan.device_ids[0]
    async with stage.database.write() as session:
        await _reserve(stage, session, stage.tenant_id, device_id, 10)
    assert await preempting.make_room(stage.machinery, decision.evictions)
    (kept,) = [row for row in await _kept(stage) if row.replica_id is not None]
    assert kept.ends_at == stage.clock.now() + timedelta(seconds=10)
    assert len(await stage.replicas(low, ReplicaState.draining)) == 1


async def test_what_was_kept_before_stays_where_nothing_else_can_be_kept(stage: Stage, vip: TenantId) -> None:
    """Whoever left for it did so in vain otherwise."""
    _, high, decision = await _full_house(stage, vip)
    (eviction,) = decision.evictions
    assert await preempting.make_room(stage.machinery, [eviction])
    (before,) = await _kept(stage)
    async with stage.database.read() as session:
        devices = (await session.scalars(select(DeviceRow))).all()
    (other,) = [device for device in devices if device.id not in eviction.plan.device_ids]
    async with stage.database.write() as session:
        await _reserve(stage, session, stage.tenant_id, other.id, 0)
    again = eviction._replace(plan=Plan(other.node_id, (other.id,)), victims=())
    assert not await preempting.make_room(stage.machinery, [again])
    assert before.id in {row.id for row in await _kept(stage)}
    assert (await stage.service(high)).state == ServiceState.pending


async def test_what_is_kept_for_its_tenant_anyway_is_not_kept_twice(stage: Stage, vip: TenantId) -> None:
    low, high, decision = await _full_house(stage, vip)
    device_id = decision.evictions[0].plan.device_ids[0]
    async with stage.database.write() as session:
        await _reserve(stage, session, vip, device_id, 0)
    assert await preempting.make_room(stage.machinery, decision.evictions)
    assert [row.replica_id for row in await _kept(stage)] == [None]
    await stage.until(high, ServiceState.ready)
    assert len(await stage.replicas(low, ReplicaState.ready)) == 1


async def test_what_was_kept_for_a_replica_that_is_gone_is_everyones(stage: Stage, vip: TenantId) -> None:
    low, high, decision = await _full_house(stage, vip)
    assert await preempting.make_room(stage.machinery, decision.evictions)
    async with stage.work_of(vip) as work:
        await stop_service(work, await find(work.scope, work.session, high, lock=True))
    await stage.until(low, ServiceState.ready)
    assert await _kept(stage) == []
    async with stage.database.read() as session:
        assert (await session.scalars(select(DeviceReservationRow.device_id))).all() == []
        assert len((await session.scalars(select(DeviceRow.id))).all()) == len(await stage.leased())


async def test_it_may_be_stopped_and_started_again(stage: Stage, vip: TenantId) -> None:
    """Back and forth, nothing is left behind and every replica gets its place in the end."""
    low = await stage.create("low", flavor="gpu", replicas=2, placement=CONSENTS)
    high = await _publish(stage, vip, "high")
    for _ in range(2):
        await stage.until(high, ServiceState.ready)
        async with stage.work_of(vip) as work:
            await stop_service(work, await find(work.scope, work.session, high, lock=True))
        await stage.until(low, ServiceState.ready)
        async with stage.work_of(vip) as work:
            await start_service(work, await find(work.scope, work.session, high, lock=True), stage.launcher)
    await stage.until(high, ServiceState.ready)
    assert await _kept(stage) == []
