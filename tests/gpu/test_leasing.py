"""Leases on both databases: exclusive by constraint, all or nothing, given back once."""

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select, update

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import leasing
from gpu.discovery import record_devices, record_node
from gpu.errors import PlacementLost
from gpu.machine import Machine
from gpu.placement import place
from gpu.requests import PlacementRequest, Plan
from gpu.states import DeviceState, Vendor
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeClaimRow, NodeRow
from gpu.vendors.readings import DeviceReading, Reading

GIB = 1024**3
MACHINE = Machine(name="n1", boot_id="boot", cpus=8, memory_bytes=64 * GIB)


def seen(count: int) -> list[Reading]:
    devices = tuple(DeviceReading(index=n, uuid=f"GPU-{n}", model="L4", memory_bytes=24 * GIB) for n in range(count))
    return [Reading(vendor=Vendor.nvidia, driver_version="580", devices=devices)]


async def furnished(database: Database, clock: ManualClock, devices: int = 8) -> str:
    """The pool's id."""
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(devices))
    return row.pool_id


def wanted(pool_id: str, devices: int = 1, memory_bytes: int = GIB) -> PlacementRequest:
    return PlacementRequest(pool_id=pool_id, devices=devices, cpus=1, memory_bytes=memory_bytes)


async def plan(database: Database, request: PlacementRequest) -> Plan:
    async with database.read() as session:
        found = place(await leasing.snapshot(session), request)
    assert isinstance(found, Plan), found
    return found


async def claimed(database: Database) -> int:
    async with database.read() as session:
        return (await session.execute(select(NodeRow.memory_claimed))).scalar_one()


async def test_what_is_taken_is_held_and_given_back(database: Database, clock: ManualClock) -> None:
    request = wanted(await furnished(database, clock), devices=2)
    found = await plan(database, request)
    async with database.write() as session:
        await leasing.take(session, clock, "rpl_1", found, request)
        held = await leasing.devices_of(session, "rpl_1")
    assert tuple(device.id for device in held) == found.device_ids
    assert await claimed(database) == GIB
    async with database.write() as session:
        await leasing.release(session, "rpl_1")
        await leasing.release(session, "rpl_1")
        assert await leasing.devices_of(session, "rpl_1") == []
    assert await claimed(database) == 0


async def test_a_lost_race_leaves_nothing_behind(database: Database, clock: ManualClock) -> None:
    request = wanted(await furnished(database, clock), devices=2)
    found = await plan(database, request)
    overlapping = Plan(found.node_id, (found.device_ids[1], "dev_none"))
    async with database.write() as session:
        await leasing.take(session, clock, "rpl_1", found, request)
        with pytest.raises(PlacementLost):
            await leasing.take(session, clock, "rpl_2", found, request)
        with pytest.raises(PlacementLost):
            await leasing.take(session, clock, "rpl_3", overlapping, request)
        # The transaction is still good for something else.
        other = place(await leasing.snapshot(session), request)
        assert isinstance(other, Plan)
        await leasing.take(session, clock, "rpl_2", other, request)
    async with database.read() as session:
        holders = Counter(await session.scalars(select(DeviceLeaseRow.replica_id)))
    assert holders == {"rpl_1": 2, "rpl_2": 2}
    assert await claimed(database) == 2 * GIB


async def test_shares_of_a_device_never_pass_the_whole(database: Database, clock: ManualClock) -> None:
    pool_id = await furnished(database, clock, devices=1)
    half = PlacementRequest(pool_id=pool_id, devices=1, device_share=50, cpus=1, memory_bytes=GIB)
    third, whole = replace(half, device_share=33), replace(half, device_share=100)
    found = await plan(database, half)
    async with database.write() as session:
        await leasing.take(session, clock, "rpl_1", found, half)
        await leasing.take(session, clock, "rpl_2", found, third)
        for more in (third, whole):
            with pytest.raises(PlacementLost):
                await leasing.take(session, clock, "rpl_3", found, more)
        await leasing.release(session, "rpl_1")
        with pytest.raises(PlacementLost):
            await leasing.take(session, clock, "rpl_3", found, whole)
        await leasing.take(session, clock, "rpl_3", found, replace(half, device_share=67))
    async with database.read() as session:
        assert (await session.execute(select(DeviceRow.leased))).scalar_one() == 100
        (device,) = (await leasing.snapshot(session)).devices
        assert {lease.replica_id: lease.share for lease in device.leases} == {"rpl_2": 33, "rpl_3": 67}
        (own,) = await leasing.devices_of(session, "rpl_2")
    assert own.leased == 33


async def test_memory_is_never_promised_twice(database: Database, clock: ManualClock) -> None:
    request = wanted(await furnished(database, clock), devices=0, memory_bytes=40 * GIB)
    found = await plan(database, request)
    async with database.write() as session:
        await leasing.take(session, clock, "rpl_1", found, request)
        with pytest.raises(PlacementLost, match="no room"):
            await leasing.take(session, clock, "rpl_2", found, request)
    assert await claimed(database) == 40 * GIB


async def test_a_replica_has_one_place(database: Database, clock: ManualClock) -> None:
    request = wanted(await furnished(database, clock), devices=0)
    found = await plan(database, request)
    async with database.write() as session:
        await leasing.take(session, clock, "rpl_1", found, request)
        with pytest.raises(PlacementLost, match="has a place already"):
            await leasing.take(session, clock, "rpl_1", found, request)
    assert await claimed(database) == GIB


async def test_a_device_that_fell_ill_since_the_plan_is_not_leased(database: Database, clock: ManualClock) -> None:
    request = wanted(await furnished(database, clock))
    found = await plan(database, request)
    async with database.write() as session:
        await session.execute(
            update(DeviceRow).where(DeviceRow.id == found.device_ids[0]).values(state=DeviceState.fenced)
        )
        with pytest.raises(PlacementLost, match="no longer healthy"):
            await leasing.take(session, clock, "rpl_1", found, request)
    assert await claimed(database) == 0


async def test_many_race_for_few_devices(database: Database, clock: ManualClock) -> None:
    """Each of 200 replicas plans on its own snapshot and tries until it has a place or there is none; as many at once
    as there are connections to the database.
    """
    request = wanted(await furnished(database, clock, devices=8))
    connections = asyncio.Semaphore(10)

    async def place_one(number: int) -> bool:
        while True:
            async with connections, database.read() as session:
                found = place(await leasing.snapshot(session), request)
            if not isinstance(found, Plan):
                return False
            try:
                async with connections, database.write() as session:
                    await leasing.take(session, clock, f"rpl_{number}", found, request)
            except PlacementLost:
                continue
            return True

    placed = await asyncio.gather(*(place_one(number) for number in range(200)))
    assert sum(placed) == 8
    async with database.read() as session:
        holders = (await session.scalars(select(DeviceLeaseRow.replica_id))).all()
        claims = (await session.execute(select(func.count()).select_from(NodeClaimRow))).scalar_one()
    assert len(set(holders)) == len(holders) == claims == 8
    assert await claimed(database) == 8 * GIB
