"""Who has to go for whom: properties on drawn fleets, and the choice on fleets made by hand."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gpu.fairness import Waiting
from gpu.placement import after, find
from gpu.preemption import Eviction, Incumbent, evictions
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot
from gpu.whatif import vacated
from tests.gpu.fleets import GIB, device, held, node, request, snapshot


def incumbent(replica_id: str, on: str = "n1", **members: object) -> Incumbent:
    defaults: dict[str, object] = {"memory_bytes": 0, "precedence": 2, "consents": True}
    return Incumbent(replica_id=replica_id, node_id=f"nod_{on}", **(defaults | members))  # type: ignore[arg-type]


def waits(replica_id: str = "rpl_high", *, precedence: int = 0, **members: object) -> Waiting:
    wanted = request(**({"devices": 1} | members))
    return Waiting(replica_id=replica_id, deployment_id="dep", tenant_id="ten", precedence=precedence, request=wanted)


def victims(fleet: ComputeSnapshot, wanted: Waiting, *incumbents: Incumbent) -> tuple[str, ...]:
    found = [eviction.victims for eviction in evictions(fleet, [wanted], incumbents)]
    return found[0] if found else ()


@st.composite
def crowded(draw: st.DrawFn) -> tuple[ComputeSnapshot, list[Incumbent]]:
    """A fleet on which replicas of all sorts were placed one after another."""
    members = []
    for number in range(draw(st.integers(1, 2))):
        members.append(node(f"n{number}", memory_bytes=draw(st.sampled_from([4, 64])) * GIB))
        members += [
            device(index, f"n{number}", model=draw(st.sampled_from(["L4", "L4", "H100"])), domains=(index // 2, 0, 0))
            for index in range(draw(st.integers(1, 4)))
        ]
    fleet, incumbents = snapshot(*members), []
    for number in range(draw(st.integers(1, 6))):
        wanted = draw(sizes())
        plan = find(fleet, wanted)
        if plan is not None:
            fleet = after(fleet, f"rpl_{number}", wanted, plan)
            incumbents.append(
                Incumbent(
                    replica_id=f"rpl_{number}",
                    node_id=plan.node_id,
                    memory_bytes=wanted.memory_bytes,
                    precedence=draw(st.integers(0, 2)),
                    consents=draw(st.booleans()),
                    is_leaving=draw(st.sampled_from([False, False, False, True])),
                )
            )
    return fleet, incumbents


@st.composite
def sizes(draw: st.DrawFn) -> PlacementRequest:
    devices = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    return request(
        devices=devices,
        device_share=draw(st.sampled_from([100, 50, 30])) if devices == 1 else 100,
        device_memory_bytes=draw(st.sampled_from([0, 6])) * GIB,
        memory_bytes=draw(st.sampled_from([1, 2])) * GIB,
    )


def _gone(fleet: ComputeSnapshot, incumbents: Iterable[Incumbent], ids: Iterable[str]) -> ComputeSnapshot:
    known = {one.replica_id: one for one in incumbents}
    return vacated(fleet, {id_: (known[id_].node_id, known[id_].memory_bytes) for id_ in ids})


def _leaving(incumbents: Sequence[Incumbent]) -> list[str]:
    return [one.replica_id for one in incumbents if one.is_leaving]


@settings(deadline=None, max_examples=60)
@given(
    crowded(),
    st.lists(st.tuples(sizes(), st.integers(0, 2)), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_those_who_go_consented_and_are_of_lower_precedence_and_make_room(
    crowd: tuple[ComputeSnapshot, list[Incumbent]], wanted: list[tuple[PlacementRequest, int]], chance: random.Random
) -> None:
    fleet, incumbents = crowd
    queue = [
        changed(waits(f"rpl_w{number}", precedence=precedence), request=one)
        for number, (one, precedence) in enumerate(sorted(wanted, key=lambda each: each[1]))
    ]
    found = list(evictions(fleet, queue, incumbents))
    known = {one.replica_id: one for one in incumbents}
    everyone = [id_ for eviction in found for id_ in eviction.victims]
    assert len(everyone) == len(set(everyone)), "nobody goes twice"
    for eviction in found:
        assert eviction.victims, "nobody is told to go for nothing"
        for victim in (known[id_] for id_ in eviction.victims):
            assert victim.consents
            assert victim.precedence > eviction.waiting.precedence
            assert not victim.is_leaving
    _are_made_room_for(_gone(fleet, incumbents, _leaving(incumbents)), found, queue, incumbents)
    assert _shuffled(fleet, queue, incumbents, chance) == found


def _shuffled(
    fleet: ComputeSnapshot, queue: Sequence[Waiting], incumbents: Sequence[Incumbent], chance: random.Random
) -> list[Eviction]:
    """The same, with everything whose order means nothing in another order."""
    nodes = [replace(host, devices=tuple(chance.sample(host.devices, len(host.devices)))) for host in fleet.nodes]
    other = replace(fleet, nodes=tuple(chance.sample(nodes, len(nodes))))
    return list(evictions(other, queue, chance.sample(incumbents, len(incumbents))))


def _are_made_room_for(
    fleet: ComputeSnapshot, found: Sequence[Eviction], queue: Sequence[Waiting], incumbents: Sequence[Incumbent]
) -> None:
    """Carried out in turn, each plan fits; nobody who fits without has victims, and none of them could have stayed."""
    by_waiting = {eviction.waiting.replica_id: eviction for eviction in found}
    for one in queue:
        plan = find(fleet, one.request)
        if plan is None and one.replica_id in by_waiting:
            eviction = by_waiting[one.replica_id]
            for spared in eviction.victims:
                rest = set(eviction.victims) - {spared}
                alone = replace(fleet, nodes=tuple(host for host in fleet.nodes if host.id == eviction.plan.node_id))
                assert find(_gone(alone, incumbents, rest), one.request) is None
            fleet = _gone(fleet, incumbents, eviction.victims)
            plan = find(fleet, one.request)
            assert plan is not None
        else:
            assert one.replica_id not in by_waiting
        if plan is not None:
            fleet = after(fleet, one.replica_id, one.request, plan)


def test_nobody_goes_who_did_not_consent_or_is_as_high() -> None:
    fleet = snapshot(node(), device(0, leases=held("a")))
    assert victims(fleet, waits(), incumbent("a")) == ("a",)
    assert victims(fleet, waits(), incumbent("a", consents=False)) == ()
    assert victims(fleet, waits(precedence=2), incumbent("a")) == ()
    assert victims(fleet, waits(precedence=1), incumbent("a", precedence=1)) == ()
    assert victims(fleet, waits(precedence=1), incumbent("a")) == ("a",)
    assert victims(fleet, waits()) == ()


def test_few_go_then_those_of_the_lowest_then_few_devices_then_the_youngest() -> None:
    fleet = snapshot(
        node(),
        device(0, leases=held("a")),
        device(1, leases=held("b")),
        device(2, leases=held("c")),
        device(3, leases=held("c")),
    )
    a, b, c = incumbent("a"), incumbent("b"), incumbent("c")
    assert victims(fleet, waits(), a, b, c) == ("b",)
    assert victims(fleet, waits(devices=2), a, b, c) == ("c",)
    assert victims(fleet, waits(devices=3), a, b, c) == ("b", "c")
    assert victims(fleet, waits(), a, incumbent("b", precedence=1), c) == ("a",)
    assert victims(fleet, waits(devices=2), a, b, incumbent("c", consents=False)) == ("a", "b")


def test_the_node_where_fewer_have_to_go() -> None:
    fleet = snapshot(
        node("n1"),
        *(device(index, "n1", leases=held(f"a{index}")) for index in range(2)),
        node("n2"),
        device(0, "n2", leases=held("b")),
        device(1, "n2"),
    )
    here = (incumbent("a0"), incumbent("a1"), incumbent("b", "n2"))
    assert victims(fleet, waits(devices=2), *here) == ("b",)


def test_of_equal_ones_on_several_nodes_the_youngest_goes() -> None:
    fleet = snapshot(node("n1"), device(0, "n1", leases=held("a")), node("n2"), device(0, "n2", leases=held("b")))
    assert victims(fleet, waits(), incumbent("a"), incumbent("b", "n2")) == ("b",)
    assert victims(fleet, waits(), incumbent("a"), incumbent("b", "n2", precedence=1)) == ("a",)


def test_what_leaves_already_is_room_to_come() -> None:
    """Also for the second who waits, who takes what the first leaves."""
    fleet = snapshot(node(), device(0, leases=held("a")), device(1, leases=held("b")))
    here = [incumbent("a", is_leaving=True, consents=False), incumbent("b")]
    assert list(evictions(fleet, [waits()], here)) == []
    found = list(evictions(fleet, [waits("rpl_1"), waits("rpl_2"), waits("rpl_3")], here))
    assert [(one.waiting.replica_id, one.victims) for one in found] == [("rpl_2", ("b",))]
    assert found[0].plan == Plan("nod_n1", ("dev_n1_1",))


def test_of_a_shared_device_only_those_go_who_are_in_the_way() -> None:
    fleet = snapshot(node(), device(0, leases=(*held("a", share=50), *held("b", share=30))))
    here = (incumbent("a", consents=False), incumbent("b"))
    assert victims(fleet, waits(device_share=50), *here) == ("b",)
    assert victims(fleet, waits(), *here) == ()


def test_memory_of_the_node_is_made_room_for_too() -> None:
    fleet = snapshot(node(memory_bytes=4 * GIB, memory_claimed=4 * GIB), device(0), device(1, leases=held("a")))
    assert victims(fleet, waits(), incumbent("a", memory_bytes=2 * GIB)) == ("a",)
    assert victims(fleet, waits(devices=0), incumbent("a", memory_bytes=2 * GIB)) == ()


def test_what_is_reserved_or_closed_helps_nobody() -> None:
    for closed in ({"reserved": "ten_b"}, {"cordoned": "a fan"}):
        fleet = snapshot(node(), changed(device(0, leases=held("a")), **closed))
        assert victims(fleet, waits(), incumbent("a")) == ()
    fleet = snapshot(node(), device(0, leases=held("a"), reserved="rpl_high"))
    assert victims(fleet, waits(holders=frozenset({"rpl_high"})), incumbent("a")) == ("a",)
