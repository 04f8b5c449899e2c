"""Snapshots as they would be: emptied of what was placed, they are what they were; what is closed takes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpu.placement import after, find
from gpu.requests import PlacementRequest
from gpu.snapshot import ComputeSnapshot
from gpu.whatif import closed, vacated
from tests.gpu import fleets

small = st.sampled_from([fleets.request(devices=devices, cpus=0.5, memory_bytes=1) for devices in (0, 1, 1, 2)])
"""Requests that often fit."""


@given(fleets.snapshots(), small)
def test_without_what_was_placed_all_is_as_before(snapshot: ComputeSnapshot, request: PlacementRequest) -> None:
    plan = find(snapshot, request)
    if plan is None:
        return
    placed = after(snapshot, "rpl_new", request, plan)
    emptied = vacated(placed, {"rpl_new": (plan.node_id, request.memory_bytes)})
    assert emptied == snapshot
    assert find(emptied, request) == plan


@given(fleets.snapshots(), small)
def test_nothing_goes_to_what_is_closed(snapshot: ComputeSnapshot, request: PlacementRequest) -> None:
    plan = find(snapshot, request)
    if plan is None:
        return
    without_node = find(closed(snapshot, "x", nodes=(plan.node_id,)), request)
    assert without_node is None or without_node.node_id != plan.node_id
    without_devices = find(closed(snapshot, "x", devices=plan.device_ids), request)
    if plan.device_ids:
        assert without_devices is None or not set(without_devices.device_ids) & set(plan.device_ids)
    else:
        assert without_devices == plan


def test_who_stays_keeps_what_it_has() -> None:
    shared = fleets.device(leases=(*fleets.held("rpl_a", share=50), *fleets.held("rpl_b", share=30)))
    snapshot = fleets.snapshot(fleets.node(memory_claimed=3 * fleets.GIB), shared)
    emptied = vacated(snapshot, {"rpl_a": ("nod_n1", fleets.GIB), "rpl_gone": ("nod_gone", fleets.GIB)})
    (node,) = emptied.nodes
    assert (node.memory_claimed, node.devices[0].leased) == (2 * fleets.GIB, 30)
