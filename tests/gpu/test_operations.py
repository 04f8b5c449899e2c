"""Pools, nodes and flavors: names are unique, and what is in use stays."""

from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, InUse, NameTaken, NotFound
from appliance.kernel.pagination import PageRequest
from gpu import leasing, operations, queries
from gpu.discovery import record_devices, record_node
from gpu.requests import PlacementRequest, Plan
from gpu.schemas import DeviceGroup, FlavorCreate, FlavorUpdate, PoolCreate, PoolUpdate
from gpu.states import DeviceState, Vendor
from gpu.tables import NodeRow
from tests.gpu.test_leasing import GIB, MACHINE, seen

SIZE = FlavorCreate(name="tiny", cpus=0.5, memory_bytes=GIB)


async def nobody(_: AsyncSession, __: str) -> Sequence[str]:
    return []


async def furnished(session: AsyncSession, clock: ManualClock) -> NodeRow:
    row = await record_node(session, clock, None, MACHINE)
    await record_devices(session, clock, row, seen(2))
    return row


async def test_pools_come_and_go(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        row = await operations.create_pool(session, clock, PoolCreate("night", "for batch work"))
        await operations.update_pool(session, row, PoolUpdate(name="day"))
        shown = await queries.show_pool(session, await queries.pool_row(session, "day"))
        assert (shown.name, shown.description, shown.version, shown.nodes) == ("day", "for batch work", 2, 0)
        assert await queries.pool_row(session, row.id) is row
        await operations.delete_pool(session, row, nobody)
        with pytest.raises(NotFound, match="there is no pool 'day'"):
            await queries.pool_row(session, "day")


async def test_a_pool_with_users_stays(database: Database, clock: ManualClock) -> None:
    async def users(_: AsyncSession, pool_id: str) -> list[str]:
        return [f"service 'chat' of {pool_id}"]

    async with database.write() as session:
        row = await operations.create_pool(session, clock, PoolCreate("used"))
        with pytest.raises(InUse, match="pool used is used by service 'chat'"):
            await operations.delete_pool(session, row, users)


async def test_a_pools_name_is_unique(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        await operations.create_pool(session, clock, PoolCreate("a"))
    with pytest.raises(NameTaken, match="a pool named 'a' already"):
        async with database.write() as session:
            await operations.create_pool(session, clock, PoolCreate("a"))
    async with database.write() as session:
        await operations.create_pool(session, clock, PoolCreate("b"))
    with pytest.raises(NameTaken):
        async with database.write() as session:
            await operations.update_pool(session, await queries.pool_row(session, "b"), PoolUpdate(name="a"))


async def test_a_pool_with_nodes_stays(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        node = await furnished(session, clock)
        with pytest.raises(InUse, match="pool default has 1 node"):
            await operations.delete_pool(session, await queries.pool_row(session, node.pool_id), nobody)


async def test_a_node_moves_while_nothing_runs_on_it(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        node = await furnished(session, clock)
        other = await operations.create_pool(session, clock, PoolCreate("other"))
        request = PlacementRequest(pool_id=node.pool_id, cpus=1, memory_bytes=GIB)
        await leasing.take(session, clock, "rpl_1", Plan(node.id, ()), request)
        with pytest.raises(InUse, match="stop them before it moves to pool other"):
            await operations.move_node(session, node, other)
        await leasing.release(session, "rpl_1")
        await operations.move_node(session, node, other)
        page = await queries.list_nodes(session, PageRequest(), pool_id=other.id)
    assert [(shown.name, shown.devices) for shown in page.items] == [("n1", 2)]


async def test_a_pool_shows_what_is_free(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        node = await furnished(session, clock)
        devices = (await queries.list_devices(session, PageRequest())).items
        request = PlacementRequest(pool_id=node.pool_id, devices=1, cpus=1, memory_bytes=GIB)
        await leasing.take(session, clock, "rpl_1", Plan(node.id, (devices[0].id,)), request)
        pools = (await queries.list_pools(session, PageRequest())).items
        shown = (await queries.list_devices(session, PageRequest(), node_id=node.id)).items
    assert pools[0].devices == [DeviceGroup(Vendor.nvidia, "L4", 24 * GIB, total=2, free=1)]
    assert sorted((device.leased, *(lease.replica_id for lease in device.leases)) for device in shown) == [
        (0,),
        (100, "rpl_1"),
    ]


async def test_a_device_is_fenced_and_cleared(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        await furnished(session, clock)
        device = (await queries.list_devices(session, PageRequest())).items[0]
        row = await queries.device_row(session, device.id)
        await operations.fence_device(session, row, "too hot")
        assert (await queries.show_device(session, row)).reason == "too hot"
        await operations.clear_device(session, row)
        assert (await queries.show_device(session, row)).state is DeviceState.stale
        with pytest.raises(NotFound):
            await queries.device_row(session, "dev_none")


async def test_flavors_change_and_go_unless_used(database: Database, clock: ManualClock) -> None:
    async def used(_: AsyncSession, flavor_id: str) -> Sequence[str]:
        assert flavor_id == row.id
        return ["service 'chat'"]

    async with database.write() as session:
        row = await operations.create_flavor(session, clock, SIZE)
        change = FlavorUpdate(devices=2, device_vendor=Vendor.nvidia)
        await operations.update_flavor(session, row, change, nobody)
        shown = queries.show_flavor(await queries.flavor_row(session, "tiny"))
        assert (shown.devices, shown.device_vendor, shown.cpus, shown.version) == (2, Vendor.nvidia, 0.5, 2)
        with pytest.raises(InUse, match="flavor tiny is used by service 'chat'"):
            await operations.delete_flavor(session, row, used)
        await operations.update_flavor(session, row, FlavorUpdate(cpus=1), used)
        await operations.delete_flavor(session, row, nobody)
        assert (await queries.list_flavors(session, PageRequest())).items == []


@pytest.mark.parametrize(
    "change", [FlavorUpdate(devices=2), FlavorUpdate(device_share=50), FlavorUpdate(device_vendor=Vendor.nvidia)]
)
async def test_the_devices_of_a_flavor_that_is_used_stay(
    database: Database, clock: ManualClock, change: FlavorUpdate
) -> None:
    async def used(_: AsyncSession, __: str) -> Sequence[str]:
        return ["service 'chat'"]

    async with database.write() as session:
        await operations.create_flavor(session, clock, FlavorCreate(name="one", cpus=1, memory_bytes=GIB, devices=1))
    async with database.write() as session:
        row = await queries.flavor_row(session, "one")
        with pytest.raises(InUse, match="flavor one is used by service 'chat', which were published for its devices"):
            await operations.update_flavor(session, row, change, used)
        session.expunge(row)


async def test_a_flavor_says_one_thing_about_devices(database: Database, clock: ManualClock) -> None:
    for size in (
        FlavorCreate(name="a", cpus=1, memory_bytes=GIB, devices=0, device_vendor=Vendor.nvidia),
        FlavorCreate(name="b", cpus=1, memory_bytes=GIB, devices=1, device_vendor=Vendor.cpu),
    ):
        with pytest.raises(BadInput):
            async with database.write() as session:
                await operations.create_flavor(session, clock, size)
