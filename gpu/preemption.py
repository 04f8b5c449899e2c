"""Whose places a replica may take that fits nowhere: those of others who consented, of strictly lower precedence. Pure.

What leaves already is room to come: whoever fits there waits for it, and nobody else has to go. Else, of the nodes of
the pool, the one where the fewest have to go, then where the least is lost: tenants of the lowest precedence, few
devices, the youngest replicas. Nobody goes without whom it would fit as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from gpu.fairness import Find, Waiting
from gpu.placement import after
from gpu.requests import Plan
from gpu.reserving import seek
from gpu.snapshot import ComputeSnapshot, NodeView
from gpu.whatif import vacated

_WEIGHED: Final = 32
"""Nodes that are weighed where more would do: those with the most free devices, where the fewest have to go."""


class Incumbent(Struct, frozen=True, kw_only=True):
    """A replica that has a place. `precedence`: the lower, the earlier its turn; it is spared by what is not earlier.
    Ids sort by age.
    """

    replica_id: str
    node_id: str
    memory_bytes: int
    precedence: int
    consents: bool
    is_leaving: bool = False


class Eviction(NamedTuple):
    """Once the `victims` are gone, `waiting` has the place of the `plan`."""

    waiting: Waiting
    plan: Plan
    victims: tuple[str, ...]


def evictions(
    snapshot: ComputeSnapshot, waiting: Iterable[Waiting], incumbents: Iterable[Incumbent], find: Find = seek
) -> Iterator[Eviction]:
    """For those that fit nowhere, in their turn (by precedence), each on what the ones before it leave."""
    staying = {one.replica_id: one for one in incumbents}
    leaving = [one for one in staying.values() if one.is_leaving]
    snapshot = _without(snapshot, staying, leaving)
    lowest = max((one.precedence for one in staying.values() if one.consents), default=0)
    hopeless: set[Hashable] = set()
    for one in waiting:
        if one.precedence >= lowest:
            return  # nor does anybody go for those who come after
        kind = (one.request.needs, one.precedence)
        plan = find(snapshot, one.request)
        if plan is None and kind not in hopeless:
            found = _eviction(snapshot, one, staying.values(), find)
            if found is None:
                hopeless.add(kind)
                continue
            plan = found.plan
            snapshot = _without(snapshot, staying, [staying[id_] for id_ in found.victims])
            yield found
        if plan is not None:
            snapshot = after(snapshot, one.replica_id, one.request, plan)


def _without(snapshot: ComputeSnapshot, staying: dict[str, Incumbent], gone: Iterable[Incumbent]) -> ComputeSnapshot:
    """The snapshot once these are gone, which are taken from those who stay."""
    claims = {}
    for one in gone:
        del staying[one.replica_id]
        claims[one.replica_id] = (one.node_id, one.memory_bytes)
    return vacated(snapshot, claims)


def _eviction(snapshot: ComputeSnapshot, waiting: Waiting, staying: Iterable[Incumbent], find: Find) -> Eviction | None:
    if not waiting.request.devices:
        return None
    options = [
        (cost, plan, victims)
        for node, may_go in _nodes(snapshot, waiting, staying, find)
        for cost, plan, victims in _options(snapshot, node, may_go, lambda view: find(view, waiting.request))
    ]
    if not options:
        return None
    _, plan, victims = min(options, key=lambda option: option[0])
    return Eviction(waiting, plan, victims)


def _nodes(
    snapshot: ComputeSnapshot, waiting: Waiting, staying: Iterable[Incumbent], find: Find
) -> Sequence[tuple[NodeView, Sequence[Incumbent]]]:
    """Where it would fit if all went who may, with those."""
    may_go: dict[str, list[Incumbent]] = defaultdict(list)
    for one in staying:
        if one.consents and one.precedence > waiting.precedence:
            may_go[one.node_id].append(one)
    found = [
        (node, may_go[node.id])
        for node in snapshot.nodes
        if node.id in may_go and find(_alone(snapshot, node, may_go[node.id]), waiting.request) is not None
    ]
    free = {node.id: sum(device.is_free for device in node.devices) for node, _ in found}
    return sorted(found, key=lambda each: (-free[each[0].id], each[0].name))[:_WEIGHED]


_Cost = tuple[int, int, int, tuple[str, ...], str]
_Option = tuple[_Cost, Plan, tuple[str, ...]]


def _options(
    snapshot: ComputeSnapshot,
    node: NodeView,
    may_go: Sequence[Incumbent],
    fits: Callable[[ComputeSnapshot], Plan | None],
) -> Iterator[_Option]:
    """Who has to go of one node: all who may, less whom it needs not, whom one spares first. To spare the small ones
    first leaves few who go, to spare the large ones first leaves little that is lost.
    """
    held = {one.replica_id: _held(node, one.replica_id) for one in may_go}
    for sign in (1, -1):
        gone = {one.replica_id: one for one in may_go}
        for one in sorted(may_go, key=lambda each: (sign * held[each.replica_id], each.precedence, each.replica_id)):
            del gone[one.replica_id]
            if fits(_alone(snapshot, node, gone.values())) is None:
                gone[one.replica_id] = one
        plan = fits(_alone(snapshot, node, gone.values()))
        if plan is not None:
            victims = tuple(sorted(gone))
            yield _cost(node, gone, held), plan, victims


def _cost(node: NodeView, gone: Mapping[str, Incumbent], held: Mapping[str, int]) -> _Cost:
    """The younger an id, the larger it is; of two lists of as many the one that begins with the younger is smaller."""
    youth = tuple(_inverted(replica_id) for replica_id in sorted(gone))
    return (
        len(gone),
        -sum(one.precedence for one in gone.values()),
        sum(held[replica_id] for replica_id in gone),
        youth,
        node.name,
    )


def _inverted(text: str) -> str:
    return "".join(chr(0x10FFFF - ord(letter)) for letter in text)


def _held(node: NodeView, replica_id: str) -> int:
    """Percent of devices of the node."""
    return sum(lease.share for device in node.devices for lease in device.leases if lease.replica_id == replica_id)


def _alone(snapshot: ComputeSnapshot, node: NodeView, gone: Iterable[Incumbent]) -> ComputeSnapshot:
    """Of this node, once these are gone."""
    alone = ComputeSnapshot(snapshot.pools, (node,), snapshot.mix)
    return vacated(alone, {one.replica_id: (one.node_id, one.memory_bytes) for one in gone})
