"""Snapshots of compute as it would be after a change: what previews are planned on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from msgspec.structs import replace as with_changed

from gpu.snapshot import ComputeSnapshot, NodeView


def vacated(snapshot: ComputeSnapshot, claims: Mapping[str, tuple[str, int]]) -> ComputeSnapshot:
    """As it would be without these replicas: by id, the node of each and the bytes of memory that it claims there."""
    for node_id in {node_id for node_id, _ in claims.values()}:
        position = snapshot.positions.get(node_id)
        if position is not None:
            snapshot = snapshot.with_node(_without(snapshot.nodes[position], claims))
    return snapshot


def closed(
    snapshot: ComputeSnapshot, reason: str, *, nodes: Collection[str] = (), devices: Collection[str] = ()
) -> ComputeSnapshot:
    """As it would be with these nodes and devices, by id, cordoned."""
    for node in snapshot.nodes:
        shut = replace(node, cordoned=reason) if node.id in nodes else node
        if any(device.id in devices for device in node.devices):
            shut = replace(
                shut,
                devices=tuple(
                    with_changed(device, cordoned=reason) if device.id in devices else device for device in node.devices
                ),
            )
        if shut is not node:
            snapshot = snapshot.with_node(shut)
    return snapshot


def _without(node: NodeView, claims: Mapping[str, tuple[str, int]]) -> NodeView:
    claimed = sum(memory for node_id, memory in claims.values() if node_id == node.id)
    devices = tuple(
        with_changed(device, leases=tuple(lease for lease in device.leases if lease.replica_id not in claims))
        for device in node.devices
    )
    return replace(node, memory_claimed=node.memory_claimed - claimed, devices=devices)
