"""Whose turn it is: by priority, then by the dominant share; and what a round leaves."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gpu.fairness import Use, Waiting, plan_round, total
from gpu.placement import find
from gpu.requests import PlacementRequest, Strategy
from gpu.reserving import seek
from gpu.snapshot import ComputeSnapshot
from tests.gpu.fleets import GIB, device, node, request, requests, snapshot, snapshots


def waiting(number: int, tenant: str, wanted: PlacementRequest, **members: int | str) -> Waiting:
    defaults: dict[str, int | str] = {"deployment_id": f"dep_{number}"}
    return Waiting(replica_id=f"rpl_{number:03d}", tenant_id=tenant, request=wanted, **(defaults | members))  # type: ignore[arg-type]


def placed(fleet: ComputeSnapshot, queue: list[Waiting], held: dict[str, Use] | None = None) -> list[str]:
    return [
        outcome.waiting.replica_id for outcome in plan_round(fleet, queue, held or {}, seek) if outcome.plan is not None
    ]


def test_the_tenant_with_the_smallest_dominant_share_comes_first() -> None:
    """One has all the CPUs it asked for and few devices, the other half of the devices: devices dominate."""
    fleet = snapshot(node(), *(device(index) for index in range(4)))
    one = request(devices=1)
    queue = [waiting(0, "ten_greedy", one), waiting(1, "ten_greedy", one), waiting(2, "ten_modest", one)]
    held = {"ten_greedy": Use(devices=200), "ten_modest": Use(cpus=1.0)}
    assert placed(fleet, queue, held)[0] == "rpl_002"


def test_tenants_take_turns() -> None:
    fleet = snapshot(node(), *(device(index) for index in range(4)))
    queue = [waiting(number, "ten_a" if number < 6 else "ten_b", request(devices=1)) for number in range(12)]
    taken = placed(fleet, queue)
    assert len(taken) == 4
    assert Counter(number < "rpl_006" for number in taken) == {True: 2, False: 2}


def test_a_higher_priority_comes_before_all_of_a_lower_one() -> None:
    fleet = snapshot(node(), device())
    queue = [waiting(0, "ten_a", request(devices=1), precedence=1), waiting(1, "ten_b", request(devices=1))]
    assert placed(fleet, queue, {"ten_b": Use(devices=1000)}) == ["rpl_001"]


def test_what_does_not_fit_holds_up_nobody() -> None:
    fleet = snapshot(node(), device())
    queue = [waiting(0, "ten_a", request(devices=8)), waiting(1, "ten_a", request(devices=1))]
    assert placed(fleet, queue) == ["rpl_001"]


def test_memory_beside_devices_that_are_reserved_for_a_replica_is_kept_for_it() -> None:
    """Else whoever went to make room for it takes back what becomes free first, and goes again, without end."""
    half_free = node(memory_bytes=64 * GIB, memory_claimed=32 * GIB)
    kept_for = waiting(0, "ten_a", request(devices=1, memory_bytes=64 * GIB, holders=frozenset({"rpl_000"})))
    back_again = waiting(1, "ten_b", request(memory_bytes=32 * GIB), precedence=2)
    reserved = snapshot(half_free, device(reserved="rpl_000"))
    assert placed(reserved, [kept_for, back_again]) == []
    assert placed(reserved, [back_again]) == ["rpl_001"]
    elsewhere = snapshot(half_free, device(reserved="rpl_000"), node("n2", memory_bytes=32 * GIB))
    assert [
        (outcome.waiting.replica_id, outcome.plan.node_id)
        for outcome in plan_round(elsewhere, [kept_for, back_again], {}, seek)
        if outcome.plan is not None
    ] == [("rpl_001", "nod_n2")]
    assert placed(snapshot(node(memory_bytes=64 * GIB), device(reserved="rpl_000")), [kept_for, back_again]) == [
        "rpl_000"
    ]


def test_the_larger_of_a_tenants_own_come_first() -> None:
    fleet = snapshot(node(), device(0), device(1))
    queue = [waiting(0, "ten_a", request(devices=1)), waiting(1, "ten_a", request(devices=2))]
    assert placed(fleet, queue) == ["rpl_001"]


def test_replicas_of_a_deployment_that_are_placed_together_are_spread() -> None:
    fleet = snapshot(node("n1"), device(0, "n1"), device(1, "n1"), node("n2"), device(0, "n2"), device(1, "n2"))
    wanted = request(devices=1, strategy=Strategy.spread)
    queue = [waiting(number, "ten_a", wanted, deployment_id="dep_a") for number in range(4)]
    plans = [outcome.plan for outcome in plan_round(fleet, queue, {})]
    assert [plan.node_id for plan in plans[:2] if plan] in (["nod_n1", "nod_n2"], ["nod_n2", "nod_n1"])
    assert Counter(plan.node_id for plan in plans if plan) == {"nod_n1": 2, "nod_n2": 2}


def test_the_total_counts_what_is_there() -> None:
    fleet = snapshot(node(memory_bytes=GIB), device(memory_bytes=2 * GIB), device(1, memory_bytes=GIB))
    assert total(fleet) == Use(devices=200, device_memory=3 * GIB, cpus=16.0, memory=GIB)


@given(snapshots(), st.lists(requests, max_size=8), st.randoms(use_true_random=False))
def test_a_round_promises_nothing_twice_and_the_order_of_the_queue_means_nothing(
    fleet: ComputeSnapshot, wanted: list[PlacementRequest], chance: random.Random
) -> None:
    queue = [waiting(number, f"ten_{number % 3}", one) for number, one in enumerate(wanted)]
    outcomes = list(plan_round(fleet, queue, {}))
    assert sorted(outcome.waiting.replica_id for outcome in outcomes) == sorted(one.replica_id for one in queue)
    shares = {member.id: member.leased for member in fleet.devices}
    for outcome in outcomes:
        for id_ in outcome.plan.device_ids if outcome.plan else ():
            shares[id_] += outcome.waiting.request.device_share
        if outcome.plan is None:
            assert find(outcome.snapshot, outcome.waiting.request) is None
    assert all(share <= 100 for share in shares.values())
    other = plan_round(fleet, chance.sample(queue, len(queue)), {})
    assert {o.waiting.replica_id: o.plan for o in other} == {o.waiting.replica_id: o.plan for o in outcomes}
