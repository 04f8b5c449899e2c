"""Reservations: what is kept for a tenant, whom it is taken from, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from appliance.kernel.errors import BadInput, Conflict, InUse, NotFound
from appliance.kernel.ids import new_id
from appliance.kernel.pagination import PageRequest
from appliance.services import displacing, reserving
from appliance.services.planning import plan_service
from appliance.services.reservation_schemas import NewReservation, Reservation, ReservationState
from appliance.services.reserving import ReservationOverlaps
from appliance.services.schemas import CreateService
from appliance.services.states import ReplicaState, ServiceState
from gpu import leasing, reservations
from gpu.errors import PlacementLost
from gpu.requests import PlacementRequest, Plan
from gpu.reservation_tables import ReservationRow
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeRow
from tenants.actors import system
from tenants.tables import TenantRow
from tenants.work import Work
from tests.services.stage import GIB, Stage
from tests.support.waiting import eventually_async


@pytest.fixture
async def other(stage: Stage) -> str:
    """A second tenant."""
    tenant_id = new_id("ten")
    async with stage.database.write() as session:
        row = TenantRow(id=tenant_id, name="zeta", display_name="Zeta", state="active", created_at=stage.clock.now())
        session.add(row)
    return tenant_id


@asynccontextmanager
async def _platform(stage: Stage) -> AsyncIterator[Work]:
    async with stage.database.write() as session:
        yield Work(session, system("tests", None), stage.clock)


async def _devices(stage: Stage) -> list[str]:
    async with stage.database.read() as session:
        return list(await session.scalars(select(DeviceRow.id).order_by(DeviceRow.index)))


async def _reserve(
    stage: Stage, *, force: bool = False, begins_s: int = 0, lasts_s: int = 60, **of: Any
) -> Reservation:
    starts_at = stage.clock.now() + timedelta(seconds=begins_s)
    new = NewReservation(
        **{"tenant": "zeta"} | of, starts_at=starts_at, ends_at=starts_at + timedelta(seconds=lasts_s), reason="a demo"
    )
    async with _platform(stage) as work:
        return await reserving.create_reservation(work, new, force=force)


async def _held(stage: Stage) -> set[str]:
    async with stage.database.read() as session:
        return set(await session.scalars(select(DeviceLeaseRow.device_id)))


async def _until(stage: Stage, service_id: str, reason: str) -> None:
    async def waits() -> bool:
        await stage.round()
        return (await stage.service(service_id)).reason == reason

    await eventually_async(waits, message=reason)


async def test_what_is_reserved_for_others_is_not_taken_and_for_itself_comes_first(stage: Stage, other: str) -> None:
    first, second = await _devices(stage)
    await _reserve(stage, tenant="acme", devices=[second])
    await _reserve(stage, tenant=other, devices=[first])
    service_id = await stage.create(flavor="gpu", replicas=2)
    reason = "pool default has no free device of vendor nvidia: 1 held by replicas, 1 reserved for others"
    await _until(stage, service_id, reason)
    await stage.until(service_id, ServiceState.degraded)
    assert await _held(stage) == {second}
    stage.clock.advance(61)
    await stage.until(service_id, ServiceState.ready)
    assert await _held(stage) == {first, second}


async def test_whoever_runs_there_leaves_when_it_begins_and_not_before(stage: Stage, other: str) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    devices = await _devices(stage)
    with pytest.raises(InUse, match=r"'acme/chat' run on these devices and would have to leave them at 20"):
        await _reserve(stage, devices=devices, begins_s=30)
    made = await _reserve(stage, devices=devices, begins_s=30, force=True)
    assert (made.state, made.devices, made.tenant) == (ReservationState.upcoming, sorted(devices), "zeta")
    before = await _held(stage)
    for _ in range(3):
        await stage.round()
    assert await _held(stage) == before
    stage.clock.advance(30)
    await _until(stage, service_id, "pool default has no free device of vendor nvidia: 2 reserved for others")
    assert await _held(stage) == set()
    told = [message for message in await stage.events(service_id) if "is reserved for others until" in message]
    assert len(told) == 1
    assert "zeta" not in " ".join(await stage.events(service_id))
    stage.clock.advance(60)
    await stage.until(service_id, ServiceState.ready)


async def test_what_begins_and_ends_between_two_rounds_is_seen(stage: Stage, other: str) -> None:
    """No row of a node changes when a window begins."""
    devices = await _devices(stage)
    await _reserve(stage, tenant=other, devices=devices, begins_s=10)
    async with stage.database.read() as session:
        for seconds, found in ((0, 0), (10, 2), (59, 2), (1, 0)):
            stage.clock.advance(seconds)
            now = stage.clock.now()
            assert sum(map(len, (await reservations.active(session, now)).values())) == found
            assert await displacing.displaced(session, now) == {}


async def test_a_place_that_is_reserved_meanwhile_is_lost(stage: Stage, other: str) -> None:
    devices = await _devices(stage)
    await _reserve(stage, devices=[devices[0]])
    async with stage.database.write() as session:
        node = (await session.scalars(select(NodeRow))).one()
        wanted: dict[str, Any] = {"pool_id": node.pool_id, "devices": 1, "cpus": 1.0, "memory_bytes": GIB}
        plan = Plan(node.id, (devices[0],))
        with pytest.raises(PlacementLost, match="reserved for others"):
            await leasing.take(session, stage.clock, "rpl_1", plan, PlacementRequest(**wanted))
        mine = PlacementRequest(**wanted, holders=frozenset({other}))
        await leasing.take(session, stage.clock, "rpl_1", plan, mine)


async def test_a_plan_tells_what_is_reserved(stage: Stage, other: str) -> None:
    await _reserve(stage, devices=await _devices(stage))
    async with stage.work() as work:
        told = await plan_service(work, stage.publishing, CreateService(name="chat", model="tiny", flavor="gpu"))
    assert told.waits == "pool default has no free device of vendor nvidia: 2 reserved for others"
    assert "end the reservation of 1 device" in told.would_help


async def test_devices_of_a_pool_are_picked_those_nobody_holds_first(stage: Stage, other: str) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    (held,) = await _held(stage)
    made = await _reserve(stage, pool="default", count=1, device_class="nvidia/H200")
    assert held not in made.devices
    with pytest.raises(Conflict, match="pool default has no 2 equal devices that are healthy"):
        await _reserve(stage, pool="default", count=2)
    with pytest.raises(Conflict, match="of class nvidia/L4"):
        await _reserve(stage, pool="default", count=1, device_class="nvidia/L4")
    with pytest.raises(InUse, match="acme/chat"):
        await _reserve(stage, pool="default", count=1)


async def test_reservations_of_a_device_do_not_overlap(stage: Stage, other: str) -> None:
    first, second = await _devices(stage)
    made = await _reserve(stage, devices=[first], begins_s=10, lasts_s=10)
    with pytest.raises(ReservationOverlaps, match=f"device {first} is reserved by {made.id} from"):
        await _reserve(stage, tenant="acme", devices=[first, second], begins_s=19)
    await _reserve(stage, devices=[first, second], begins_s=20)
    await _reserve(stage, devices=[first], begins_s=0, lasts_s=10)


async def test_of_many_at_once_one_is_made(stage: Stage, other: str) -> None:
    devices = await _devices(stage)
    attempts = (_reserve(stage, devices=devices, begins_s=number) for number in range(6))
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, ReservationOverlaps)]
    assert len(refused) == len(answers) - 1
    async with stage.database.read() as session:
        assert len((await session.scalars(select(ReservationRow))).all()) == 1


@pytest.mark.parametrize(
    ("of", "refusal", "said"),
    [
        ({"begins_s": -1, "devices": ["dev_1"]}, BadInput, "is past"),
        ({"lasts_s": 0, "devices": ["dev_1"]}, BadInput, "is not later than the beginning"),
        ({"lasts_s": 367 * 86400, "devices": ["dev_1"]}, BadInput, "at most 366 days"),
        ({"devices": ["dev_1"]}, NotFound, "there is no device 'dev_1'"),
        ({"tenant": "nobody", "devices": ["dev_1"]}, NotFound, "there is no tenant 'nobody'"),
        ({}, BadInput, "say which devices"),
        ({"devices": ["dev_1"], "pool": "default", "count": 1}, BadInput, "say which devices"),
        ({"devices": ["dev_1"], "device_class": "nvidia/H200"}, BadInput, "say which devices"),
        ({"pool": "default"}, BadInput, "say which devices"),
        ({"count": 1}, BadInput, "say which devices"),
        ({"pool": "night", "count": 1}, NotFound, "night"),
    ],
)
async def test_what_is_no_reservation_is_refused(
    stage: Stage, other: str, of: dict[str, Any], refusal: type[Exception], said: str
) -> None:
    with pytest.raises(refusal, match=said):
        await _reserve(stage, **of)


async def test_a_tenant_sees_its_own_and_ending_one_frees_the_devices(stage: Stage, other: str) -> None:
    first, second = await _devices(stage)
    theirs = await _reserve(stage, devices=[first])
    mine = await _reserve(stage, tenant="acme", devices=[second])
    async with stage.work() as work:
        page = await reserving.list_reservations(work, PageRequest(10, None), tenant_id=None, device_id=None)
        assert [item.id for item in page.items] == [mine.id]
        assert await reserving.get_reservation(work, mine.id) == mine
        with pytest.raises(NotFound):
            await reserving.get_reservation(work, theirs.id)
    service_id = await stage.create(flavor="gpu", replicas=2)
    reason = "pool default has no free device of vendor nvidia: 1 held by replicas, 1 reserved for others"
    await _until(stage, service_id, reason)
    async with _platform(stage) as work:
        page = await reserving.list_reservations(work, PageRequest(10, None), tenant_id=other, device_id=first)
        assert [item.id for item in page.items] == [theirs.id]
        await reserving.delete_reservation(work, theirs.id)
    await stage.until(service_id, ServiceState.ready)
    assert len(await stage.replicas(service_id, ReplicaState.ready)) == 2
