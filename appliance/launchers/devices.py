"""How leased devices reach an engine, and how all the others stay hidden from it.

Names and numbers: the vendors' container toolkits (`NVIDIA_VISIBLE_DEVICES` takes UUIDs, `void` is none;
`IX_VISIBLE_DEVICES` takes indexes) and CUDA's `CUDA_VISIBLE_DEVICES`, which Iluvatar's CoreX reads as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from appliance.launchers.contract import DeviceGrant
from appliance.launchers.errors import StartRefused

NVIDIA = "nvidia"
ILUVATAR = "iluvatar"
CPU = "cpu"
COREX_HOME = "/usr/local/corex"
_COREX_CONTROL_NODE = "/dev/itrctl"
VISIBLE_TO_NVIDIA = "NVIDIA_VISIBLE_DEVICES"
"""What NVIDIA's runtime reads: UUIDs, or `NO_DEVICE`."""
NO_DEVICE = "void"


class ContainerDevices(Struct, frozen=True, kw_only=True):
    """What a container needs: `uuids` by a device request of NVIDIA's driver, `nodes` and `mounts` as host paths."""

    env: dict[str, str]
    uuids: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()


def process_environment(devices: Sequence[DeviceGrant]) -> dict[str, str]:
    """Variables that show a process its devices only. Advice to the engine and no barrier: one trust domain."""
    match _vendor(devices):
        case "nvidia":
            visible = ",".join(device.uuid for device in devices)
            return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
        case "iluvatar":
            visible = _indexes(devices)
            return {
                "CUDA_VISIBLE_DEVICES": visible,
                "IX_VISIBLE_DEVICES": visible,
                "LD_LIBRARY_PATH": f"{COREX_HOME}/lib64",
            }
        case _:
            return {"CUDA_VISIBLE_DEVICES": ""}


def container_devices(devices: Sequence[DeviceGrant]) -> ContainerDevices:
    """Images for CUDA ask for every device in their own environment, hence `void` where none is granted."""
    match _vendor(devices):
        case "nvidia":
            uuids = tuple(device.uuid for device in devices)
            return ContainerDevices(
                env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID", VISIBLE_TO_NVIDIA: ",".join(uuids)}, uuids=uuids
            )
        case "iluvatar":
            return ContainerDevices(
                env={
                    "IX_VISIBLE_DEVICES": _indexes(devices),
                    "LD_LIBRARY_PATH": f"{COREX_HOME}/lib64",
                    VISIBLE_TO_NVIDIA: NO_DEVICE,
                },
                nodes=(*(_iluvatar_node(device) for device in devices), _COREX_CONTROL_NODE),
                mounts=(COREX_HOME,),
            )
        case _:
            return ContainerDevices(env={VISIBLE_TO_NVIDIA: NO_DEVICE})


def _vendor(devices: Sequence[DeviceGrant]) -> str:
    vendors = {device.vendor for device in devices}
    if len(vendors) > 1:
        raise StartRefused(f"One replica cannot use devices of several vendors: {', '.join(sorted(vendors))}.")
    vendor = vendors.pop() if vendors else CPU
    if vendor not in {NVIDIA, ILUVATAR, CPU}:
        raise StartRefused(f"There is no way to hand a device of vendor {vendor!r} to an engine.")
    return vendor


def _indexes(devices: Sequence[DeviceGrant]) -> str:
    return ",".join(str(device.index) for device in devices)


def _iluvatar_node(device: DeviceGrant) -> str:
    if device.minor is None:
        raise StartRefused(f"Device {device.uuid} has no known device node; refresh the node's inventory.")
    return f"/dev/iluvatar{device.minor}"
