"""The inventory reconciler against a machine and a driver that say what a test wants."""

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import leasing, operations
from gpu.inventory import Inventory
from gpu.machine import Machine
from gpu.probe import FoundDevice, ProbeAnswer
from gpu.requests import PlacementRequest, Plan
from gpu.states import DeviceState, Vendor
from gpu.tables import DeviceRow, FlavorRow, NodeRow, PoolRow

GIB = 1024**3


def gpu(index: int, *, uuid: str | None = None, problem: str | None = None) -> FoundDevice:
    return FoundDevice(
        vendor=Vendor.nvidia,
        index=index,
        uuid=f"GPU-{index}" if uuid is None else uuid,
        model="L4",
        memory_bytes=24 * GIB,
        problem=problem,
    )


class Scene:
    """A machine whose name, memory and driver's answer a test sets."""

    def __init__(self, database: Database, clock: ManualClock, home: Path) -> None:
        self.machine = Machine(name="n1", boot_id="boot", cpus=8, memory_bytes=64 * GIB)
        self.answer = ProbeAnswer()
        self.database, self.clock = database, clock
        self.woken: list[str] = []
        database.activate = self.woken.extend
        self.inventory = Inventory(
            database,
            clock,
            identity=home / "node.id",
            probe=self,
            guard=self._guard,
            machine=lambda: self.machine,
            wakes=("services",),
        )

    async def devices(self) -> ProbeAnswer:
        return self.answer

    async def _guard(self, session: AsyncSession) -> None:
        assert session.in_transaction()

    async def states(self, *devices: FoundDevice, error: str | None = None) -> dict[str, str]:
        """Each device's state by UUID after a round in which the driver lists `devices`."""
        self.answer = ProbeAnswer(driver_version="580", devices=devices, error=error)
        await self.inventory.reconcile()
        async with self.database.read() as session:
            rows = (await session.scalars(select(DeviceRow).order_by(DeviceRow.uuid))).all()
        return {row.uuid: row.state for row in rows}

    async def node(self) -> NodeRow:
        async with self.database.read() as session:
            return (await session.scalars(select(NodeRow))).one()


@pytest.fixture
def scene(database: Database, clock: ManualClock, tmp_path: Path) -> Scene:
    return Scene(database, clock, tmp_path)


async def test_a_fresh_machine_gets_a_pool_a_node_and_flavors(scene: Scene, tmp_path: Path) -> None:
    status = await scene.inventory.reconcile()
    msgspec.json.encode(status)
    node = await scene.node()
    assert (node.id, node.name, node.cpus, node.memory_bytes) == (status.node_id, "n1", 8, 64 * GIB)
    assert (tmp_path / "node.id").read_text().strip() == node.id
    async with scene.database.read() as session:
        pools = (await session.scalars(select(PoolRow))).all()
        flavors = {row.name: row for row in await session.scalars(select(FlavorRow))}
    assert [(pool.name, pool.id) for pool in pools] == [("default", node.pool_id)]
    assert flavors["cpu-small"].devices == 0
    assert flavors["gpu-2"].devices == 2
    assert scene.woken == ["services"]


async def test_a_second_round_changes_nothing(scene: Scene) -> None:
    await scene.states(gpu(0))
    scene.woken.clear()
    first = await scene.node()
    assert await scene.states(gpu(0)) == {"GPU-0": "healthy"}
    assert (await scene.node()).id == first.id
    assert scene.woken == []


async def test_deleted_flavors_stay_deleted(scene: Scene) -> None:
    await scene.inventory.reconcile()
    async with scene.database.write() as session:
        for row in await session.scalars(select(FlavorRow)):
            await session.delete(row)
    await scene.inventory.reconcile()
    async with scene.database.read() as session:
        assert (await session.scalars(select(FlavorRow))).all() == []


async def test_a_renamed_machine_is_the_same_node(scene: Scene) -> None:
    await scene.inventory.reconcile()
    first = await scene.node()
    scene.machine = msgspec.structs.replace(scene.machine, name="n2")
    await scene.inventory.reconcile()
    assert ((await scene.node()).id, (await scene.node()).name) == (first.id, "n2")


