"""Whose waiting replica is placed next. Pure.

Dominant resource fairness (Ghodsi et al., "Dominant Resource Fairness: Fair Allocation of Multiple Resource Types",
NSDI 2011): the tenant comes first whose largest share of any one resource, of what there is of it, is the smallest. A
higher priority comes before all of a lower one. Of a tenant's own replicas the largest come first, then the oldest.
What does not fit holds up nobody.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace as with_changed

from gpu.placement import after, find
from gpu.requests import PlacementRequest, Plan, Strategy
from gpu.snapshot import ComputeSnapshot
from gpu.states import WHOLE

Find = Callable[[ComputeSnapshot, PlacementRequest], Plan | None]


class Use(NamedTuple):
    """What is held or there: devices (percent of one), their memory, CPUs, memory of nodes. Memory is bytes."""

    devices: int = 0
    device_memory: int = 0
    cpus: float = 0.0
    memory: int = 0

    def plus(self, other: Use) -> Use:
        return Use(
            self.devices + other.devices,
            self.device_memory + other.device_memory,
            self.cpus + other.cpus,
            self.memory + other.memory,
        )

    def dominant(self, there_is: Use) -> float:
        """The largest share of any resource: 0 to 1, and more where a node shrank since."""
        return max((one / total for one, total in zip(self, there_is, strict=True) if total), default=0.0)


class Waiting(Struct, frozen=True, kw_only=True):
    """`precedence`: the lower, the earlier. Ids of replicas sort by age."""

    replica_id: str
    deployment_id: str
    tenant_id: str
    precedence: int = 0
    request: PlacementRequest


class Outcome(NamedTuple):
    """`plan` is None where nothing fits; `snapshot` is what it was decided on."""

    waiting: Waiting
    plan: Plan | None
    snapshot: ComputeSnapshot


def plan_round(
    snapshot: ComputeSnapshot, waiting: Iterable[Waiting], held: Mapping[str, Use], seek: Find = find
) -> Iterator[Outcome]:
    """Decide on every waiting replica, each decision on what the ones before leave. `held` is by tenant.

    Where devices are reserved for one replica, which waits for memory of their node, what becomes free of that is not
    given to those after it.
    """
    queues = _Queues(waiting, held, total(snapshot))
    siblings: dict[str, Counter[str]] = defaultdict(Counter)
    hopeless: set[Hashable] = set()
    while (one := queues.pop()) is not None:
        request = _beside(one.request, siblings[one.deployment_id])
        plan = None if request.needs in hopeless else seek(snapshot, request)
        yield Outcome(one, plan, snapshot)
        if plan is None:
            hopeless.add(request.needs)  # what comes after only takes more away
            snapshot = _with_memory_kept(snapshot, one)
            continue
        snapshot = after(snapshot, one.replica_id, request, plan)
        siblings[one.deployment_id][plan.node_id] += 1
        queues.charge(one.tenant_id, _taken(snapshot, request, plan))


def _with_memory_kept(snapshot: ComputeSnapshot, one: Waiting) -> ComputeSnapshot:
    """The snapshot without the memory that the replica will take beside the devices that are reserved for it alone."""
    if one.replica_id not in one.request.holders:
        return snapshot
    for node in snapshot.nodes:
        if any(device.reserved == one.replica_id for device in node.devices):
            claimed = min(node.memory_bytes, node.memory_claimed + one.request.memory_bytes)
            snapshot = snapshot.with_node(replace(node, memory_claimed=claimed))
    return snapshot


def total(snapshot: ComputeSnapshot) -> Use:
    """What there is, in use or not, well or not."""
    return Use(
        sum(WHOLE * len(node.devices) for node in snapshot.nodes),
        sum(device.memory_bytes for device in snapshot.devices),
        sum(node.cpus for node in snapshot.nodes),
        sum(node.memory_bytes for node in snapshot.nodes),
    )


class _Queues:
    """The waiting of each tenant and precedence, and whose turn it is."""

    def __init__(self, waiting: Iterable[Waiting], held: Mapping[str, Use], there_is: Use) -> None:
        self._use, self._there_is = dict(held), there_is
        self._queues: dict[tuple[int, str], list[Waiting]] = defaultdict(list)
        for one in sorted(waiting, key=_order, reverse=True):
            self._queues[one.precedence, one.tenant_id].append(one)

    def pop(self) -> Waiting | None:
        """There are few tenants beside the work that each decision is."""
        if not self._queues:
            return None
        turn = min(self._queues, key=lambda key: (key[0], self._dominant(key[1]), key[1]))
        one = self._queues[turn].pop()
        if not self._queues[turn]:
            del self._queues[turn]
        return one

    def charge(self, tenant_id: str, taken: Use) -> None:
        self._use[tenant_id] = self._use.get(tenant_id, Use()).plus(taken)

    def _dominant(self, tenant_id: str) -> float:
        return self._use.get(tenant_id, Use()).dominant(self._there_is)


def _order(one: Waiting) -> tuple[int, int, int, str]:
    request = one.request
    return -request.devices * request.device_share, -request.device_memory_bytes, -request.memory_bytes, one.replica_id


def _beside(request: PlacementRequest, placed: Mapping[str, int]) -> PlacementRequest:
    """The request with the siblings that were placed in this round."""
    if request.strategy is not Strategy.spread or not placed:
        return request
    return with_changed(request, siblings=Counter(request.siblings) + Counter(placed))


def _taken(snapshot: ComputeSnapshot, request: PlacementRequest, plan: Plan) -> Use:
    node = snapshot.nodes[snapshot.positions[plan.node_id]]
    memory = sum(device.memory_bytes for device in node.devices if device.id in plan.device_ids)
    share = request.device_share
    return Use(share * len(plan.device_ids), memory * share // WHOLE, request.cpus, request.memory_bytes)
