"""Nodes that are alike: one answer for all of them, and each node's own devices in it."""

import gc
import random
from collections.abc import Callable
from dataclasses import replace
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gpu.placement import find
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView
from gpu.states import DeviceState
from tests.gpu.fleets import GIB, device, held, node, request, requests, snapshot, snapshots

SERVER = ((0, 0, 0), (0, 0, 0), (2, 2, 0), (2, 2, 0))
"""The domains of two pairs under one root."""


def server(name: str, domains: tuple[tuple[int, ...], ...] = SERVER) -> NodeView:
    devices = tuple(device(index, name, domains=of) for index, of in enumerate(domains))
    return node(name, devices=devices)


def test_nodes_that_are_alike_have_one_shape() -> None:
    numbered_otherwise = ((7, 7, 5), (7, 7, 5), (1, 1, 5), (1, 1, 5))
    assert server("a").shape is server("b").shape is server("c", numbered_otherwise).shape


def test_the_order_and_the_names_of_devices_are_no_part_of_a_shape() -> None:
    one = server("a")
    devices = list(one.devices)
    random.Random(1).shuffle(devices)
    named = [changed(each, id=f"dev_{each.uuid[::-1]}") for each in devices]
    assert replace(one, devices=tuple(named)).shape is one.shape


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, pool_id="pol_b"),
        lambda one: replace(one, cordoned="new firmware"),
        lambda one: replace(one, cpus=one.cpus + 1),
        lambda one: replace(one, memory_claimed=GIB),
        lambda one: replace(one, labels={"rack": "A1"}),
        lambda one: replace(one, devices=one.devices[:-1]),
        lambda one: _with_first(one, model="H100"),
        lambda one: _with_first(one, pool_id="pol_b"),
        lambda one: _with_first(one, memory_foreign=1),
        lambda one: _with_first(one, domains=(3, 3, 3)),
        lambda one: _with_first(one, state=DeviceState.fenced),
        lambda one: _with_first(one, leases=held("rpl_1")),
        lambda one: _with_first(one, leases=held("rpl_1", share=50)),
    ],
)
def test_what_placement_weighs_is_part_of_a_shape(change: Callable[[NodeView], NodeView]) -> None:
    one = server("a")
    assert change(one).shape is not one.shape


def _with_first(one: NodeView, **members: object) -> NodeView:
    first, *others = one.devices
    return replace(one, devices=(changed(first, **members), *others))


def test_a_shape_is_forgotten_with_its_last_node() -> None:
    one = server("a")
    shape = ref(one.shape)
    twin = server("b")
    assert twin.shape is shape()
    del one
    gc.collect()
    assert twin.shape is shape()
    del twin
    gc.collect()
    assert shape() is None


@given(snapshots(), requests)
def test_a_shared_answer_is_each_nodes_own(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    """Twins of every node: the answer is among the twins' devices, and what the node alone would get."""
    twins = tuple(_twin(each) for each in fleet.nodes)
    find(fleet, wanted)  # whatever was worked out for the first is there for its twin
    both = ComputeSnapshot(fleet.pools, (*fleet.nodes, *twins), fleet.mix)
    plan = find(both, wanted)
    alone = {each.id: find(ComputeSnapshot(fleet.pools, (each,), fleet.mix), wanted) for each in (*fleet.nodes, *twins)}
    assert (plan is None) == all(found is None for found in alone.values())
    if plan is not None:
        assert plan == alone[plan.node_id]
        host = next(each for each in both.nodes if each.id == plan.node_id)
        assert {each.id for each in host.devices} >= set(plan.device_ids)


def _twin(one: NodeView) -> NodeView:
    devices = tuple(changed(each, id=f"{each.id}_twin", node_id=f"{one.id}_twin") for each in one.devices)
    return replace(one, id=f"{one.id}_twin", name=f"{one.name}_twin", devices=devices)


@given(st.permutations(range(6)))
def test_of_nodes_that_are_alike_the_first_by_name_is_taken(order: list[int]) -> None:
    fleet = snapshot(*(part for number in order for part in _with_devices(f"n{number}")))
    assert find(fleet, request(devices=1)) == Plan("nod_n0", ("dev_n0_0",))


def _with_devices(name: str) -> tuple[NodeView | DeviceView, ...]:
    return node(name), device(0, name), device(1, name)
