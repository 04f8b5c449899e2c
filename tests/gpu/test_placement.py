"""Placement's properties, on drawn fleets, and its ranking, on fleets made by hand."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from gpu.placement import after, place
from gpu.requests import Cause, Change, PlacementRequest, Plan, Reason, Rejection, Remedy, Strategy
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView, PoolView
from gpu.states import DeviceState, NodeState
from tests.gpu.fleets import GIB, POOL, device, held, node, request, requests, snapshot, snapshots


@given(snapshots(), requests)
def test_a_plan_keeps_every_condition(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    plan = place(fleet, wanted)
    if isinstance(plan, Rejection):
        return
    host = next(member for member in fleet.nodes if member.id == plan.node_id)
    chosen = [member for member in fleet.devices if member.id in plan.device_ids]
    assert host.pool_id == wanted.pool_id or wanted.devices
    assert all((member.pool_id or host.pool_id) == wanted.pool_id for member in chosen)
    assert host.state is NodeState.ready
    assert host.cordoned is None
    assert wanted.node_labels.items() <= host.labels.items()
    assert host.cpus >= wanted.cpus
    assert host.memory_free >= wanted.memory_bytes
    assert len(chosen) == len(set(plan.device_ids)) == wanted.devices
    assert all(member.is_open and member.node_id == host.id for member in chosen)
    assert all(sum(lease.share for lease in member.leases) + wanted.device_share <= 100 for member in chosen)
    assert all(_bytes_left(member, wanted.device_share) >= wanted.device_memory_bytes for member in chosen)
    assert all(not wanted.vendors or member.vendor in wanted.vendors for member in chosen)
    assert all(member.model not in wanted.excluded_models for member in chosen)
    assert len({(member.vendor, member.model) for member in chosen}) <= 1


def _bytes_left(member: DeviceView, share: int) -> int:
    """What a replica with this share could use, reckoned anew: of a part of a device the engine takes all."""
    others = sum(Fraction(member.memory_bytes * lease.share, 100) for lease in member.leases)
    free = member.memory_bytes - member.memory_foreign - others
    part = Fraction(member.memory_bytes * share, 100)
    return floor(max(0, min(part, free))) if share == 100 or floor(part) <= free else 0


@given(snapshots(), requests, st.randoms(use_true_random=False))
def test_the_order_of_the_snapshot_means_nothing(
    fleet: ComputeSnapshot, wanted: PlacementRequest, chance: random.Random
) -> None:
    def shuffled(members: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(sorted(members, key=lambda _: chance.random()))

    nodes = tuple(replace(host, devices=shuffled(host.devices)) for host in shuffled(fleet.nodes))
    other = ComputeSnapshot(shuffled(fleet.pools), nodes)
    assert place(other, wanted) == place(fleet, wanted)


@given(snapshots(), requests)
def test_what_is_placed_is_gone(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    """Planned again and again, no device is handed out beyond its whole and no node gives more than it has."""
    before = {member.id: member.leased for member in fleet.devices}
    seen: Counter[str] = Counter()
    for number in range(20):
        plan = place(fleet, wanted)
        if isinstance(plan, Rejection):
            break
        seen.update(plan.device_ids)
        fleet = after(fleet, f"rpl_{number}", wanted, plan)
    assert all(before[id_] + count * wanted.device_share <= 100 for id_, count in seen.items())
    assert {member.id: member.leased for member in fleet.devices} == {
        id_: leased + seen[id_] * wanted.device_share for id_, leased in before.items()
    }
    assert all(member.memory_claimed <= member.memory_bytes for member in fleet.nodes)


@given(snapshots(), requests)
def test_a_rejection_names_every_cause(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    """With the named causes of one node removed, and nothing else, the request fits on that node."""
    answer = place(fleet, wanted)
    if isinstance(answer, Plan):
        return
    assert answer.sentence
    hosts = [host for host in fleet.nodes if host.pool_id == wanted.pool_id or _lends(host, wanted)]
    assert hosts or {reason.cause for reason in answer.reasons} <= {Cause.no_pool, Cause.no_node}
    for host in hosts:
        repaired = place(_repaired(fleet, host, answer.reasons, wanted), wanted)
        assert isinstance(repaired, Plan), (answer, repaired)
        assert repaired.node_id == host.id


def _lends(host: NodeView, wanted: PlacementRequest) -> bool:
    """Whether a device of another pool's node is in the pool."""
    return wanted.devices > 0 and any(member.pool_id == wanted.pool_id for member in host.devices)


