"""What placement reads, on both databases: what was kept equals what is read afresh, whatever changed, and by whom."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import leasing
from gpu.discovery import record_devices, record_node
from gpu.machine import Machine
from gpu.reading import SnapshotReader
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot, NodeView
from gpu.states import NodeState, Vendor
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeRow, PoolRow
from gpu.vendors.readings import DeviceLink, DeviceReading, LinkKind, Reading

GIB = 1024**3


def seen(name: str) -> list[Reading]:
    """Four devices: two pairs, each linked by NVLink."""
    devices = tuple(
        DeviceReading(
            index=n,
            uuid=f"GPU-{name}-{n}",
            model="L4",
            memory_bytes=24 * GIB,
            numa_node=n // 2,
            links=tuple(
                DeviceLink(f"GPU-{name}-{m}", LinkKind.nvlink if m // 2 == n // 2 else LinkKind.sys)
                for m in range(4)
                if m != n
            ),
        )
        for n in range(4)
    )
    return [Reading(vendor=Vendor.nvidia, driver_version="580", devices=devices)]


async def furnished(database: Database, clock: ManualClock) -> None:
    for name in ("n1", "n2"):
        async with database.write() as session:
            row = await record_node(session, clock, None, Machine(name, "boot", 8, 64 * GIB))
            await record_devices(session, clock, row, seen(name))


async def read(database: Database, reader: SnapshotReader) -> ComputeSnapshot:
    async with database.read() as session:
        return await reader.read(session)


def by_name(snapshot: ComputeSnapshot) -> dict[str, NodeView]:
    return {node.name: node for node in snapshot.nodes}


async def test_nvlinked_pairs_are_known(database: Database, clock: ManualClock) -> None:
    await furnished(database, clock)
    nodes = by_name(await read(database, SnapshotReader()))
    domains = {device.index: device.domains for device in nodes["n1"].devices}
    assert domains[0] == domains[1] != domains[2] == domains[3]
    assert len(domains[0]) == 3


async def _lease(session: AsyncSession) -> None:
    node = (await session.scalars(select(NodeRow).where(NodeRow.name == "n1"))).one()
    device = (await session.scalars(select(DeviceRow).where(DeviceRow.uuid == "GPU-n1-0"))).one()
    request = PlacementRequest(pool_id=node.pool_id, devices=1, device_share=25, cpus=1, memory_bytes=GIB)
    await leasing.take(session, ManualClock(), "rpl_1", Plan(node.id, (device.id,)), request)


async def _lease_and_release(session: AsyncSession) -> None:
    await _lease(session)
    await leasing.release(session, "rpl_1")


async def _cordon_node(session: AsyncSession) -> None:
    await session.execute(update(NodeRow).where(NodeRow.name == "n1").values(cordoned="a new fan"))


async def _label_node(session: AsyncSession) -> None:
    await session.execute(update(NodeRow).where(NodeRow.name == "n1").values(labels={"zone": "a"}))


async def _stale_node(session: AsyncSession) -> None:
    await session.execute(update(NodeRow).where(NodeRow.name == "n1").values(state=NodeState.stale.value))


async def _cordon_device(session: AsyncSession) -> None:
    await session.execute(update(DeviceRow).where(DeviceRow.uuid == "GPU-n1-1").values(cordoned="a new riser"))


async def _foreign_memory(session: AsyncSession) -> None:
    await session.execute(update(DeviceRow).where(DeviceRow.uuid == "GPU-n1-1").values(memory_foreign_bytes=GIB))


async def _move_device(session: AsyncSession) -> None:
    pool = PoolRow(id="pol_other", name="other", created_at=ManualClock().now())
    session.add(pool)
    await session.flush()
    await session.execute(update(DeviceRow).where(DeviceRow.uuid == "GPU-n1-1").values(pool_id=pool.id))


async def _move_card(session: AsyncSession) -> None:
    other = await session.scalar(select(NodeRow.id).where(NodeRow.name == "n2"))
    await session.execute(update(DeviceRow).where(DeviceRow.uuid == "GPU-n1-1").values(node_id=other))


async def _delete_device(session: AsyncSession) -> None:
    await session.execute(delete(DeviceRow).where(DeviceRow.uuid == "GPU-n1-1"))


async def _delete_node(session: AsyncSession) -> None:
    node = await session.scalar(select(NodeRow.id).where(NodeRow.name == "n2"))
    await session.execute(delete(DeviceRow).where(DeviceRow.node_id == node))
    await session.execute(delete(NodeRow).where(NodeRow.id == node))


CHANGES: list[Callable[[AsyncSession], Awaitable[None]]] = [
    _lease,
    _lease_and_release,
    _cordon_node,
    _label_node,
    _stale_node,
    _cordon_device,
    _foreign_memory,
    _move_device,
    _move_card,
    _delete_device,
    _delete_node,
]


@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_is_seen(
    database: Database, clock: ManualClock, change: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    await furnished(database, clock)
    reader = SnapshotReader()
    before = await read(database, reader)
    async with database.write() as session:
        await change(session)
    after = await read(database, reader)
    assert by_name(after) == by_name(await read(database, SnapshotReader()))
    assert change is _lease_and_release or by_name(after) != by_name(before)


async def test_what_did_not_change_stays_the_same_object(database: Database, clock: ManualClock) -> None:
    await furnished(database, clock)
    reader = SnapshotReader()
    before = by_name(await read(database, reader))
    async with database.write() as session:
        await _lease(session)
    after = by_name(await read(database, reader))
    assert after["n2"] is before["n2"]
    assert after["n1"] is not before["n1"]


class _GivenUpError(Exception):
    """How the transaction is left."""


async def test_what_was_rolled_back_is_not_remembered(database: Database, clock: ManualClock) -> None:
    """Read within the transaction that took a lease and failed; the next one takes another in its place."""
    await furnished(database, clock)
    reader = SnapshotReader()
    with suppress(_GivenUpError):
        async with database.write() as session:
            await _lease(session)
            assert any(device.leases for device in (await reader.read(session)).devices)
            raise _GivenUpError
    async with database.write() as session:
        await _cordon_node(session)
    after = await read(database, reader)
    assert not any(device.leases for device in after.devices)
    assert by_name(after) == by_name(await read(database, SnapshotReader()))


async def test_the_sum_of_leases_is_the_databases_own(database: Database, clock: ManualClock) -> None:
    """Whoever writes: also a statement that knows nothing of it."""
    await furnished(database, clock)
    async with database.write() as session:
        device_id = await session.scalar(select(DeviceRow.id).where(DeviceRow.uuid == "GPU-n1-0"))
        for replica, share in (("rpl_1", 60), ("rpl_2", 40)):
            session.add(DeviceLeaseRow(device_id=device_id, replica_id=replica, share=share, taken_at=clock.now()))
        await session.flush()
        assert await _leased(session, device_id) == 100
        await session.execute(text("DELETE FROM device_leases WHERE replica_id = 'rpl_1'"))
        assert await _leased(session, device_id) == 40
        await session.execute(text("UPDATE device_leases SET share = 75 WHERE replica_id = 'rpl_2'"))
        assert await _leased(session, device_id) == 75


async def _leased(session: AsyncSession, device_id: str | None) -> int:
    return (await session.execute(select(DeviceRow.leased).where(DeviceRow.id == device_id))).scalar_one()
