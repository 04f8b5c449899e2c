"""The states of nodes and devices, and the names of vendors. Only `healthy` devices on `ready` nodes are free."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

WHOLE: Final = 100
"""The share of a device that is all of it: shares are percent of its memory."""


class Vendor(StrEnum):
    """Who made a device; `cpu` stands for running without one."""

    nvidia = "nvidia"
    iluvatar = "iluvatar"
    cpu = "cpu"


class NodeState(StrEnum):
    """`ready`: seen in the last probe. `stale`: it did not answer; what runs there may well run on."""

    ready = "ready"
    stale = "stale"


class Disposition(StrEnum):
    """What a person says of a node or device. `cordoned`: nothing new is placed there, what runs stays. `draining`:
    cordoned, and what runs there goes elsewhere.
    """

    open = "open"
    cordoned = "cordoned"
    draining = "draining"


class DeviceState(StrEnum):
    """`fenced`: taken out until a person clears it. `stale`: the driver did not answer. `absent`: it answered
    and no longer lists the device.
    """

    healthy = "healthy"
    fenced = "fenced"
    stale = "stale"
    absent = "absent"
