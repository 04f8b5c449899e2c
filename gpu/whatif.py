"""Snapshots of compute as it would be after a change: what previews are planned on. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from msgspec.structs import replace as with_changed

from gpu.snapshot import ComputeSnapshot, NodeView


def vacated(snapshot: ComputeSnapshot, claims: Mapping[str, tuple[str, int]]) -> ComputeSnapshot:
    """As it would be without these replicas: by id, the node of each and the bytes of memory that it claims there."""
    by_node: dict[str, dict[str, int]] = defaultdict(dict)
    for replica_id, (node_id, memory) in claims.items():
        by_node[node_id][replica_id] = memory
    nodes = (_without(node, by_node[node.id]) if node.id in by_node else node for node in snapshot.nodes)
    return replace(snapshot, nodes=tuple(nodes)) if by_node else snapshot


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


def _without(node: NodeView, claims: Mapping[str, int]) -> NodeView:
    devices = tuple(
        with_changed(device, leases=tuple(lease for lease in device.leases if lease.replica_id not in claims))
        for device in node.devices
    )
    return replace(node, memory_claimed=node.memory_claimed - sum(claims.values()), devices=devices)
