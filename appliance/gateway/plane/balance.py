"""Choosing a replica: a deployment by weight, then its replica with the fewest requests in flight.

A deployment without an eligible replica gives its share to the others, in proportion to their weights.
"""

from __future__ import annotations

import random

from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.errors import unavailable
from appliance.gateway.plane.tables import DeploymentTable, ServiceTable

_RETRY_AFTER_S = 2


def choose(service: ServiceTable, now: float, excluded: frozenset[str] = frozenset()) -> Replica:
    """A replica with room that is not in `excluded` (ids). `now`: the loop's clock.

    `Refusal` 503 with code `no_replica` when none is ready, `overloaded` when all are full.
    """
    candidates: list[tuple[float, Replica]] = []
    full = False
    for deployment in service.deployments:
        if deployment.weight <= 0:
            continue
        best = _least_in_flight(deployment, now, excluded)
        if best is None:
            full = full or any(not replica.has_room() for replica in deployment.replicas)
        else:
            candidates.append((deployment.weight, best))
    if len(candidates) == 1:
        return candidates[0][1]
    if candidates:
        return _by_weight(candidates)
    if full:
        raise unavailable(
            "overloaded", "All replicas of this service are busy; try again shortly.", retry_after_s=_RETRY_AFTER_S
        )
    raise unavailable(
        "no_replica", "No replica of this service is ready; try again shortly.", retry_after_s=_RETRY_AFTER_S
    )


def _least_in_flight(deployment: DeploymentTable, now: float, excluded: frozenset[str]) -> Replica | None:
    """Replicas whose last connection failed are taken only if no other is left: they may be back."""
    best: Replica | None = None
    best_rank = (True, 0)
    for replica in deployment.replicas:
        if replica.id in excluded or not replica.has_room():
            continue
        rank = (replica.down_until > now, replica.in_flight)
        if best is None or rank < best_rank:
            best, best_rank = replica, rank
    return best


def _by_weight(candidates: list[tuple[float, Replica]]) -> Replica:
    point = random.random() * sum(weight for weight, _ in candidates)
    for weight, replica in candidates:
        point -= weight
        if point < 0:
            return replica
    return candidates[-1][1]
