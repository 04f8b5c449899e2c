"""Placement where devices are reserved: closed for all others, and taken first by those they are kept for. Pure.

A reserved device is closed in the snapshot that everyone decides on (`DeviceView.reserved`); a request that devices are
kept for sees the same snapshot with them open. What placement remembers of all the other nodes stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from msgspec.structs import replace as with_changed

from gpu import placement
from gpu.placement import find
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView

Reserved = Mapping[str, Mapping[str, str]]
"""By node: its reserved devices, each with the id of the tenant or replica that it is kept for."""


class ReservedNodes:
    """Closes what is reserved, and keeps the nodes that it made for as long as neither they nor that changes."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[NodeView, Mapping[str, str], NodeView]] = {}

    def over(self, snapshot: ComputeSnapshot, reserved: Reserved) -> ComputeSnapshot:
        """The snapshot with these devices reserved; itself where there are none."""
        if not reserved:
            self._made.clear()
            return snapshot
        self._made = {node.id: self._known(node, reserved[node.id]) for node in snapshot.nodes if node.id in reserved}
        return replace(
            snapshot,
            nodes=tuple(self._made[node.id][2] if node.id in self._made else node for node in snapshot.nodes),
        )

    def _known(self, node: NodeView, devices: Mapping[str, str]) -> tuple[NodeView, Mapping[str, str], NodeView]:
        known = self._made.get(node.id)
        if known is not None and known[0] is node and known[1] == devices:
            return known
        closed = _with_devices(node, lambda device: with_changed(device, reserved=devices.get(device.id)))
        return node, devices, closed


def holders_in(reserved: Reserved) -> frozenset[str]:
    """Everyone that anything is kept for."""
    return frozenset(holder for devices in reserved.values() for holder in devices.values())


def seek(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    """Where the request fits best: on what is kept for it alone, else anywhere that it may go; None for nowhere."""
    if not request.holders:
        return find(snapshot, request)
    kept = find(_kept_for(snapshot, request.holders), request) if request.devices else None
    return kept or find(opened(snapshot, request), request)


def place(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | Rejection:
    """The same, or why it fits nowhere and what would help."""
    return seek(snapshot, request) or rejection(snapshot, request)


def rejection(snapshot: ComputeSnapshot, request: PlacementRequest) -> Rejection:
    """Why the request fits nowhere, for one of which `seek` told that."""
    return placement.rejection(opened(snapshot, request), request)


def opened(snapshot: ComputeSnapshot, request: PlacementRequest) -> ComputeSnapshot:
    """The compute as the request sees it: with what is kept for it open."""
    if not request.holders:
        return snapshot

    def seen(device: DeviceView) -> DeviceView:
        return with_changed(device, reserved=None) if device.reserved in request.holders else device

    return replace(
        snapshot,
        nodes=tuple(_with_devices(node, seen) if _keeps(node, request.holders) else node for node in snapshot.nodes),
    )


def _kept_for(snapshot: ComputeSnapshot, holders: Collection[str]) -> ComputeSnapshot:
    """Nothing but what is kept for them, open."""
    nodes = (
        replace(
            node,
            devices=tuple(with_changed(device, reserved=None) for device in node.devices if device.reserved in holders),
        )
        for node in snapshot.nodes
        if _keeps(node, holders)
    )
    return replace(snapshot, nodes=tuple(nodes))


def _keeps(node: NodeView, holders: Collection[str]) -> bool:
    return any(device.reserved in holders for device in node.devices)


def _with_devices(node: NodeView, change: Callable[[DeviceView], DeviceView]) -> NodeView:
    return replace(node, devices=tuple(change(device) for device in node.devices))
