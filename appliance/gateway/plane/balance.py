"""Choosing a replica: a deployment by weight (or by the client's word), then one of its replicas.

The weights are drawn by chance; for a session or a key they are drawn by its point, so that it stays where it is. A
deployment without an eligible replica gives its share to the others, in proportion to their weights.

Within a deployment: a session (`x-appliance-session`, whatever the service says) and a key (`affinity` "key") have
one replica while that is eligible. A prompt's beginning (`affinity` "prefix") has one while that is not loaded above
`_SPARE` times the average, then the next on the ring (consistent hashing with bounded loads, Mirrokni et al.,
arXiv:1608.01350). All others go to the replica with the fewest requests in flight. Loads are this worker's own: each
worker gets a like part of the traffic, so what bounds its parts bounds the whole.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from appliance.gateway.plane.affinity import distance, point_of
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.errors import Refusal, unavailable
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.tables import DeploymentTable

SESSION: Final = b"x-appliance-session"

_SPARE: Final = (3, 2)
"""How far above the average load a prefix's own replica may be, as a fraction. `python -m bench.affinity` shows what
it costs and gives: with a quarter instead of a half more prompts are computed anew than the evener load is worth.
"""
LEAST_BOUND: Final = 4
"""Requests in flight that are no load: an engine computes a few together as fast as one."""
_RETRY_AFTER_S: Final = 2
_NONE: Final[frozenset[str]] = frozenset()


_Kin = tuple[int | None, bool]
"""The point that the request has in common with others, and whether they want the same deployment and replica at any
load.
"""

_ALONE: Final[_Kin] = (None, False)


def choose(request: Request, now: float, excluded: frozenset[str] = _NONE) -> Replica | None:
    """A replica with room that is not in `excluded` (ids); None if there is none but others are full. `now`: the
    loop's clock.

    `Refusal` 404 `deployment_not_found` for an unknown deployment, 503 `no_replica` when none is there.
    """
    service = request.service
    deployments = service.split if request.addressed is None else [_addressed(request, request.addressed)]
    if len(deployments) == 1 and len(deployments[0].replicas) == 1:
        only = deployments[0].replicas[0]
        if only.id not in excluded:
            return only if only.has_room() else None
        raise no_replica()
    point, sticky = _kin(request)
    remaining = deployments
    while remaining:
        drawn = remaining[0] if len(remaining) == 1 else _draw(remaining, point if sticky else None)
        replica = pick(drawn, point, now, sticky=sticky, excluded=excluded)
        if replica is not None:
            return replica
        remaining = [each for each in remaining if each is not drawn]
    return _last_resort(deployments, excluded)


def pick(
    deployment: DeploymentTable,
    point: int | None,
    now: float,
    *,
    sticky: bool = False,
    excluded: frozenset[str] = _NONE,
) -> Replica | None:
    """An eligible replica of the deployment. `point`: of those that belong together (see `affinity`)."""
    eligible = [
        each
        for each in deployment.replicas
        if (each.max_in_flight is None and not each.down_until) or each.is_eligible(now)
    ]
    if excluded:
        eligible = [each for each in eligible if each.id not in excluded]
    if len(eligible) < 2:
        return eligible[0] if eligible else None
    if point is None:
        return _least_in_flight(deployment, eligible)
    most = float("inf") if sticky else bound(eligible)
    return deployment.ring().next(point, eligible, most)


def bound(replicas: Sequence[Replica]) -> int:
    """The requests in flight below which a replica takes one more; some replica always is."""
    running = 0
    for replica in replicas:
        running += replica.in_flight
    over, under = _SPARE
    return max(-(-over * (running + 1) // (under * len(replicas))), LEAST_BOUND)


def no_replica() -> Refusal:
    return unavailable(
        "no_replica", "No replica of this service is ready; try again shortly.", retry_after_s=_RETRY_AFTER_S
    )


def _addressed(request: Request, name: bytes) -> DeploymentTable:
    deployment = request.service.by_name.get(name)
    if deployment is None:
        raise Refusal(
            404,
            "deployment_not_found",
            "This service has no deployment of that name; leave the x-appliance-deployment header out to reach any.",
        )
    return deployment


def _kin(request: Request) -> _Kin:
    session = request.head.fields.get(SESSION)
    if session:
        return point_of(request.key.tenant_id, session), True
    affinity = request.service.shard.affinity
    if affinity == "key":
        return point_of(request.key.tenant_id, request.key.key_id.encode()), True
    if affinity == "prefix" and request.prepared is not None:
        return request.prepared.point, False
    return _ALONE


def _draw(deployments: Sequence[DeploymentTable], point: int | None) -> DeploymentTable:
    """By chance, or by the point of what stays together."""
    if point is not None:
        return min(deployments, key=lambda each: distance(point, each.seed, each.weight))
    at = random.random() * sum(each.weight for each in deployments)
    for deployment in deployments:
        at -= deployment.weight
        if at < 0:
            return deployment
    return deployments[-1]


def _least_in_flight(deployment: DeploymentTable, eligible: Sequence[Replica]) -> Replica:
    """Of equals another each time: those of one request after another are not all the first's."""
    turn = deployment.turn = deployment.turn + 1
    best = eligible[turn % len(eligible)]
    for replica in eligible:
        if replica.in_flight < best.in_flight:
            best = replica
    return best


def _last_resort(deployments: Sequence[DeploymentTable], excluded: frozenset[str]) -> Replica | None:
    """No replica is eligible. If some are but full, wait for them; else ejected ones are better than none."""
    replicas = [each for deployment in deployments for each in deployment.replicas if each.id not in excluded]
    if any(not each.down_until for each in replicas):
        return None
    with_room = [each for each in replicas if each.has_room()]
    if with_room:
        return min(with_room, key=lambda each: each.down_until)
    if replicas:
        return None
    raise no_replica()
