"""How much of what is free nobody who comes could use. Pure.

After "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent" (Weng et al.,
USENIX ATC 2023): what a node has free is measured against the mix of sizes that are asked for, and a replica goes where
that measure grows least. Here a size that fits several times counts as often as it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpu.states import WHOLE


class Size(NamedTuple):
    """What replicas ask for, and how often: whole devices, or a share of one."""

    devices: int
    share: int = WHOLE
    weight: int = 1


def fragmentation(room: Sequence[int], mix: Sequence[Size]) -> int:
    """The percent of a device that each size of the mix alone would have to leave unused, summed by weight.

    `room` is what each device of a group has free, in percent, the full ones left out.
    """
    free = sum(room)
    return sum(size.weight * (free - _usable(room, free, size)) for size in mix)


def _usable(room: Sequence[int], free: int, size: Size) -> int:
    if size.devices == 0:
        return free
    if size.share < WHOLE:
        return free - sum(left % size.share for left in room)
    whole = sum(left == WHOLE for left in room)
    return (whole - whole % size.devices) * WHOLE
