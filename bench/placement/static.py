"""One round over an empty fleet against an exact solver: how much of what waits is placed.

Each instance asks for about as much as there is. The solver (OR-tools CP-SAT) maximises the devices' worth that is
placed, over every way to place it; ours decides one replica after the other.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from bench.placement.workload import Family, draw, fleet, request
from gpu.fairness import Waiting, plan_round
from gpu.snapshot import ComputeSnapshot
from gpu.states import WHOLE

NODES: Final = 6
SOLVER_S: Final = 20.0


class Instance(NamedTuple):
    """`ours` and `exact` are percent of a device; `is_proven`: the solver had the time to prove its answer best."""

    ours: int
    exact: int
    is_proven: bool


def instance(seed: int) -> tuple[ComputeSnapshot, list[Family]]:
    chance = random.Random(seed)
    snapshot = fleet(NODES, chance)
    room = sum(len(node.devices) for node in snapshot.nodes) * WHOLE
    families: list[Family] = []
    while sum(_worth(family) for family in families) < room:
        families.append(draw(chance))
    return snapshot, families


def ours(snapshot: ComputeSnapshot, families: Sequence[Family]) -> int:
    waiting = [
        Waiting(replica_id=f"rpl_{number:04d}", deployment_id="dep", tenant_id="ten", request=request(family))
        for number, family in enumerate(families)
    ]
    worth = {one.replica_id: _worth(family) for one, family in zip(waiting, families, strict=True)}
    return sum(worth[outcome.waiting.replica_id] for outcome in plan_round(snapshot, waiting, {}) if outcome.plan)


def exact(snapshot: ComputeSnapshot, families: Sequence[Family]) -> tuple[int, bool]:
    from ortools.sat.python import cp_model  # noqa: PLC0415 - of this comparison alone

    model = cp_model.CpModel()
    placed = []
    shares: dict[str, list[Any]] = {device.id: [] for device in snapshot.devices}
    wholes: dict[str, list[Any]] = {node.id: [] for node in snapshot.nodes}
    for number, family in enumerate(families):
        places = []
        for node in snapshot.nodes:
            if family.share < WHOLE:
                for device in node.devices:
                    if device.usable(family.share) >= family.memory_bytes:
                        places.append(taken := model.new_bool_var(f"{number} {device.id}"))
                        shares[device.id].append(taken * family.share)
            elif sum(device.memory_bytes >= family.memory_bytes for device in node.devices) >= family.devices:
                places.append(taken := model.new_bool_var(f"{number} {node.id}"))
                wholes[node.id].append(taken * family.devices)
        model.add_at_most_one(places)
        placed.append(sum(places) * _worth(family))
    for node in snapshot.nodes:
        begun = []
        for device in node.devices:
            begun.append(is_shared := model.new_bool_var(device.id))
            model.add(sum(shares[device.id]) <= WHOLE * is_shared)
        model.add(sum(wholes[node.id]) + sum(begun) <= len(node.devices))
    model.maximize(sum(placed))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = SOLVER_S
    solver.parameters.random_seed = 1
    status = solver.solve(model)
    return round(solver.objective_value), status == cp_model.OPTIMAL


def compare(seeds: int) -> list[Instance]:
    found = []
    for seed in range(seeds):
        snapshot, families = instance(seed)
        found.append(Instance(ours(snapshot, families), *exact(snapshot, families)))
    return found


def gaps(instances: Sequence[Instance]) -> tuple[float, float]:
    """The mean and the largest part of the exact answer, in percent, that ours did not place."""
    lost = [100 * (1 - one.ours / one.exact) for one in instances]
    return statistics.fmean(lost), max(lost)


def _worth(family: Family) -> int:
    return family.devices * family.share
