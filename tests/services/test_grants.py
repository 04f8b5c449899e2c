"""Grants and what runs: nothing without one, an end that drains, a preview before it, and races."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import delete, select, text, update

from appliance.gateway.tables import GatewayRow
from appliance.kernel.access import Access
from appliance.kernel.errors import InUse, NotFound
from appliance.kernel.ids import new_id
from appliance.services import granting, permits, placing, reclaiming
from appliance.services.granting import Ending, GrantExists
from appliance.services.moving import Effects
from appliance.services.states import ReplicaState, ServiceState
from gpu.placement import place
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot, DeviceView, LeaseView, NodeView, PoolView
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeClaimRow, NodeRow, PoolRow
from tenants.actors import system
from tenants.entitlements import Entitlement
from tenants.grant_schemas import Grant, GrantChange, GrantKind, NewGrant, Target
from tenants.grant_tables import GrantRow
from tenants.queries.grants import lock_grant
from tenants.scope import PLATFORM
from tenants.work import Work
from tests.services.stage import GIB, Stage
from tests.support.waiting import eventually_async

HOUR = timedelta(hours=1)


def platform(stage: Stage, session: object) -> Work:
    return Work(session, system("test"), stage.clock)  # type: ignore[arg-type]


async def grant(stage: Stage, kind: GrantKind, target: str, expires_at: datetime | None = None) -> Grant:
    async with stage.database.write() as session:
        new = NewGrant(tenant="acme", kind=kind, target=target, expires_at=expires_at)
        return await granting.create_grant(platform(stage, session), new, force=False)


async def take_back(stage: Stage, grant_id: str, *, force: bool = False) -> None:
    async with stage.database.write() as session:
        row = await lock_grant(session, PLATFORM, grant_id)
        await granting.delete_grant(platform(stage, session), row, force=force)


async def shorten(stage: Stage, grant_id: str, expires_at: datetime, *, force: bool = False) -> None:
    async with stage.database.write() as session:
        row = await lock_grant(session, PLATFORM, grant_id)
        change = GrantChange(expires_at=expires_at)
        await granting.update_grant(platform(stage, session), row, change, force=force)


async def preview(stage: Stage, grant_id: str, ending: Ending = Ending.deletion) -> Effects:
    async with stage.database.read() as session:
        return await granting.preview(platform(stage, session), stage.machinery.catalog, grant_id, ending)


async def dedicate(stage: Stage, table: type[PoolRow | GatewayRow] = PoolRow, name: str = "default") -> None:
    async with stage.database.write() as session:
        await session.execute(update(table).where(table.name == name).values(access=Access.dedicated.value))


async def add_pool(stage: Stage, name: str, access: Access) -> str:
    """With a node like the first one, without devices."""
    async with stage.database.write() as session:
        first = (await session.scalars(select(NodeRow).order_by(NodeRow.id))).first()
        values = {column.name: getattr(first, column.name) for column in NodeRow.__table__.columns}
        pool = PoolRow(id=new_id("pol"), name=name, access=access.value, created_at=stage.clock.now())
        session.add(pool)
        await session.flush()
        place = {"id": new_id("nod"), "name": f"{name}-1", "pool_id": pool.id, "memory_claimed": 0, "revision": ""}
        session.add(NodeRow(**values | place))
        return pool.id


async def until_reason(stage: Stage, service_id: str, reason: str) -> None:
    async def told() -> bool:
        await stage.round()
        row = await stage.service(service_id)
        return row.reason == reason and not await stage.replicas(service_id, ReplicaState.ready)

    await eventually_async(told, message=f"the service says {reason!r}, and has no replica")


async def test_who_may_not_use_a_pool_does_not_find_it(stage: Stage) -> None:
    await add_pool(stage, "vip", Access.dedicated)
    with pytest.raises(NotFound, match=r"there is no pool 'vip'; there are: default$"):
        await stage.create(pool="vip")
    granted = await grant(stage, GrantKind.pool, "vip", stage.clock.now() + HOUR)
    service_id = await stage.create(pool="vip")
    await stage.until(service_id, ServiceState.ready)
    await take_back(stage, granted.id, force=True)
    with pytest.raises(NotFound, match="there is no pool 'vip'"):
        await stage.create("other", pool="vip")


async def test_without_a_word_a_pool_is_chosen_that_may_be_used(stage: Stage) -> None:
    await dedicate(stage)
    with pytest.raises(NotFound, match="there is no pool 'default'; there are: none yet"):
        await stage.create("first")
    open_pool = await add_pool(stage, "open", Access.public)
    service_id = await stage.create()
    assert (await stage.deployment(service_id)).pool_id == open_pool


async def test_a_gateway_that_may_not_be_used_is_not_there(stage: Stage) -> None:
    await dedicate(stage, GatewayRow)
    with pytest.raises(NotFound, match="there is no gateway 'default'"):
        await stage.create(gateway="default")
    granted = await grant(stage, GrantKind.gateway, "default")
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    with pytest.raises(InUse, match="'acme/chat'"):
        await take_back(stage, granted.id)
    await take_back(stage, granted.id, force=True)
    await until_reason(stage, service_id, "gateway default is dedicated and not granted to tenant acme")


async def test_an_expired_grant_drains_and_says_so_and_a_new_end_brings_it_back(stage: Stage) -> None:
    await dedicate(stage)
    ends = stage.clock.now() + HOUR
    granted = await grant(stage, GrantKind.pool, "default", ends)
    service_id = await stage.create(flavor="gpu", replicas=2)
    await stage.until(service_id, ServiceState.ready)
    stage.clock.advance(3600)
    sentence = f"the grant of pool default expired at {ends.isoformat(timespec='seconds').replace('+00:00', 'Z')}"
    await until_reason(stage, service_id, sentence)
    assert await stage.leased() == set()
    assert sentence in await stage.events(service_id)
    assert (await stage.deployment(service_id)).failures == 0
    async with stage.database.write() as session:
        row = await lock_grant(session, PLATFORM, granted.id)
        await granting.update_grant(platform(stage, session), row, GrantChange(expires_at=None), force=False)
    await stage.until(service_id, ServiceState.ready)


async def test_a_grant_in_use_is_taken_back_by_force_alone(stage: Stage) -> None:
    await dedicate(stage)
    await add_pool(stage, "open", Access.public)
    granted = await grant(stage, GrantKind.pool, "default")
    service_id = await stage.create(pool="default")
    await stage.until(service_id, ServiceState.ready)
    for refused in (take_back(stage, granted.id), shorten(stage, granted.id, stage.clock.now() + HOUR)):
        with pytest.raises(InUse, match=r"would stop 'acme/chat', of which 1 replica\(s\) run.*force=true"):
            await refused
    await shorten(stage, granted.id, stage.clock.now() + HOUR, force=True)
    await take_back(stage, granted.id, force=True)
    await until_reason(stage, service_id, "pool default is dedicated and not granted to tenant acme")
    assert await stage.leased() == set()


async def test_a_preview_tells_what_would_leave_and_where_it_could_go(stage: Stage) -> None:
    await dedicate(stage)
    granted = await grant(stage, GrantKind.pool, "default")
    with_device = await stage.create("chat", flavor="gpu")
    await stage.create("small")
    for service_id in (with_device, (await stage.create("third"))):
        await stage.until(service_id, ServiceState.ready)
    alone = await preview(stage, granted.id)
    assert (alone.tenants, alone.services) == (["acme"], ["acme/chat", "acme/small", "acme/third"])
    assert (len(alone.replicas), alone.fitting) == (3, 0)
    assert (alone.devices, alone.device_memory_bytes, alone.memory_bytes) == (1, 80 * GIB, 3 * GIB)
    assert all("there is nowhere else that it may go" in (one.why_not or "") for one in alone.replicas)
    await add_pool(stage, "open", Access.public)
    await add_pool(stage, "vip", Access.dedicated)
    beside = {one.service: one for one in (await preview(stage, granted.id)).replicas}
    assert [beside[name].pool for name in ("small", "third")] == ["open", "open"]
    assert beside["chat"].fits is False
    assert "pool open has no device" in (beside["chat"].why_not or "")
    assert await stage.leased() == {one.id for one in beside.values()}, "a preview changes nothing"


async def test_a_tenant_bound_to_a_class_gets_no_other_device(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    async with stage.database.write() as session:
        held = select(DeviceLeaseRow.device_id).scalar_subquery()
        await session.execute(update(DeviceRow).where(DeviceRow.id != held).values(model="L4"))
    with pytest.raises(InUse, match="a grant of nvidia/L4 alone would stop"):
        await grant(stage, GrantKind.device_class, "nvidia/L4")
    with pytest.raises(NotFound, match="there is no device of class 'nvidia/A100'; there are: nvidia/H200, nvidia/L4"):
        await grant(stage, GrantKind.device_class, "nvidia/A100")
    ends = stage.clock.now() + HOUR
    granted = await grant(stage, GrantKind.device_class, "nvidia/H200", ends)
    assert (await preview(stage, granted.id)).replicas == []
    (by_expiry,) = (await preview(stage, granted.id, Ending.expiry)).replicas
    assert by_expiry.fits is False
    await grant(stage, GrantKind.device_class, "nvidia/L4")
    (with_another,) = (await preview(stage, granted.id, Ending.expiry)).replicas
    assert (with_another.fits, with_another.node) == (True, "node-1")
    stage.clock.advance(3600)

    async def moved() -> bool:
        await stage.round()
        async with stage.database.read() as session:
            query = select(DeviceRow.model).join(DeviceLeaseRow, DeviceLeaseRow.device_id == DeviceRow.id)
            models = (await session.scalars(query)).all()
        return models == ["L4"] and bool(await stage.replicas(service_id, ReplicaState.ready))

    await eventually_async(moved, message="the replica runs on the class that is still granted")
    assert any("the grant of device class nvidia/H200 expired" in event for event in await stage.events(service_id))


async def test_a_tenant_has_a_grant_once(stage: Stage) -> None:
    await grant(stage, GrantKind.pool, "default")
    with pytest.raises(GrantExists):
        await grant(stage, GrantKind.pool, "default")
    async with stage.database.read() as session:
        assert len((await session.scalars(select(GrantRow))).all()) == 1


async def test_public_access_is_not_taken_from_who_runs_by_it(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)

    async def lent() -> tuple[PoolRow, GatewayRow]:
        async with stage.database.read() as session:
            pool = (await session.scalars(select(PoolRow))).one()
            return pool, (await session.scalars(select(GatewayRow))).one()

    for row in await lent():
        async with stage.database.read() as session:
            with pytest.raises(InUse, match="default dedicated would stop 'acme/chat'"):
                await reclaiming.require_no_guests(session, stage.clock.now(), row)
    for kind in (GrantKind.pool, GrantKind.gateway):
        await grant(stage, kind, "default")
    for row in await lent():
        async with stage.database.read() as session:
            await reclaiming.require_no_guests(session, stage.clock.now(), row)


async def test_a_preview_of_a_drain_tells_the_same_as_the_drain_does(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu", replicas=2)
    await stage.until(service_id, ServiceState.ready)
    async with stage.database.read() as session:
        device = (await session.scalars(select(DeviceRow).order_by(DeviceRow.index))).first()
        node = (await session.scalars(select(NodeRow))).one()
        assert device is not None
        now, catalog = stage.clock.now(), stage.machinery.catalog
        of_node = await reclaiming.effects_of_draining(session, catalog, now, node)
        of_device = await reclaiming.effects_of_draining(session, catalog, now, device)
    assert (of_node.services, len(of_node.replicas), of_node.fitting) == (["acme/chat"], 2, 0)
    assert (len(of_device.replicas), of_device.fitting, of_device.replicas[0].devices) == (1, 0, [device.id])
    assert of_device.replicas[0].why_not
    await stage.scale(service_id, 1)
    await stage.until(service_id, ServiceState.ready)

    async def one_left() -> bool:
        await stage.round()
        return len(await stage.leased()) == 1

    await eventually_async(one_left, message="one replica is gone")
    async with stage.database.read() as session:
        held = (await session.scalars(select(DeviceLeaseRow.device_id))).one()
        device = await session.get_one(DeviceRow, held)
        found = await reclaiming.effects_of_draining(session, stage.machinery.catalog, stage.clock.now(), device)
    assert (found.fitting, found.replicas[0].node) == (1, "node-1")


async def test_the_end_of_a_grant_waits_for_who_takes_a_place_by_it(stage: Stage) -> None:
    """Who takes a place has read the grant and not yet committed: whoever takes the grant back waits, and finds it."""
    await dedicate(stage)
    granted = await grant(stage, GrantKind.pool, "default")
    service_id = await stage.create()
    await stage.reconciler._converge(await stage.reconciler._load())
    (waiting,) = await stage.replicas(service_id, ReplicaState.pending)
    is_sqlite = stage.database.engine.dialect.name == "sqlite"  # which has one writer: nobody comes between

    async def stuck(task: asyncio.Task[None]) -> bool:
        async with stage.database.read() as session:
            locks = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return is_sqlite or task.done() or bool(await session.scalar(locks))

    answers = (await placing.decide(stage.machinery, [waiting])).answers
    async with stage.database.write() as session:
        await placing.settle(stage.machinery, session, waiting.id, answers[waiting.id])
        await session.flush()
        reclaiming_ = asyncio.create_task(take_back(stage, granted.id))
        await eventually_async(lambda: stuck(reclaiming_), message="it waits, or is done")
        assert not reclaiming_.done()
    with pytest.raises(InUse, match=r"would stop 'acme/chat', of which 1 replica"):
        await reclaiming_


async def test_a_grant_that_is_taken_back_while_a_replica_is_placed(stage: Stage) -> None:
    """Either the place was taken before, and the replica is drained; or the grant was gone, and it gets none."""
    await dedicate(stage)
    for attempt in range(6):
        granted = await grant(stage, GrantKind.pool, "default")
        service_id = await stage.create(f"chat-{attempt}")
        await stage.reconciler._converge(await stage.reconciler._load())
        waiting = await stage.replicas(service_id, ReplicaState.pending)
        assert waiting
        seen: list[bool] = []

        async def reclaim(grant_id: str = granted.id, seen: list[bool] = seen) -> None:
            async with stage.database.write() as session:
                row = await lock_grant(session, PLATFORM, grant_id)
                seen.append(bool((await session.scalars(select(NodeClaimRow.replica_id))).all()))
                await granting.delete_grant(platform(stage, session), row, force=True)

        both = (reclaim(), placing.place_waiting(stage.machinery, waiting))
        await asyncio.gather(*(both if attempt % 2 else reversed(both)))
        async with stage.database.read() as session:
            placed = bool((await session.scalars(select(NodeClaimRow.replica_id))).all())
            covered = await permits.not_permitted(session, stage.clock.now())
        assert placed is seen[0], "no place was taken after the grant was gone"
        assert bool(covered) is placed
        await until_reason(stage, service_id, "pool default is dedicated and not granted to tenant acme")
        assert await stage.leased() == set()
        async with stage.database.write() as session:
            await session.execute(delete(GrantRow))
        await stage.delete(service_id)
        await stage.until_forgotten(service_id)


CLASSES = [("nvidia", "H200"), ("nvidia", "L4"), ("iluvatar", "MR-V100")]
ends = st.sampled_from([None, -1, 1])


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(0, 1)), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from(CLASSES), ends),
    st.integers(1, 3),
)
def test_no_plan_passes_a_grant(
    present: list[tuple[tuple[str, str], int]], granted: dict[tuple[str, str], int | None], wanted: int
) -> None:
    """Whatever devices there are and whatever is granted: there is a plan exactly where enough free ones are granted,
    and it takes those.
    """
    now = datetime(2026, 1, 1, tzinfo=UTC)
    devices = tuple(
        DeviceView(
            id=f"dev_{number}",
            node_id="nod_1",
            vendor=vendor,
            model=model,
            index=number,
            uuid=f"GPU-{number}",
            memory_bytes=GIB,
            leases=(LeaseView("rpl_other"),) if held else (),
        )
        for number, ((vendor, model), held) in enumerate(present)
    )
    node = NodeView(id="nod_1", name="n1", pool_id="pol_1", cpus=8, memory_bytes=GIB, devices=devices)
    snapshot = ComputeSnapshot(pools=(PoolView("pol_1", "default"),), nodes=(node,))
    expiries = {f"{v}/{m}": None if end is None else now + end * HOUR for (v, m), end in granted.items()}
    bound = Entitlement("acme", now, {GrantKind.device_class: expiries})
    pool = Target(GrantKind.pool, "pol_1", "default", Access.public)
    request = PlacementRequest(pool_id="pol_1", devices=wanted, cpus=1, memory_bytes=1)
    narrowed = permits.Permit(bound, pool, None).narrowed(request, snapshot)
    plan = place(snapshot, narrowed)
    live = {name for name, end in expiries.items() if end is None or end > now}
    allowed = [d for d in devices if not d.leases and (not expiries or f"{d.vendor}/{d.model}" in live)]
    most = max(Counter((device.vendor, device.model) for device in allowed).values(), default=0)
    assert isinstance(plan, Plan) is (most >= wanted)
    if isinstance(plan, Plan):
        assert set(plan.device_ids) <= {device.id for device in allowed}
