"""The inventory reconciler against a machine and drivers that say what a test wants."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import leasing, operations
from gpu.discovery import Change
from gpu.inventory import Inventory, Surroundings
from gpu.machine import Machine
from gpu.requests import PlacementRequest, Plan
from gpu.states import DeviceState, Vendor
from gpu.tables import DeviceRow, FlavorRow, NodeRow, PoolRow
from gpu.vendors.readings import DeviceGauges, DeviceReading, ProcessUse, Reading

GIB = 1024**3


def gpu(index: int, *, uuid: str | None = None, **members: Any) -> DeviceReading:
    name = f"GPU-{index}" if uuid is None else uuid
    defaults: dict[str, Any] = {"index": index, "uuid": name, "model": "L4", "memory_bytes": 24 * GIB}
    return DeviceReading(**(defaults | members))


def off_the_bus(index: int, *, uuid: str = "") -> DeviceReading:
    return DeviceReading(index=index, uuid=uuid, lost=True, problem="NVML: GPU is lost")


class Scene:
    """A machine whose name, memory, drivers and processes a test sets."""

    def __init__(self, database: Database, clock: ManualClock, home: Path) -> None:
        self.machine = Machine(name="n1", boot_id="boot", cpus=8, memory_bytes=64 * GIB)
        self.told: Sequence[Reading] = [Reading(vendor=Vendor.cpu, processor="Stub 9000", numa_nodes=2)]
        self.ours: Collection[int] | None = set()
        self.database, self.clock = database, clock
        self.woken: list[str] = []
        self.fenced: list[tuple[str, str | None]] = []
        database.activate = self.woken.extend
        self.inventory = Inventory(
            database,
            clock,
            identity=home / "node.id",
            probe=self,
            surroundings=Surroundings(self._guard, self._pids_of_ours, self._note_fence, wakes=("services",)),
            machine=lambda: self.machine,
        )

    async def readings(self) -> Sequence[Reading]:
        return self.told

    async def close(self) -> None: ...

    async def _guard(self, session: AsyncSession) -> None:
        assert session.in_transaction()

    async def _pids_of_ours(self, pids: Collection[int]) -> Collection[int] | None:
        return None if self.ours is None else set(pids) & set(self.ours)

    def _note_fence(self, session: AsyncSession, change: Change) -> None:
        assert session.in_transaction()
        self.fenced.append((change.device_id, change.reason))

    async def states(self, *devices: DeviceReading, error: str | None = None) -> dict[str, str]:
        """Each device's state by UUID after a round in which the driver lists `devices`."""
        self.told = [Reading(vendor=Vendor.nvidia, driver_version="580", devices=devices, error=error)]
        return await self.round()

    async def round(self) -> dict[str, str]:
        await self.inventory.reconcile()
        return {row.uuid: row.state for row in await self.rows()}

    async def rows(self) -> Sequence[DeviceRow]:
        async with self.database.read() as session:
            return (await session.scalars(select(DeviceRow).order_by(DeviceRow.uuid))).all()

    async def row(self) -> DeviceRow:
        (row,) = await self.rows()
        return row

    async def clear(self, uuid: str = "GPU-0") -> None:
        async with self.database.write() as session:
            row = (await session.scalars(select(DeviceRow).where(DeviceRow.uuid == uuid))).one()
            await operations.clear_device(session, row)

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


@pytest.mark.parametrize("uuid", ["GPU-1", ""], ids=["remembered", "nameless"])
async def test_a_device_that_fell_off_the_bus_is_fenced_until_it_is_cleared(scene: Scene, uuid: str) -> None:
    """A driver that was opened afterwards knows only its index."""
    await scene.states(gpu(0), gpu(1))
    fenced = {"GPU-0": "healthy", "GPU-1": "fenced"}
    assert await scene.states(gpu(0), off_the_bus(1, uuid=uuid)) == fenced
    lost = (await scene.rows())[1]
    assert (lost.reason, lost.model, lost.memory_bytes, lost.gauges) == ("NVML: GPU is lost", "L4", 24 * GIB, None)
    assert await scene.states(gpu(0)) == fenced
    assert await scene.states(gpu(0), gpu(1)) == fenced
    assert scene.fenced == [(lost.id, "NVML: GPU is lost")]
    await scene.clear("GPU-1")
    assert await scene.states(gpu(0), gpu(1)) == {"GPU-0": "healthy", "GPU-1": "healthy"}


async def test_a_nameless_device_at_another_index_makes_the_missing_one_stale(scene: Scene) -> None:
    await scene.states(gpu(0), gpu(1))
    assert await scene.states(gpu(0), off_the_bus(2)) == {"GPU-0": "healthy", "GPU-1": "stale"}


async def test_a_device_that_was_never_seen_well_is_not_made_up(scene: Scene) -> None:
    assert await scene.states(off_the_bus(0, uuid="GPU-0")) == {}


