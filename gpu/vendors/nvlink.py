"""How NVIDIA's devices of one node reach each other: NVLink where there is one, else the PCIe distance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import permutations
from typing import Any, Final

import pynvml

from gpu.vendors.readings import DeviceLink, LinkKind

DISTANCES: Final = {
    pynvml.NVML_TOPOLOGY_INTERNAL: LinkKind.board,
    pynvml.NVML_TOPOLOGY_SINGLE: LinkKind.pix,
    pynvml.NVML_TOPOLOGY_MULTIPLE: LinkKind.pxb,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: LinkKind.phb,
    pynvml.NVML_TOPOLOGY_NODE: LinkKind.node,
    pynvml.NVML_TOPOLOGY_SYSTEM: LinkKind.sys,
}
_SWITCH: Final = "switch"


def links(handles: Mapping[str, Any]) -> dict[str, tuple[DeviceLink, ...]]:
    """For each device, by UUID, its ways to the others. All switches of a node are taken to be one fabric."""
    active = {uuid: Counter(_peers(handle)) for uuid, handle in handles.items()}
    addresses = {uuid: _address(handle) for uuid, handle in handles.items()}
    found: dict[str, list[DeviceLink]] = {uuid: [] for uuid in handles}
    for one, other in permutations(handles, 2):
        through_switch = min(active[one][_SWITCH], active[other][_SWITCH])
        nvlinks = active[one][addresses[other]] + through_switch
        kind = LinkKind.nvlink if nvlinks else _distance(handles[one], handles[other])
        if kind is not None:
            found[one].append(DeviceLink(other, kind, nvlinks))
    return {uuid: tuple(ways) for uuid, ways in found.items()}


def _peers(handle: Any) -> Iterator[str]:
    """The PCI address at the other end of each active link, or that it ends at a switch."""
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        with suppress(pynvml.NVMLError):  # a link that the device does not have, or whose end it does not tell
            if pynvml.nvmlDeviceGetNvLinkState(handle, link):
                kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link)
                is_switch = kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
                yield _SWITCH if is_switch else _bus_id(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))


def _address(handle: Any) -> str:
    with suppress(pynvml.NVMLError):
        return _bus_id(pynvml.nvmlDeviceGetPciInfo(handle))
    return ""


def _distance(one: Any, other: Any) -> LinkKind | None:
    with suppress(pynvml.NVMLError):
        return DISTANCES.get(pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    return None


def _bus_id(info: Any) -> str:
    value = info.busId
    return str(value.decode(errors="replace") if isinstance(value, bytes) else value).lower()
