"""Whose places a replica may take that fits nowhere: those of others who consented, of strictly lower precedence. Pure.

What leaves already is room to come: whoever fits there waits for it, and nobody else has to go. Else, of the nodes of
the pool, the one where the fewest have to go, then where the least is lost: tenants of the lowest precedence, few
devices, the youngest replicas. Nobody goes without whom it would fit as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from msgspec import Struct

from gpu.fairness import Find, Waiting
from gpu.placement import after
from gpu.requests import Plan
from gpu.reserving import seek
from gpu.snapshot import ComputeSnapshot, NodeView
from gpu.whatif import vacated

_WEIGHED: Final = 16
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
    room = _Room(snapshot, incumbents)
    hopeless: set[Hashable] = set()
    for one in waiting:
        if one.precedence >= room.lowest:
            return  # nor does anybody go for those who come after
        plan = find(room.snapshot, one.request)
        if plan is None:
            kind = (one.request.needs, one.precedence)
            found = None if kind in hopeless else _eviction(room, one, find)
            if found is None:
                hopeless.add(kind)
                continue
            plan = found.plan
            room.leave(found.victims)
            yield found
        room.take(one, plan)


class _Room:
    """The compute as it will be, with those who stay: at first without what leaves already."""

    def __init__(self, snapshot: ComputeSnapshot, incumbents: Iterable[Incumbent]) -> None:
        self.snapshot = snapshot
        self._staying = {one.replica_id: one for one in incumbents}
        self._emptied: dict[int, ComputeSnapshot] = {}
        self.leave([one.replica_id for one in self._staying.values() if one.is_leaving])
        self.lowest = max((one.precedence for one in self._staying.values() if one.consents), default=0)

    def leave(self, replica_ids: Iterable[str]) -> None:
        self.snapshot = _without(self.snapshot, [self._staying.pop(replica_id) for replica_id in replica_ids])
        self._emptied.clear()

    def take(self, waiting: Waiting, plan: Plan) -> None:
        self.snapshot = after(self.snapshot, waiting.replica_id, waiting.request, plan)
        self._emptied.clear()

    def who_may_go(self, precedence: int) -> Mapping[str, Sequence[Incumbent]]:
        """By node, for what is of this precedence."""
        found: dict[str, list[Incumbent]] = defaultdict(list)
        for one in self._staying.values():
            if one.consents and one.precedence > precedence:
                found[one.node_id].append(one)
        return found

    def emptied(self, precedence: int) -> ComputeSnapshot:
        """Once all who may go for what is of this precedence are gone."""
        if precedence not in self._emptied:
            gone = [one for members in self.who_may_go(precedence).values() for one in members]
            self._emptied[precedence] = _without(self.snapshot, gone)
        return self._emptied[precedence]


def _eviction(room: _Room, waiting: Waiting, find: Find) -> Eviction | None:
    if not waiting.request.devices:
        return None
    may_go = room.who_may_go(waiting.precedence)
    options = [
        option
        for node in _nodes(room, waiting, find)
        for option in _options(room.snapshot, node, may_go[node.id], lambda view: find(view, waiting.request))
    ]
    if not options:
        return None
    _, plan, victims = min(options, key=lambda option: option[0])
    return Eviction(waiting, plan, victims)


def _nodes(room: _Room, waiting: Waiting, find: Find) -> Sequence[NodeView]:
    """Where it would fit if all went who may."""
    emptied = room.emptied(waiting.precedence)
    if find(emptied, waiting.request) is None:
        return ()
    alike = [[node] for node in emptied.nodes] if waiting.request.holders else emptied.shapes.values()
    fitting = {
        node.id
        for nodes in alike
        if find(replace(emptied, nodes=(nodes[0],)), waiting.request) is not None
        for node in nodes
    }
    found = [node for node in room.snapshot.nodes if node.id in fitting]
    free = {node.id: sum(device.is_free for device in node.devices) for node in found}
    return sorted(found, key=lambda node: (-free[node.id], node.name))[:_WEIGHED]


def _without(snapshot: ComputeSnapshot, gone: Iterable[Incumbent]) -> ComputeSnapshot:
    return vacated(snapshot, {one.replica_id: (one.node_id, one.memory_bytes) for one in gone})


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
    return _without(replace(snapshot, nodes=(node,)), gone)
