"""The equal devices of one node and pool that have room, as placement weighs them. Pure.

A group is worked out once for each version of its node. What a request would take of it (`Offer`) is remembered too:
most nodes of a large fleet stay as they are between two decisions, and most requests are alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from gpu.states import WHOLE
from gpu.topology import ACROSS, best_linked

if TYPE_CHECKING:
    from gpu.snapshot import DeviceView

_REMEMBERED: Final = 64
"""Kinds of requests that a group remembers its offer for."""


class Demand(NamedTuple):
    """What a request asks of devices: so many equal ones, or a share of one, with so many bytes on each."""

    devices: int
    share: int
    memory_bytes: int


class Offer(NamedTuple):
    """What a group would give: the devices, how well they are linked, the largest one's bytes, and what it had and
    would keep free (percent of a device, one number for each that is not full, in ascending order).
    """

    device_ids: tuple[str, ...]
    tier: int
    largest: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class Group:
    """Equal devices (vendor and model). `whole` are free altogether, `parts` hold shares and have room for more."""

    __slots__ = ("_offers", "_room", "least", "model", "parts", "vendor", "whole")

    def __init__(self, vendor: str, model: str, devices: Iterable[DeviceView]) -> None:
        self.vendor, self.model = vendor, model
        ordered = sorted(devices, key=_order)
        self.whole = [device for device in ordered if not device.leases]
        self.parts = [device for device in ordered if device.leases and device.leased < WHOLE]
        self.least = min((device.usable(WHOLE) for device in self.whole), default=0)
        self._room = tuple(sorted(WHOLE - device.leased for device in (*self.whole, *self.parts)))
        self._offers: dict[Demand, Offer | None] = {}

    def offer(self, demand: Demand) -> Offer | None:
        """The best that the group has for this, None where it has too little."""
        if demand in self._offers:
            return self._offers[demand]
        if len(self._offers) >= _REMEMBERED:
            self._offers.clear()
        made = self._share(demand) if demand.share < WHOLE else self._devices(demand)
        self._offers[demand] = made
        return made

    def _devices(self, demand: Demand) -> Offer | None:
        suitable = self.whole
        if self.least < demand.memory_bytes:
            suitable = [device for device in suitable if device.usable(WHOLE) >= demand.memory_bytes]
        if len(suitable) < demand.devices:
            return None
        tier, chosen = best_linked(suitable, demand.devices)
        return self._made(chosen, tier, WHOLE)

    def _share(self, demand: Demand) -> Offer | None:
        """A device that is shared already, the fullest that has room; else one that is free."""
        parts = [device for device in self.parts if _has_room(device, demand)]
        if parts:
            return self._made([min(parts, key=lambda device: WHOLE - device.leased)], ACROSS, demand.share)
        whole = [device for device in self.whole if _has_room(device, demand)]
        return self._made(best_linked(whole, 1)[1], ACROSS, demand.share) if whole else None

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
