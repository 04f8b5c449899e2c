"""The states of nodes and devices, and the names of vendors. Only `healthy` devices on `ready` nodes are free."""

from __future__ import annotations

from enum import StrEnum


class Vendor(StrEnum):
    """Who made a device; `cpu` stands for running without one."""

    nvidia = "nvidia"
    iluvatar = "iluvatar"
    cpu = "cpu"


class NodeState(StrEnum):
    """`ready`: seen in the last probe. `stale`: it did not answer; what runs there may well run on."""

    ready = "ready"
    stale = "stale"


class DeviceState(StrEnum):
    """`fenced`: taken out until a person clears it. `stale`: the driver did not answer. `absent`: it answered
    and no longer lists the device.
    """

    healthy = "healthy"
    fenced = "fenced"
    stale = "stale"
    absent = "absent"
