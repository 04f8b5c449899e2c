"""Placement where devices are reserved, and which devices a reservation of a pool takes."""

import random
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gpu.picking import Candidate, pick
from gpu.placement import find
from gpu.requests import Cause, Change, PlacementRequest, Plan, Rejection
from gpu.reserving import ReservedNodes, holders_in, place, seek
from gpu.snapshot import ComputeSnapshot
from tests.gpu.fleets import device, held, node, request, requests, snapshot, snapshots

MINE = frozenset({"ten_x"})


def _free(fleet: ComputeSnapshot) -> ComputeSnapshot:
    """The same without reservations."""
    nodes = (
        replace(host, devices=tuple(changed(member, reserved=None) for member in host.devices)) for host in fleet.nodes
    )
    return replace(fleet, nodes=tuple(nodes))


@given(snapshots(), requests)
def test_nobody_else_gets_what_is_reserved(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    reserved = {member.id for member in fleet.devices if member.reserved}
    for holders in (frozenset[str](), frozenset({"ten_y"})):
        plan = seek(fleet, changed(wanted, holders=holders))
        assert plan is None or not reserved & set(plan.device_ids)


@given(snapshots(), requests)
def test_it_loses_nothing_to_its_own_reservation(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    """Whoever devices are kept for fits exactly where it would if none were."""
    answer = place(fleet, changed(wanted, holders=MINE))
    assert isinstance(answer, Plan) is (find(_free(fleet), wanted) is not None)
    if isinstance(answer, Rejection):
        assert not any(reason.cause is Cause.device_reserved for reason in answer.reasons)


@given(snapshots(), requests)
def test_its_own_come_first(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    kept = {member.id for member in fleet.devices if member.reserved}
    plan = seek(fleet, changed(wanted, holders=MINE))
    if plan is None or not wanted.devices or kept >= set(plan.device_ids):
        return
    closed = (
        replace(
            host,
            devices=tuple(changed(member, reserved=None if member.reserved else "ten_y") for member in host.devices),
        )
        for host in fleet.nodes
    )
    assert find(replace(fleet, nodes=tuple(closed)), wanted) is None


def test_what_is_reserved_is_told_and_what_would_help() -> None:
    fleet = snapshot(node(), device(0, reserved="ten_b"), device(1, leases=held("rpl_a")))
    answer = place(fleet, request(devices=1))
    assert isinstance(answer, Rejection)
    assert answer.sentence == "pool default has no free device: 1 held by replicas, 1 reserved for others"
    assert {reason.cause: reason.devices for reason in answer.reasons} == {
        Cause.device_held: ("dev_n1_1",),
        Cause.device_reserved: ("dev_n1_0",),
    }
    assert [(remedy.change, remedy.subjects, remedy.text) for remedy in answer.remedies][:1] == [
        (Change.end_reservation, ("dev_n1_0",), "end the reservation of 1 device")
    ]


def test_a_group_may_be_of_reserved_and_free_ones() -> None:
    fleet = snapshot(node(), device(0, reserved="ten_x"), device(1), device(2, reserved="ten_y"))
    assert seek(fleet, request(devices=2, holders=MINE)) == Plan("nod_n1", ("dev_n1_0", "dev_n1_1"))
    assert seek(fleet, request(devices=3, holders=MINE)) is None


def test_requests_for_which_something_is_kept_are_of_another_kind() -> None:
    assert request(devices=1).needs == request(devices=1).needs != request(devices=1, holders=MINE).needs


def test_what_is_remembered_of_nodes_stays() -> None:
    """Of all that nothing is reserved on, and of the others as long as that stays the same."""
    fleet = snapshot(node("n1"), device(0, "n1"), device(1, "n1"), node("n2"), device(0, "n2"))
    known = ReservedNodes()
    reserved: Mapping[str, Mapping[str, str]] = {"nod_n1": {"dev_n1_1": "ten_b"}, "nod_gone": {"dev_gone": "ten_b"}}
    first, again = known.over(fleet, reserved), known.over(fleet, reserved)
    assert [member.reserved for member in first.devices] == [None, "ten_b", None]
    assert all(one is other for one, other in zip(first.nodes, again.nodes, strict=True))
    assert first.nodes[1] is fleet.nodes[1]
    other = known.over(fleet, {"nod_n1": {"dev_n1_0": "ten_b"}})
    assert [member.reserved for member in other.devices] == ["ten_b", None, None]
    fresh = replace(fleet, nodes=(replace(fleet.nodes[0], cordoned="a fan"), fleet.nodes[1]))
    assert known.over(fresh, {"nod_n1": {"dev_n1_0": "ten_b"}}).nodes[0].cordoned == "a fan"
    assert known.over(fleet, {}) is fleet
    assert holders_in(reserved) == {"ten_b"}


def _candidates(*nodes: str) -> list[Candidate]:
    """Of each node its devices: a letter for the model, a capital where somebody holds it."""
    return [
        Candidate(f"dev_{number}_{index}", f"nod_{number}", "nvidia", letter.lower(), index, letter.isupper())
        for number, letters in enumerate(nodes)
        for index, letter in enumerate(letters)
    ]


def test_one_node_comes_first_then_what_nobody_holds() -> None:
    assert pick(_candidates("aAa", "AAA", "bb"), 2) == ["dev_0_0", "dev_0_2"]
    assert pick(_candidates("aa", "aaaa"), 2) == ["dev_0_0", "dev_0_1"]
    assert pick(_candidates("aa", "aaa"), 4) == ["dev_1_0", "dev_1_1", "dev_1_2", "dev_0_0"]
    assert pick(_candidates("ab", "ba"), 3) is None
    assert pick([], 1) is None


@given(
    st.lists(st.text("abAB", max_size=4), max_size=4),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_equal_devices_are_picked_whenever_there_are_so_many(
    nodes: list[str], count: int, chance: random.Random
) -> None:
    candidates = _candidates(*nodes)
    picked = pick(candidates, count)
    chance.shuffle(candidates)
    assert pick(candidates, count) == picked
    numbers = [sum(letters.lower().count(model) for letters in nodes) for model in "ab"]
    assert (picked is None) is (max(numbers) < count)
    if picked is not None:
        of = {candidate.device_id: candidate for candidate in candidates}
        assert len(set(picked)) == count
        assert len({of[device_id].model for device_id in picked}) == 1
