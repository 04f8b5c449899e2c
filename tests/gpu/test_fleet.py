"""The generated fleet, as large as a data centre's, and what is measured, as Prometheus reads it."""

from collections import Counter

from sqlalchemy import func, select

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import metrics, queries
from gpu.discovery import record_devices, record_node
from gpu.machine import Machine
from gpu.states import Vendor
from gpu.tables import DeviceRow
from gpu.vendors.readings import LinkKind
from tests.gpu import expected
from tests.gpu.stub.catalog import fleet, mixed_host
from tests.gpu.stub.host import GIB, SimulatedHost

MACHINE = Machine(name="", boot_id="boot", cpus=64, memory_bytes=512 * GIB)


def test_the_fleet_has_ten_thousand_devices_of_which_no_two_are_one() -> None:
    hosts = list(fleet())
    devices = [device for host in hosts for driver in host.drivers for device in driver.devices]
    assert (len(hosts), len(devices)) == (1250, 10_000)
    assert len({device.uuid for device in devices}) == 10_000
    assert Counter(device.name for device in devices) == {
        "NVIDIA H100 80GB HBM3": 5000,
        "NVIDIA L4": 2000,
        "Iluvatar MR-V100": 2000,
        "Iluvatar BI-V150": 1000,
    }


async def record(database: Database, clock: ManualClock, host: SimulatedHost) -> str:
    """The node's id, after a probe of the host."""
    readings = [expected.reading(host, driver.vendor) for driver in host.drivers]
    async with database.write() as session:
        machine = Machine(host.name, MACHINE.boot_id, MACHINE.cpus, MACHINE.memory_bytes)
        row = await record_node(session, clock, None, machine)
        await record_devices(session, clock, row, readings)
    return row.id


async def test_nodes_of_many_kinds_are_recorded_side_by_side(database: Database, clock: ManualClock) -> None:
    for host in fleet(10):
        await record(database, clock, host)
    async with database.read() as session:
        query = select(DeviceRow.vendor, func.count()).group_by(DeviceRow.vendor).order_by(DeviceRow.vendor)
        assert [tuple(row) for row in await session.execute(query)] == [("iluvatar", 24), ("nvidia", 56)]
        row = (await session.scalars(select(DeviceRow).where(DeviceRow.uuid == "GPU-n0000-0001"))).one()
        shown = await queries.show_device(session, row)
    assert (shown.simulated, shown.model) == (True, "NVIDIA H100 80GB HBM3 (simulated)")
    assert {(link.kind, link.nvlinks) for link in shown.links} == {(LinkKind.nvlink, 18)}
    assert (shown.numa_node, shown.sdk_version, shown.memory_foreign_bytes) == (0, "13.0", 0)
    assert shown.gauges is not None
    assert shown.gauges.power_limit_w == 700


async def test_metrics_tell_states_memory_and_gauges(database: Database, clock: ManualClock) -> None:
    host = mixed_host()
    host.driver(Vendor.nvidia).devices[0].processes = {99: 3 * GIB}
    host.driver(Vendor.nvidia).devices[1].ecc = (4, 2)
    await record(database, clock, host)
    async with database.read() as session:
        lines = (await metrics.exposition(session)).decode().splitlines()
    assert 'appliance_devices{simulated="true",state="fenced",vendor="nvidia"} 1.0' in lines
    assert 'appliance_devices{simulated="true",state="healthy",vendor="iluvatar"} 2.0' in lines
    told = [line for line in lines if 'uuid="GPU-mix1-0000"' in line and 'node="mix1"' in line]
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in told}
    assert values["appliance_device_memory_foreign_bytes"] == 3 * GIB
    assert values["appliance_device_temperature_c"] == 34
