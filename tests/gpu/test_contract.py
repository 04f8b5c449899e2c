"""What every vendor's binding keeps, whatever is behind it: stubs here, NVIDIA's own library with `make test-gpu`."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gpu.probe import VendorProbe
from gpu.states import Vendor
from gpu.vendors.gate import has_hardware, pci_addresses
from gpu.vendors.readings import Reading
from tests.gpu.stub.catalog import bridged_server, mixed_host, nvlink_server, tiangai_server
from tests.gpu.stub.host import SimulatedHost
from tests.support.requirements import Requirement, unavailable

Source = tuple[Callable[[], SimulatedHost] | None, Vendor]
CASES = [
    pytest.param((nvlink_server, Vendor.nvidia), id="nvidia-nvlink-stub"),
    pytest.param((bridged_server, Vendor.nvidia), id="nvidia-bridged-stub"),
    pytest.param((mixed_host, Vendor.nvidia), id="nvidia-mixed-stub"),
    pytest.param((mixed_host, Vendor.iluvatar), id="iluvatar-mixed-stub"),
    pytest.param((tiangai_server, Vendor.iluvatar), id="iluvatar-tiangai-stub"),
    pytest.param((None, Vendor.cpu), id="cpu"),
    pytest.param((None, Vendor.nvidia), id="nvidia-real", marks=pytest.mark.gpu),
]
Case = tuple[Reading, Reading, bool, frozenset[str]]


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, simulation: Callable[[SimulatedHost], Path]) -> Case:
    """Two readings in a row, whether they are simulated, and the addresses on the bus."""
    source: Source = request.param
    make_host, vendor = source
    root = Path("/")
    environment: dict[str, str] = {}
    if make_host is not None:
        root = simulation(make_host())
        environment = {"LD_LIBRARY_PATH": str(root / "lib")}
    elif not has_hardware(vendor):
        unavailable(Requirement.GPU, f"there is no {vendor} device")
    probe = VendorProbe(vendor, environment=environment, root=root)
    first, second = await probe.read(), await probe.read()
    await probe.close()
    assert first is not None
    assert second is not None
    return first, second, make_host is not None, pci_addresses(vendor, root)


def test_a_reading_keeps_the_contract(case: Case) -> None:
    first, _, simulated, addresses = case
    assert first.error is None
    assert first.driver_version
    assert first.simulated is simulated
    assert [device.index for device in first.devices] == list(range(len(first.devices)))
    uuids = [device.uuid for device in first.devices]
    assert len(set(uuids)) == len(uuids)
    assert all(uuids)
    if addresses:
        assert {device.pci_address.lower()[-12:] for device in first.devices} <= addresses
    for device in first.devices:
        assert device.model
        assert device.model != "unknown"
        assert device.memory_bytes > 0
        assert device.memory_used_bytes is None or 0 <= device.memory_used_bytes <= device.memory_bytes
        assert device.compute_capability is None or re.fullmatch(r"\d+\.\d", device.compute_capability)
        assert device.xids == ()


def test_gauges_are_within_their_units(case: Case) -> None:
    for device in case[0].devices:
        gauges = device.gauges
        assert gauges.utilisation_percent is None or 0 <= gauges.utilisation_percent <= 100
        assert gauges.memory_utilisation_percent is None or 0 <= gauges.memory_utilisation_percent <= 100
        assert gauges.temperature_c is None or 0 < gauges.temperature_c < 120
        assert gauges.power_w is None or 0 < gauges.power_w < 2000
        assert gauges.power_limit_w is None or 10 < gauges.power_limit_w < 2000
        assert gauges.clock_mhz is None or 0 <= gauges.clock_mhz < 10_000


def test_links_lead_both_ways(case: Case) -> None:
    links = {(device.uuid, link.peer): link for device in case[0].devices for link in device.links}
    uuids = {device.uuid for device in case[0].devices}
    for (one, other), link in links.items():
        assert other in uuids
        assert other != one
        back = links[other, one]
        assert (back.kind, back.nvlinks) == (link.kind, link.nvlinks)
        assert (link.kind == "nvlink") is (link.nvlinks > 0)


def test_what_does_not_change_is_told_again(case: Case) -> None:
    def identity(reading: Reading) -> object:
        return [(device.uuid, device.index, device.pci_address, device.memory_bytes) for device in reading.devices]

    assert identity(case[0]) == identity(case[1])


def test_a_reading_survives_its_own_encoding(case: Case) -> None:
    assert msgspec.json.decode(msgspec.json.encode(case[0]), type=Reading) == case[0]
