"""Arrivals and departures, the same for each policy: who uses fewer devices, who rejects fewer requests.

Two loads for each seed: a light one, at which hardly anything is rejected and what counts is how few devices are in
use for what was placed; and a heavy one, at which it counts who has to be turned away. A rejected request weighs the
devices that it asked for.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from msgspec.structs import replace as with_changed

from bench.placement.policies import POLICIES, Policy
from bench.placement.workload import arrivals, fleet
from gpu.placement import after
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot
from gpu.states import WHOLE

NODES: Final = 12
ARRIVALS: Final = 400
LIGHT: Final = 9.0
HEAVY: Final = 40.0
"""How many arrivals a replica lives for, on average."""


class Outcome(NamedTuple):
    """`used` devices for each device's worth that was placed, on average; `rejected` of `asked` devices."""

    used: float
    rejected: float
    asked: float


def run(policy: Policy, seed: int, living: float) -> Outcome:
    chance = random.Random(seed)
    snapshot = fleet(NODES, chance)
    placed: dict[str, tuple[Plan, PlacementRequest]] = {}
    used = worth = 0
    rejected = asked = 0.0
    for replica_id, request in arrivals(chance, count=ARRIVALS, living=living):
        if request is None:
            if replica_id in placed:
                snapshot = without(snapshot, replica_id, *placed.pop(replica_id))
            continue
        size = request.devices * request.device_share / WHOLE
        asked += size
        plan = policy(snapshot, request)
        if plan is None:
            rejected += size
        else:
            placed[replica_id] = (plan, request)
            snapshot = after(snapshot, replica_id, request, plan)
        leased = [device.leased for device in snapshot.devices if device.leases]
        used, worth = used + len(leased), worth + sum(leased)
    return Outcome(used * WHOLE / worth, rejected, asked)


def without(snapshot: ComputeSnapshot, replica_id: str, plan: Plan, request: PlacementRequest) -> ComputeSnapshot:
    """The snapshot once the replica is gone."""
    node = snapshot.nodes[snapshot.positions[plan.node_id]]
    devices = tuple(
        with_changed(device, leases=tuple(lease for lease in device.leases if lease.replica_id != replica_id))
        if device.id in plan.device_ids
        else device
        for device in node.devices
    )
    claimed = node.memory_claimed - request.memory_bytes
    return snapshot.with_node(replace(node, memory_claimed=claimed, devices=devices))


class Paired(NamedTuple):
    """Ours less another's over the seeds: the mean, quartiles, and at how many seeds ours was better, equal, worse."""

    mean: float
    quartiles: Sequence[float]
    better: int
    equal: int
    worse: int


def compare(seeds: int) -> tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, Paired]]]:
    """The means of each policy, and ours paired with each other.

    `used`: devices for one's worth, at the light load; `rejected`: percent, at the heavy one.
    """
    light = {name: [run(policy, seed, LIGHT).used for seed in range(seeds)] for name, policy in POLICIES.items()}
    heavy = {name: [_percent(run(policy, seed, HEAVY)) for seed in range(seeds)] for name, policy in POLICIES.items()}
    figures = {"used": light, "rejected": heavy}
    means = {kind: {name: statistics.fmean(values) for name, values in by.items()} for kind, by in figures.items()}
    pairs = {
        kind: {name: _paired(by["ours"], values) for name, values in by.items() if name != "ours"}
        for kind, by in figures.items()
    }
    return means, pairs


def _percent(outcome: Outcome) -> float:
    return 100 * outcome.rejected / outcome.asked


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    return Paired(
        statistics.fmean(differences),
        statistics.quantiles(differences, n=4),
        sum(difference < 0 for difference in differences),
        sum(difference == 0 for difference in differences),
        sum(difference > 0 for difference in differences),
    )
