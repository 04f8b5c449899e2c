"""The equal devices of one node and pool that have room, as placement weighs them. Pure.

A group is worked out once for each version of its node: most nodes of a large fleet stay as they are between two
decisions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from gpu.states import WHOLE
from gpu.topology import ACROSS, best_linked

if TYPE_CHECKING:
    from gpu.snapshot import DeviceView


_REMEMBERED: Final = 32
"""Demands that a group remembers its offers for."""


class Demand(NamedTuple):
    """What a request asks of devices: so many equal ones, or a share of one, with so many bytes on each."""

    devices: int
    share: int
    memory_bytes: int


class Offer(NamedTuple):
    """What a group would give: the devices, how well they are linked, the largest one's bytes; whether a free device is
    begun for a share; `gap`, the percent that the shared device, or the group's free devices, would keep; and what each
    of the group's devices that are not full had and would keep free, in percent, in ascending order.
    """

    device_ids: tuple[str, ...]
    tier: int
    largest: int
    begins: bool
    gap: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class Group:
    """Equal devices (vendor and model): those that are free altogether, and those of which shares are left."""

    __slots__ = ("_best", "_least", "_offers", "_parts", "_room", "_whole", "model", "vendor")

    def __init__(self, vendor: str, model: str, devices: Iterable[DeviceView]) -> None:
        self.vendor, self.model = vendor, model
        ordered = sorted(devices, key=_order)
        self._whole = [device for device in ordered if not device.leases]
        self._parts = [device for device in ordered if device.leases and device.leased < WHOLE]
        self._least = min((device.usable(WHOLE) for device in self._whole), default=0)
        self._offers: dict[Demand, Offer | None] = {}
        self._best: dict[int, tuple[int, list[DeviceView]] | None] = {}
        self._room = tuple(sorted(WHOLE - device.leased for device in (*self._whole, *self._parts)))

    def offer(self, demand: Demand) -> Offer | None:
        """The best that the group has for this, None where it has too little."""
        if demand not in self._offers:
            if len(self._offers) >= _REMEMBERED:
                self._offers.clear()
            self._offers[demand] = self._share(demand) if demand.share < WHOLE else self._devices(demand)
        return self._offers[demand]

    def _devices(self, demand: Demand) -> Offer | None:
        if self._least >= demand.memory_bytes:
            linked = self._linked(demand.devices)
        else:
            suitable = [device for device in self._whole if device.usable(WHOLE) >= demand.memory_bytes]
            linked = best_linked(suitable, demand.devices) if len(suitable) >= demand.devices else None
        return None if linked is None else self._made(linked[1], linked[0], WHOLE)

    def _linked(self, count: int) -> tuple[int, list[DeviceView]] | None:
        """The best-linked of all that are free; what is asked for on each does not change it."""
        if count not in self._best:
            self._best[count] = best_linked(self._whole, count) if len(self._whole) >= count else None
        return self._best[count]

    def _share(self, demand: Demand) -> Offer | None:
        """A device that is shared already, the fullest that has room; else one that is free."""
        parts = [device for device in self._parts if _has_room(device, demand)]
        if parts:
            return self._made([min(parts, key=lambda device: WHOLE - device.leased)], ACROSS, demand.share)
        linked = self._linked(1)
        if linked is not None and not _has_room(linked[1][0], demand):
            whole = [device for device in self._whole if _has_room(device, demand)]
            linked = best_linked(whole, 1) if whole else None
        return None if linked is None else self._made(linked[1], ACROSS, demand.share)

    def _made(self, chosen: Sequence[DeviceView], tier: int, share: int) -> Offer:
        after = list(self._room)
        for device in chosen:
            room = WHOLE - device.leased
            after.remove(room)
            if room > share:
                after.append(room - share)
        ordered = sorted(chosen, key=lambda device: (device.index, device.id))
        return Offer(
            tuple(device.id for device in ordered),
            tier if len(chosen) > 1 else ACROSS,
            max(device.memory_bytes for device in chosen),
            share < WHOLE and not chosen[0].leases,
            WHOLE - chosen[0].leased - share if share < WHOLE else (len(self._whole) - len(chosen)) * WHOLE,
            self._room,
            tuple(sorted(after)),
        )


def _has_room(device: DeviceView, demand: Demand) -> bool:
    return device.leased + demand.share <= WHOLE and device.usable(demand.share) >= demand.memory_bytes


def _order(device: DeviceView) -> tuple[int, int, int, str]:
    return device.memory_bytes, device.memory_foreign, device.index, device.id


def groups_of(pool_id: str, devices: Iterable[DeviceView]) -> Mapping[str, tuple[Group, ...]]:
    """By pool, the groups of the open devices of a node that is in `pool_id`."""
    equal: dict[tuple[str, str, str], list[DeviceView]] = defaultdict(list)
    for device in devices:
        if device.is_open:
            equal[device.pool_id or pool_id, device.vendor, device.model].append(device)
    groups: dict[str, list[Group]] = defaultdict(list)
    for (pool, vendor, model), members in sorted(equal.items()):
        groups[pool].append(Group(vendor, model, members))
    return {pool: tuple(found) for pool, found in groups.items()}
