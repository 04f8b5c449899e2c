"""The hosts of the simulated fleet: shapes of servers that are sold, with figures as their data sheets have them."""

from collections.abc import Callable, Iterator

from gpu.states import Vendor
from tests.gpu.stub.host import GIB, SWITCH, SimulatedDevice, SimulatedDriver, SimulatedHost

MIB = 1024**2
PIX, PHB, NODE, SYS = 10, 30, 40, 50
_FLEET_NODES = 1250


def _uuid(vendor: Vendor, host: str, slot: int) -> str:
    prefix = "GPU-" if vendor is Vendor.nvidia else "GPU-1e3e-"
    return f"{prefix}{host}-{slot:04d}"


def _h100(host: str, slot: int, bus: int) -> SimulatedDevice:
    return SimulatedDevice(
        slot=slot,
        uuid=_uuid(Vendor.nvidia, host, slot),
        name="NVIDIA H100 80GB HBM3",
        pci=f"00000000:{bus:02X}:00.0",
        minor=slot,
        memory_bytes=81559 * MIB,
        reserved_bytes=551 * MIB,
        capability=(9, 0),
        numa_node=slot // 4,
        power_limit_w=700,
        clocks_mhz=(1980, 2619),
    )


def _l4(host: str, slot: int, bus: int) -> SimulatedDevice:
    return SimulatedDevice(
        slot=slot,
        uuid=_uuid(Vendor.nvidia, host, slot),
        name="NVIDIA L4",
        pci=f"00000000:{bus:02X}:00.0",
        minor=slot,
        memory_bytes=23034 * MIB,
        reserved_bytes=434 * MIB,
        capability=(8, 9),
        numa_node=slot // 4,
        power_w=17,
        power_limit_w=72,
        clocks_mhz=(2040, 6251),
    )


def _iluvatar(name: str, memory_bytes: int) -> Callable[[str, int, int], SimulatedDevice]:
    def device(host: str, slot: int, bus: int) -> SimulatedDevice:
        return SimulatedDevice(
            slot=slot,
            uuid=_uuid(Vendor.iluvatar, host, slot),
            name=name,
            pci=f"00000000:{bus:02X}:00.0",
            minor=slot,
            memory_bytes=memory_bytes,
            capability=(7, 1),
            numa_node=slot // 4,
            remapped=None,
            power_limit_w=150,
            clocks_mhz=(1500, 1600),
        )

    return device


ZHIKAI = _iluvatar("Iluvatar MR-V100", 32 * GIB)
TIANGAI = _iluvatar("Iluvatar BI-V150", 64 * GIB)


def _over_pcie(devices: list[SimulatedDevice]) -> list[SimulatedDevice]:
    """Pairs share a PCIe switch, fours a NUMA node."""
    for one in devices:
        for other in devices:
            if one is not other:
                near = PIX if one.slot // 2 == other.slot // 2 else NODE if one.slot // 4 == other.slot // 4 else SYS
                one.distances[other.slot] = near
    return devices


def _nvidia(devices: list[SimulatedDevice]) -> SimulatedDriver:
    return SimulatedDriver(Vendor.nvidia, "580.65.06", 13000, "13.580.65.06", devices)


def _corex(devices: list[SimulatedDevice]) -> SimulatedDriver:
    return SimulatedDriver(Vendor.iluvatar, "4.2.0", 10020, "4.2.0", devices)


def nvlink_server(name: str = "nvl1") -> SimulatedHost:
    """Eight H100 of one HGX board: 18 links of each to the switches, and PCIe besides."""
    devices = _over_pcie([_h100(name, slot, 0x1B + 0x10 * slot) for slot in range(8)])
    for device in devices:
        device.nvlinks = [SWITCH] * 18
    return SimulatedHost(name, [_nvidia(devices)])


def bridged_server(name: str = "nvb1") -> SimulatedHost:
    """Four H100 in PCIe slots, of which pairs are bridged by 12 links."""
    devices = _over_pcie([_h100(name, slot, 0x1B + 0x10 * slot) for slot in range(4)])
    for device in devices:
        device.nvlinks = [device.slot ^ 1] * 12
    return SimulatedHost(name, [_nvidia(devices)])


def pcie_server(name: str = "pcie1") -> SimulatedHost:
    return SimulatedHost(name, [_nvidia(_over_pcie([_l4(name, slot, 0x31 + 0x10 * slot) for slot in range(8)]))])


def zhikai_server(name: str = "zk1") -> SimulatedHost:
    return SimulatedHost(name, [_corex(_over_pcie([ZHIKAI(name, slot, 0x21 + 0x10 * slot) for slot in range(8)]))])


def tiangai_server(name: str = "tg1") -> SimulatedHost:
    return SimulatedHost(name, [_corex(_over_pcie([TIANGAI(name, slot, 0x21 + 0x10 * slot) for slot in range(8)]))])


def mixed_host(name: str = "mix1") -> SimulatedHost:
    """Two cards of each vendor in one machine."""
    return SimulatedHost(
        name,
        [
            _nvidia(_over_pcie([_l4(name, slot, 0x31 + 0x10 * slot) for slot in range(2)])),
            _corex(_over_pcie([ZHIKAI(name, slot, 0x71 + 0x10 * slot) for slot in range(2)])),
        ],
    )


HOSTS: dict[str, Callable[[], SimulatedHost]] = {
    "nvlink": nvlink_server,
    "bridged": bridged_server,
    "pcie": pcie_server,
    "zhikai": zhikai_server,
    "tiangai": tiangai_server,
    "mixed": mixed_host,
}


def fleet(nodes: int = _FLEET_NODES) -> Iterator[SimulatedHost]:
    """Many nodes of eight devices: of ten, five NVLink and two PCIe servers, two ZhiKai and one TianGai."""
    kinds = [nvlink_server] * 5 + [pcie_server] * 2 + [zhikai_server] * 2 + [tiangai_server]
    for number in range(nodes):
        yield kinds[number % len(kinds)](f"n{number:04d}")
