"""The real bindings over the stub libraries (simulated: no driver, no device), each in its real process."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gpu.probe import VendorProbe
from gpu.states import Vendor
from gpu.vendors.readings import DeviceReading, Reading
from tests.gpu import expected
from tests.gpu.stub.catalog import HOSTS, mixed_host, nvlink_server, pcie_server, zhikai_server
from tests.gpu.stub.host import GIB, SimulatedHost, SimulatedMig
from tests.support.waiting import eventually_async

Make = Callable[..., "Bench"]
MakeHost = Callable[[], SimulatedHost]
EACH_VENDOR = pytest.mark.parametrize(
    ("make_host", "vendor"),
    [(pcie_server, Vendor.nvidia), (zhikai_server, Vendor.iluvatar)],
    ids=["nvidia", "iluvatar"],
)


class Bench:
    """A simulated host and the probe that looks at it."""

    def __init__(self, host: SimulatedHost, vendor: Vendor, folder: Path, *, deadline_s: float) -> None:
        self.host, self.folder = host, folder
        self.driver = host.driver(vendor)
        environment = {"LD_LIBRARY_PATH": str(folder / "lib")}
        self.probe = VendorProbe(vendor, environment=environment, root=folder, deadline_s=deadline_s)

    async def read(self) -> Reading:
        """After what the test changed is written."""
        self.host.write(self.folder)
        reading = await self.probe.read()
        assert reading is not None
        return reading

    async def device(self, index: int = 0) -> DeviceReading:
        reading = await self.read()
        assert reading.error is None
        return reading.devices[index]


@pytest.fixture
async def bench(
    simulation: Callable[[SimulatedHost], Path],
) -> AsyncIterator[Make]:
    made: list[Bench] = []

    def make(host: SimulatedHost, vendor: Vendor, *, deadline_s: float = 30.0) -> Bench:
        made.append(Bench(host, vendor, simulation(host), deadline_s=deadline_s))
        return made[-1]

    yield make
    for one in made:
        await one.probe.close()


@pytest.mark.parametrize("kind", HOSTS)
async def test_every_field_of_every_host_is_read(bench: Make, kind: str) -> None:
    host = HOSTS[kind]()
    for driver in host.drivers:
        for number, device in enumerate(driver.devices):
            device.utilisation, device.temperature, device.power_w = (
                (10 + number, 5 + number),
                40 + number,
                100 + number,
            )
            device.processes = {4711 + number: GIB, 815: 2 * GIB}
            device.ecc = (number, 0)
        assert await bench(host, driver.vendor).read() == expected.reading(host, driver.vendor)


async def test_mig_instances_are_listed_and_the_whole_is_not_for_lease(bench: Make) -> None:
    host = nvlink_server()
    place = bench(host, Vendor.nvidia)
    place.driver.devices[1].mig = [
        SimulatedMig(7 + n, n, 10 * GIB, f"MIG-{n}", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", used_bytes=n * GIB)
        for n in range(3)
    ]
    reading = await place.read()
    assert reading.devices[1].mig == expected.reading(host, Vendor.nvidia).devices[1].mig
    assert [part.memory_used_bytes for part in reading.devices[1].mig] == [0, GIB, 2 * GIB]
    assert "MIG mode is on" in (reading.devices[1].problem or "")
    assert reading.devices[0].mig == ()
    assert reading.devices[0].problem is None


@EACH_VENDOR
async def test_what_changes_is_told_by_the_next_reading(bench: Make, make_host: MakeHost, vendor: Vendor) -> None:
    place = bench(make_host(), vendor)
    device = place.driver.devices[0]
    for used, load, degrees in ((GIB, 3, 40), (5 * GIB, 97, 81), (0, 0, 50)):
        device.processes = {1234: used} if used else {}
        device.utilisation, device.temperature = (load, load // 2), degrees
        told = await place.device()
        assert (told.memory_used_bytes, told.gauges.utilisation_percent, told.gauges.temperature_c) == (
            used,
            load,
            degrees,
        )


@EACH_VENDOR
async def test_a_device_that_falls_off_the_bus_keeps_its_name(bench: Make, make_host: MakeHost, vendor: Vendor) -> None:
    place = bench(make_host(), vendor)
    before = await place.read()
    place.driver.devices[1].state = "lost"
    after = await place.read()
    assert after.error is None
    assert (after.devices[1].uuid, after.devices[1].lost) == (before.devices[1].uuid, True)
    assert "lost" in (after.devices[1].problem or "")
    assert after.devices[0].problem is None
    assert {link.peer for link in after.devices[0].links} == {device.uuid for device in before.devices[2:]}


@EACH_VENDOR
async def test_a_device_lost_before_the_driver_was_opened_has_no_name(
    bench: Make, make_host: MakeHost, vendor: Vendor
) -> None:
    place = bench(make_host(), vendor)
    place.driver.devices[1].state = "lost"
    told = await place.device(1)
    assert (told.uuid, told.lost, told.index) == ("", True, 1)


@EACH_VENDOR
async def test_devices_vanish_and_appear(bench: Make, make_host: MakeHost, vendor: Vendor) -> None:
    place = bench(make_host(), vendor)
    everyone = [device.uuid for device in (await place.read()).devices]
    taken = place.driver.devices.pop(2)
    assert [device.uuid for device in (await place.read()).devices] == everyone[:2] + everyone[3:]
    place.driver.devices.insert(2, taken)
    assert [device.uuid for device in (await place.read()).devices] == everyone


@EACH_VENDOR
@pytest.mark.parametrize("part", ["driver", "device"])
async def test_a_hang_costs_the_deadline_and_ends_with_its_cause(
    bench: Make, make_host: MakeHost, vendor: Vendor, part: str
) -> None:
    place = bench(make_host(), vendor, deadline_s=2.0)
    await place.read()
    hanging = place.driver if part == "driver" else place.driver.devices[3]
    hanging.state = "hang"
    told = await place.read()
    assert told.devices == ()
    assert "did not answer within 2 s" in (told.error or "")
    hanging.state = "ok"
    await eventually_async(lambda: _answers(place), 20, message="the driver answers again")


async def _answers(place: Bench) -> bool:
    return (await place.read()).error is None


@EACH_VENDOR
@pytest.mark.parametrize(("state", "told"), [("9", "river"), ("18", "version")])
async def test_a_driver_that_does_not_work_is_an_error(
    bench: Make, make_host: MakeHost, vendor: Vendor, state: str, told: str
) -> None:
    place = bench(make_host(), vendor)
    place.driver.state = state
    reading = await place.read()
    assert told in (reading.error or "")
    assert reading.devices == ()
    place.driver.state = "ok"
    assert (await place.read()).error is None


async def test_error_events_are_told_once(bench: Make) -> None:
    host = pcie_server()
    place = bench(host, Vendor.nvidia)
    first, second = place.driver.devices[:2]
    host.raise_xid(first, 79)  # before anybody listened
    assert (await place.device()).xids == ()
    host.raise_xid(first, 31)
    host.raise_xid(second, 48)
    host.raise_xid(first, 95)
    seen: dict[str, tuple[int, ...]] = {}

    async def came() -> bool:
        for device in (await place.read()).devices:
            seen[device.uuid] = seen.get(device.uuid, ()) + device.xids
        return sum(map(len, seen.values())) >= 3

    await eventually_async(came, 20, message="the events came")
    assert (seen[first.uuid], seen[second.uuid]) == ((31, 95), (48,))
    assert (await place.device()).xids == ()


async def test_rows_that_cannot_be_remapped_are_a_problem(bench: Make) -> None:
    place = bench(pcie_server(), Vendor.nvidia)
    place.driver.devices[0].remapped = (0, 3, 1, 0)
    assert (await place.device()).problem is None
    place.driver.devices[0].remapped = (0, 3, 0, 1)
    assert "no spare memory rows" in ((await place.device()).problem or "")


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (0, None),
        (0x10, "uncorrectable memory errors"),
        (0x41, "the system hub, the PCIe link"),
        (0x400, "unknown kind (0x400)"),
    ],
)
async def test_iluvatars_health_bits_are_a_problem(bench: Make, health: int, told: str | None) -> None:
    place = bench(zhikai_server(), Vendor.iluvatar)
    place.driver.devices[0].health = health
    problem = (await place.device()).problem
    assert (told in problem) if told and problem else problem is told


@EACH_VENDOR
async def test_what_a_driver_does_not_support_is_not_known(bench: Make, make_host: MakeHost, vendor: Vendor) -> None:
    place = bench(make_host(), vendor)
    device = place.driver.devices[0]
    device.processes, device.ecc, device.distances = None, None, {}
    told = await place.device()
    assert told.processes is None
    assert (told.gauges.ecc_corrected, told.gauges.ecc_uncorrected, told.links) == (None, None, ())
    assert told.problem is None


async def test_more_processes_than_there_was_room_for(bench: Make) -> None:
    for host, vendor in ((pcie_server(), Vendor.nvidia), (zhikai_server(), Vendor.iluvatar)):
        place = bench(host, vendor)
        place.driver.devices[0].processes = {1000 + n: 1024**2 for n in range(100)}
        assert len((await place.device()).processes or ()) == 100


async def test_hardware_without_a_library(tmp_path: Path) -> None:
    """A card in the machine and no driver installed: an error to show, and no device."""
    mixed_host().write(tmp_path)
    for vendor in (Vendor.nvidia, Vendor.iluvatar):
        probe = VendorProbe(vendor, environment={"COREX_HOME": str(tmp_path)}, root=tmp_path)
        reading = await probe.read()
        await probe.close()
        assert reading is not None
        if vendor is Vendor.nvidia and reading.error is None:
            pytest.skip("this machine has NVIDIA's own library")
        assert reading.error is not None


def test_this_process_has_no_vendors_library() -> None:
    """Only the children have."""
    maps = Path(f"/proc/{os.getpid()}/maps").read_text(encoding="utf-8", errors="replace")
    assert "libnvidia-ml" not in maps
    assert "libixml" not in maps
