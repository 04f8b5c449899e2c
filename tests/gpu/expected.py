"""What a binding must tell of a simulated host: worked out from the host's description, by other code than ours."""

from gpu.states import Vendor
from gpu.vendors.readings import DeviceGauges, DeviceLink, DeviceReading, LinkKind, MigInstance, ProcessUse, Reading
from tests.gpu.stub.host import SWITCH, SimulatedDevice, SimulatedDriver, SimulatedHost

KINDS = {0: "board", 10: "pix", 20: "pxb", 30: "phb", 40: "node", 50: "sys"}


def reading(host: SimulatedHost, vendor: Vendor) -> Reading:
    driver = host.driver(vendor)
    return Reading(
        vendor=vendor,
        driver_version=driver.version,
        sdk_version=f"{driver.sdk // 1000}.{driver.sdk % 1000 // 10}",
        library_version=driver.library,
        simulated=True,
        devices=tuple(_device(driver, device, index) for index, device in enumerate(driver.devices)),
    )


def _device(driver: SimulatedDriver, device: SimulatedDevice, index: int) -> DeviceReading:
    return DeviceReading(
        index=index,
        uuid=device.uuid,
        model=device.name,
        minor=device.minor,
        pci_address=device.pci,
        numa_node=device.numa_node,
        memory_bytes=device.memory_bytes,
        memory_used_bytes=device.used_bytes,
        processes=None
        if device.processes is None
        else tuple(ProcessUse(pid, used) for pid, used in sorted(device.processes.items())),
        compute_capability=f"{device.capability[0]}.{device.capability[1]}",
        gauges=DeviceGauges(
            utilisation_percent=device.utilisation[0],
            memory_utilisation_percent=device.utilisation[1],
            temperature_c=device.temperature,
            power_w=device.power_w,
            power_limit_w=device.power_limit_w,
            clock_mhz=device.clocks_mhz[0],
            memory_clock_mhz=device.clocks_mhz[1],
            ecc_corrected=device.ecc[0] if device.ecc else None,
            ecc_uncorrected=device.ecc[1] if device.ecc else None,
        ),
        links=tuple(_link(device, other) for other in driver.devices if other is not device),
        mig=tuple(
            MigInstance(
                uuid=part.uuid,
                name=part.name,
                gpu_instance=part.gpu_instance,
                compute_instance=part.compute_instance,
                memory_bytes=part.memory_bytes,
                memory_used_bytes=part.used_bytes,
            )
            for part in device.mig or ()
        ),
    )


def _link(one: SimulatedDevice, other: SimulatedDevice) -> DeviceLink:
    nvlinks = one.nvlinks.count(SWITCH) or one.nvlinks.count(other.slot)
    kind = LinkKind.nvlink if nvlinks else LinkKind(KINDS[one.distances[other.slot]])
    return DeviceLink(other.uuid, kind, nvlinks)