async def test_a_lost_identity_is_found_again_by_name(scene: Scene, tmp_path: Path) -> None:
    await scene.inventory.reconcile()
    first = await scene.node()
    (tmp_path / "node.id").unlink()
    await scene.inventory.reconcile()
    assert (tmp_path / "node.id").read_text().strip() == (await scene.node()).id == first.id


async def test_devices_come_vanish_and_return(scene: Scene) -> None:
    assert await scene.states(gpu(0), gpu(1)) == {"GPU-0": "healthy", "GPU-1": "healthy"}
    assert await scene.states(gpu(0)) == {"GPU-0": "healthy", "GPU-1": "absent"}
    assert await scene.states(gpu(0), gpu(1)) == {"GPU-0": "healthy", "GPU-1": "healthy"}


async def test_a_silent_driver_makes_devices_stale_and_not_free(scene: Scene) -> None:
    await scene.states(gpu(0))
    assert await scene.states(error="the driver hangs") == {"GPU-0": "stale"}
    async with scene.database.read() as session:
        snapshot = await leasing.snapshot(session)
    assert [(device.is_free, device.reason) for device in snapshot.devices] == [(False, "the driver hangs")]
    assert await scene.states(gpu(0)) == {"GPU-0": "healthy"}


async def test_a_device_that_cannot_name_itself_makes_the_missing_one_stale(scene: Scene) -> None:
    await scene.states(gpu(0), gpu(1))
    lost = gpu(1, uuid="", problem="NVML: GPU is lost")
    assert await scene.states(gpu(0), lost) == {"GPU-0": "healthy", "GPU-1": "stale"}


async def test_a_fence_outlives_every_probe_until_it_is_cleared(scene: Scene) -> None:
    await scene.states(gpu(0))
    async with scene.database.write() as session:
        row = (await session.scalars(select(DeviceRow))).one()
        await operations.fence_device(session, row, "smells of smoke")
    assert await scene.states(gpu(0)) == {"GPU-0": "fenced"}
    assert await scene.states() == {"GPU-0": "fenced"}
    assert await scene.states(error="hangs") == {"GPU-0": "fenced"}
    async with scene.database.write() as session:
        row = (await session.scalars(select(DeviceRow))).one()
        assert row.reason == "smells of smoke"
        assert (await operations.clear_device(session, row)).state == DeviceState.stale
    assert await scene.states(gpu(0)) == {"GPU-0": "healthy"}


async def test_a_device_with_a_problem_is_fenced(scene: Scene) -> None:
    assert await scene.states(gpu(0, problem="MIG mode is on")) == {"GPU-0": "fenced"}


async def test_a_driver_may_number_its_devices_anew(scene: Scene) -> None:
    await scene.states(gpu(0, uuid="GPU-a"), gpu(1, uuid="GPU-b"))
    await scene.states(gpu(1, uuid="GPU-a"), gpu(0, uuid="GPU-b"))
    async with scene.database.read() as session:
        rows = (await session.scalars(select(DeviceRow))).all()
    assert {row.uuid: row.index for row in rows} == {"GPU-a": 1, "GPU-b": 0}


async def test_a_machine_that_shrank_keeps_what_is_claimed_and_says_so(scene: Scene) -> None:
    await scene.inventory.reconcile()
    node = await scene.node()
    request = PlacementRequest(pool_id=node.pool_id, cpus=1, memory_bytes=40 * GIB)
    async with scene.database.write() as session:
        await leasing.take(session, scene.clock, "rpl_1", Plan(node.id, ()), request)
    scene.machine = msgspec.structs.replace(scene.machine, memory_bytes=32 * GIB)
    await scene.inventory.reconcile()
    node = await scene.node()
    assert node.memory_bytes == node.memory_claimed == 40 * GIB
    assert node.reason is not None
    assert str(32 * GIB) in node.reason