@given(snapshots(), requests)
def test_a_rejection_names_no_false_cause(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    answer = place(fleet, wanted)
    if isinstance(answer, Plan):
        return
    members: dict[str, NodeView | DeviceView] = {member.id: member for member in (*fleet.nodes, *fleet.devices)}
    for reason in answer.reasons:
        for subject in (*reason.nodes, *reason.devices):
            assert _HOLDS[reason.cause](members[subject], fleet, wanted), reason


def _too_few(host: NodeView, _: ComputeSnapshot, wanted: PlacementRequest) -> bool:
    kinds = Counter(
        (member.vendor, member.model)
        for member in host.devices
        if (member.pool_id or host.pool_id) == wanted.pool_id
        and (not wanted.vendors or member.vendor in wanted.vendors)
        and member.model not in wanted.excluded_models
    )
    return max(kinds.values(), default=0) < wanted.devices


_HOLDS: dict[Cause, Callable[[Any, ComputeSnapshot, PlacementRequest], bool]] = {
    Cause.node_state: lambda host, _, __: host.state is not NodeState.ready,
    Cause.node_cordoned: lambda host, _, __: host.cordoned is not None,
    Cause.node_labels: lambda host, _, wanted: not wanted.node_labels.items() <= host.labels.items(),
    Cause.node_cpus: lambda host, _, wanted: host.cpus < wanted.cpus,
    Cause.node_memory: lambda host, _, wanted: host.memory_free < wanted.memory_bytes,
    Cause.device_count: _too_few,
    Cause.device_vendor: lambda member, _, wanted: member.vendor not in wanted.vendors,
    Cause.device_model: lambda member, _, wanted: member.model in wanted.excluded_models,
    Cause.device_state: lambda member, _, __: member.state is not DeviceState.healthy,
    Cause.device_cordoned: lambda member, _, __: member.cordoned is not None,
    Cause.device_reserved: lambda member, _, __: member.reserved is not None,
    Cause.device_held: lambda member, _, wanted: (
        sum(lease.share for lease in member.leases) + wanted.device_share > 100
    ),
    Cause.device_memory: lambda member, _, wanted: (
        _bytes_left(member, wanted.device_share) < wanted.device_memory_bytes
    ),
}


def _repaired(
    fleet: ComputeSnapshot, host: NodeView, reasons: Iterable[Reason], wanted: PlacementRequest
) -> ComputeSnapshot:
    """The fleet of this one node, with what the reasons name put right."""
    devices = {member.id: member for member in host.devices}
    for reason in reasons:
        if host.id in reason.nodes:
            host, added = _repaired_node(host, reason.cause, wanted)
            devices |= {member.id: member for member in added}
        for id_ in set(reason.devices) & set(devices):
            devices[id_] = _repaired_device(devices[id_], reason.cause, wanted)
    return ComputeSnapshot(fleet.pools, (replace(host, devices=tuple(devices.values())),))


def _repaired_node(host: NodeView, cause: Cause, wanted: PlacementRequest) -> tuple[NodeView, list[DeviceView]]:
    match cause:
        case Cause.node_state:
            return replace(host, state=NodeState.ready), []
        case Cause.node_cordoned:
            return replace(host, cordoned=None), []
        case Cause.node_labels:
            return replace(host, labels=wanted.node_labels), []
        case Cause.node_cpus:
            return replace(host, cpus=wanted.cpus), []
        case Cause.node_memory:
            return replace(host, memory_bytes=host.memory_claimed + wanted.memory_bytes), []
        case _:
            vendor = wanted.vendors[0] if wanted.vendors else "nvidia"
            return host, [
                device(
                    100 + n, host.name, vendor=vendor, model="new", memory_bytes=_enough(wanted), pool_id=wanted.pool_id
                )
                for n in range(wanted.devices)
            ]


def _repaired_device(member: DeviceView, cause: Cause, wanted: PlacementRequest) -> DeviceView:
    repairs: dict[Cause, dict[str, Any]] = {
        Cause.device_vendor: {"vendor": wanted.vendors[0] if wanted.vendors else None},
        Cause.device_model: {"model": "H100"},
        Cause.device_state: {"state": DeviceState.healthy},
        Cause.device_cordoned: {"cordoned": None},
        Cause.device_reserved: {"reserved": None},
        Cause.device_held: {"leases": ()},
        Cause.device_memory: {"memory_bytes": _enough(wanted) * 20, "memory_foreign": 0},
    }
    return changed(member, **repairs[cause])


def _enough(wanted: PlacementRequest) -> int:
    """The memory of a device whose share is what is needed."""
    return -(-wanted.device_memory_bytes * 100 // wanted.device_share)


@given(snapshots(), requests)
def test_a_remedy_helps_alone(fleet: ComputeSnapshot, wanted: PlacementRequest) -> None:
    answer = place(fleet, wanted)
    if isinstance(answer, Plan):
        return
    kinds = [remedy.change for remedy in answer.remedies]
    assert kinds == sorted(kinds, key=list(Change).index)
    for remedy in answer.remedies:
        assert isinstance(place(*_remedied(fleet, wanted, remedy)), Plan), remedy


def _remedied(
    fleet: ComputeSnapshot, wanted: PlacementRequest, remedy: Remedy
) -> tuple[ComputeSnapshot, PlacementRequest]:
    changes: dict[str, Any] = {}
    match remedy.change:
        case Change.uncordon_device:
            fleet = _with_devices(fleet, lambda member: _opened(member, remedy.subjects))
        case Change.uncordon_node:
            nodes = (replace(host, cordoned=None) if host.id in remedy.subjects else host for host in fleet.nodes)
            fleet = ComputeSnapshot(fleet.pools, tuple(nodes))
        case Change.end_reservation:
            fleet = _with_devices(fleet, lambda member: _ended(member, remedy.subjects))
        case Change.stop_replicas:
            fleet = _with_devices(fleet, lambda member: _released(member, remedy.subjects))
        case Change.other_pool:
            changes = {"pool_id": remedy.subjects[0]}
        case Change.less_device_memory:
            changes = {"device_memory_bytes": remedy.amount}
        case Change.fewer_devices:
            assert remedy.amount is not None
            each = -(-wanted.devices * wanted.device_memory_bytes // remedy.amount)
            changes = {"devices": remedy.amount, "device_memory_bytes": each}
        case Change.less_memory:
            changes = {"memory_bytes": remedy.amount}
    return fleet, changed(wanted, **changes)


def _opened(member: DeviceView, devices: Iterable[str]) -> DeviceView:
    return changed(member, cordoned=None) if member.id in devices else member


def _ended(member: DeviceView, devices: Iterable[str]) -> DeviceView:
    return changed(member, reserved=None) if member.id in devices else member


def _with_devices(fleet: ComputeSnapshot, change: Callable[[DeviceView], DeviceView]) -> ComputeSnapshot:
    nodes = (replace(host, devices=tuple(change(member) for member in host.devices)) for host in fleet.nodes)
    return ComputeSnapshot(fleet.pools, tuple(nodes))


def _released(member: DeviceView, replicas: Iterable[str]) -> DeviceView:
    return changed(member, leases=tuple(lease for lease in member.leases if lease.replica_id not in replicas))


def test_the_preferred_vendor_comes_first() -> None:
    fleet = snapshot(node(), device(0, vendor="iluvatar"), device(1, vendor="nvidia"))
    assert place(fleet, request(devices=1, vendors=("nvidia", "iluvatar"))) == Plan("nod_n1", ("dev_n1_1",))
    assert place(fleet, request(devices=1, vendors=("iluvatar", "nvidia"))) == Plan("nod_n1", ("dev_n1_0",))


def test_the_smallest_device_that_suffices_is_taken() -> None:
    fleet = snapshot(node(), device(0, model="H100", memory_bytes=80 * GIB), device(1))
    assert place(fleet, request(devices=1, device_memory_bytes=20 * GIB)) == Plan("nod_n1", ("dev_n1_1",))
    assert place(fleet, request(devices=1, device_memory_bytes=30 * GIB)) == Plan("nod_n1", ("dev_n1_0",))


def test_memory_that_others_hold_is_not_promised() -> None:
    fleet = snapshot(node(), device(0, memory_foreign=10 * GIB), device(1, memory_foreign=2 * GIB), device(2))
    assert place(fleet, request(devices=1, device_memory_bytes=20 * GIB)) == Plan("nod_n1", ("dev_n1_2",))
    assert place(fleet, request(devices=2, device_memory_bytes=20 * GIB)) == Plan("nod_n1", ("dev_n1_1", "dev_n1_2"))
    assert isinstance(place(fleet, request(devices=3, device_memory_bytes=20 * GIB)), Rejection)


def test_a_share_is_not_placed_where_other_programs_hold_some_of_its_part() -> None:
    half = request(devices=1, device_share=50, device_memory_bytes=4 * GIB)
    crowded = snapshot(node(), device(0, memory_bytes=80 * GIB, memory_foreign=41 * GIB))
    answer = place(crowded, half)
    assert isinstance(answer, Rejection)
    assert "other programs hold 41" in answer.sentence
    assert isinstance(place(snapshot(node(), device(0, memory_bytes=80 * GIB, memory_foreign=40 * GIB)), half), Plan)


def test_large_holes_stay_whole() -> None:
    fleet = snapshot(
        node("n1"),
        *(device(index, "n1") for index in range(4)),
        node("n2"),
        *(device(index, "n2") for index in range(2)),
    )
    assert place(fleet, request(devices=1)) == Plan("nod_n2", ("dev_n2_0",))


def test_devices_of_one_replica_are_equal() -> None:
    fleet = snapshot(node(), device(0), device(1, model="H100"), device(2))
    assert place(fleet, request(devices=2)) == Plan("nod_n1", ("dev_n1_0", "dev_n1_2"))


def test_what_needs_no_device_leaves_the_nodes_with_devices() -> None:
    fleet = snapshot(node("n1"), device(0, "n1"), node("n2"))
    assert place(fleet, request()) == Plan("nod_n2", ())


def test_another_pool_is_not_used() -> None:
    fleet = ComputeSnapshot((POOL, PoolView("pol_b", "b")), (node(pool_id="pol_b"),))
    assert isinstance(place(fleet, request()), Rejection)


def test_a_share_joins_a_device_that_is_shared() -> None:
    fleet = snapshot(node("n1"), device(0, "n1"), node("n2"), device(0, "n2", leases=held("x", share=50)))
    assert place(fleet, request(devices=1, device_share=50)) == Plan("nod_n2", ("dev_n2_0",))
    assert place(fleet, request(devices=1, device_share=51)) == Plan("nod_n1", ("dev_n1_0",))


def test_a_share_has_its_part_of_the_memory() -> None:
    fleet = snapshot(node(), device(0), device(1, model="H100", memory_bytes=80 * GIB))
    wanted = request(devices=1, device_share=25, device_memory_bytes=18 * GIB)
    assert place(fleet, wanted) == Plan("nod_n1", ("dev_n1_1",))


def test_spread_replicas_go_where_the_fewest_siblings_are() -> None:
    fleet = snapshot(node("n1"), device(0, "n1"), device(1, "n1"), node("n2"), device(0, "n2"), device(1, "n2"))
    spread = request(devices=1, strategy=Strategy.spread, siblings={"nod_n1": 1})
    assert place(fleet, spread) == Plan("nod_n2", ("dev_n2_0",))


def test_a_node_that_has_the_model_comes_first_among_equals() -> None:
    fleet = snapshot(node("n1"), device(0, "n1"), node("n2"), device(0, "n2"))
    assert place(fleet, request(devices=1, warm_nodes=frozenset({"nod_n2"}))) == Plan("nod_n2", ("dev_n2_0",))


def test_the_remedies_are_told_from_the_cheapest_on() -> None:
    fleet = snapshot(
        node("n1"),
        device(0, "n1", leases=held("rpl_a")),
        device(1, "n1", leases=held("rpl_a")),
        device(2, "n1", leases=held("rpl_b")),
        device(3, "n1", cordoned="a new riser"),
        node("n2", pool_id="pol_b"),
        device(0, "n2"),
    )
    answer = place(fleet, request(devices=1, other_pools=("pol_b",)))
    assert isinstance(answer, Rejection)
    assert [(remedy.change, remedy.subjects, remedy.text) for remedy in answer.remedies] == [
        (Change.uncordon_device, ("dev_n1_3",), "lift the cordon of 1 device"),
        (Change.other_pool, ("pol_b",), "use pool other"),
        (Change.stop_replicas, ("rpl_a",), "stop 1 replica on one node"),
    ]