async def test_vendors_fail_apart_from_one_another(scene: Scene) -> None:
    both = {"GPU-0": "healthy", "IX-0": "healthy"}
    well = Reading(vendor=Vendor.iluvatar, devices=(gpu(0, uuid="IX-0", model="MR-V100"),))
    scene.told = [Reading(vendor=Vendor.nvidia, devices=(gpu(0),)), well]
    assert await scene.round() == both
    scene.told = [Reading(vendor=Vendor.nvidia, error="the driver hangs"), well]
    assert await scene.round() == {"GPU-0": "stale", "IX-0": "healthy"}
    assert (await scene.inventory.reconcile()).errors == {"nvidia": "the driver hangs"}
    scene.told = [well]  # its hardware is gone from the bus
    assert await scene.round() == {"GPU-0": "absent", "IX-0": "healthy"}


def errors(count: int) -> DeviceReading:
    return gpu(0, gauges=DeviceGauges(ecc_uncorrected=count))


async def test_new_memory_errors_fence_and_accepted_ones_do_not(scene: Scene) -> None:
    assert await scene.states(errors(0)) == {"GPU-0": "healthy"}
    assert await scene.states(errors(2)) == {"GPU-0": "fenced"}
    assert (await scene.row()).reason == "2 uncorrected memory errors (ECC)"
    await scene.clear()
    assert (await scene.row()).state == "stale"
    assert await scene.states(errors(2)) == {"GPU-0": "healthy"}
    assert await scene.states(errors(5)) == {"GPU-0": "fenced"}
    assert (await scene.row()).reason == "3 uncorrected memory errors (ECC)"
    await scene.clear()
    assert await scene.states(errors(0)) == {"GPU-0": "healthy"}  # the driver was loaded anew
    assert await scene.states(errors(1)) == {"GPU-0": "fenced"}


@pytest.mark.parametrize(
    ("xids", "state", "reason"),
    [
        ((31, 13, 43), "healthy", None),
        ((31, 79), "fenced", "XID 79: the device has fallen off the bus"),
        ((48, 48, 95), "fenced", "XID 48: an uncorrectable memory error; XID 95: an uncontained memory error"),
        ((999,), "fenced", "XID 999: an error of the device"),
    ],
)
async def test_error_events_fence_unless_a_program_causes_them(
    scene: Scene, xids: tuple[int, ...], state: str, reason: str | None
) -> None:
    assert await scene.states(gpu(0, xids=xids)) == {"GPU-0": state}
    assert (await scene.row()).reason == reason


async def test_memory_of_others_is_told_apart(scene: Scene) -> None:
    processes = (ProcessUse(10, 2 * GIB), ProcessUse(11, 3 * GIB))
    busy = gpu(0, memory_used_bytes=5 * GIB, processes=processes)
    for ours, foreign in ((set(), 5 * GIB), ({10}, 3 * GIB), ({10, 11}, 0), (None, None)):
        scene.ours = ours
        await scene.states(busy)
        row = await scene.row()
        assert (row.memory_used_bytes, row.memory_foreign_bytes) == (5 * GIB, foreign)
    scene.ours = {10}
    await scene.states(gpu(0, memory_used_bytes=GIB, processes=(ProcessUse(11, None),)))
    assert (await scene.row()).memory_foreign_bytes is None
    await scene.states(gpu(0, memory_used_bytes=GIB, processes=None))
    assert (await scene.row()).memory_foreign_bytes is None


async def test_what_was_measured_is_forgotten_with_the_sight_of_the_device(scene: Scene) -> None:
    await scene.states(gpu(0, memory_used_bytes=GIB, processes=(), gauges=DeviceGauges(temperature_c=40)))
    row = await scene.row()
    assert (row.memory_used_bytes, row.memory_foreign_bytes, row.gauges["temperature_c"]) == (GIB, 0, 40)
    await scene.states(error="the driver hangs")
    row = await scene.row()
    assert (row.memory_used_bytes, row.memory_foreign_bytes, row.gauges) == (None, None, None)


async def test_what_is_simulated_says_so(scene: Scene) -> None:
    scene.told = [Reading(vendor=Vendor.nvidia, simulated=True, devices=(gpu(0),))]
    await scene.round()
    row = await scene.row()
    assert (row.simulated, row.model) == (True, "L4 (simulated)")
    assert (await scene.inventory.reconcile()).simulated == 1


async def test_the_processors_are_told_with_the_node(scene: Scene) -> None:
    await scene.inventory.reconcile()
    node = await scene.node()
    assert (node.processor, node.numa_nodes) == ("Stub 9000", 2)
    scene.told = [Reading(vendor=Vendor.cpu, error="unreadable")]
    await scene.inventory.reconcile()
    assert (await scene.node()).processor == "Stub 9000"


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
