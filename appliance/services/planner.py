"""What to change about one service: a pure function of what was asked for and what is there.

The planner decides how many replicas there should be and which of them go; what each replica needs next follows
from its state (`jobs`). It never looks at the clock or the world by itself, so that it can be tested in bulk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from appliance.services.backoff import STABLE_AFTER
from appliance.services.states import COMING_OR_UP, ENDED, LEAVING, Desired, ReplicaState, ServiceState


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    id: str
    deployment_id: str
    generation: int
    state: ReplicaState
    reason: str = ""
    ready_at: datetime | None = None
    unfit: str = ""
    """Why it may not go on where it is, such as a device of its that is fenced."""
    drained: str = ""
    """Why it is to go elsewhere when its deployment can spare it, such as a node that is drained for maintenance."""


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    id: str
    generation: int
    replicas: int
    failures: int = 0
    next_start_at: datetime | None = None
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    id: str
    desired: Desired
    deployments: Sequence[DeploymentFacts]
    replicas: Sequence[ReplicaFacts]


@dataclass(frozen=True, slots=True)
class Add:
    """Make `count` new replicas of a deployment."""

    deployment_id: str
    count: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a replica go: drain it if it serves, stop it if it does not yet, drop it if it has no place. Its owner is
    told the reason where it is not one of theirs.
    """

    replica_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forgive:
    """Every replica of a deployment has served for a while: the failures before are history."""

    deployment_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Everything of a deleted service is gone; so goes its row."""


@dataclass(frozen=True, slots=True)
class Show:
    """The state and reason that the owner sees."""

    state: ServiceState
    reason: str


Change = Add | Retire | Forgive | Forget


def plan(service: ServiceFacts, now: datetime) -> list[Change]:
    """The changes that bring the service nearer to what is desired; empty when there is nothing to do now."""
    live = [replica for replica in service.replicas if replica.state not in ENDED]
    if service.desired is Desired.deleted and not live:
        return [Forget()]
    if service.desired is not Desired.running:
        return [Retire(replica.id) for replica in live if replica.state not in LEAVING]
    changes: list[Change] = []
    for deployment in service.deployments:
        mine = [replica for replica in live if replica.deployment_id == deployment.id]
        changes += _plan_deployment(deployment, mine, now)
    return changes


def _plan_deployment(deployment: DeploymentFacts, mine: Sequence[ReplicaFacts], now: datetime) -> Iterable[Change]:
    """Replicas of this generation that are still leaving are waited for: a service that is stopped and started again
    and again never holds more than it is counted for.
    """
    unfit = [r for r in mine if r.unfit and r.state in COMING_OR_UP and r.generation == deployment.generation]
    mine = [r for r in mine if r not in unfit]
    current = [r for r in mine if r.state in COMING_OR_UP and r.generation == deployment.generation]
    outdated = [r for r in mine if r.state in COMING_OR_UP and r.generation != deployment.generation]
    leaving = sum(r.state in LEAVING and r.generation == deployment.generation for r in mine)
    yield from (Retire(replica.id) for replica in outdated)
    yield from (Retire(replica.id, replica.unfit) for replica in unfit)
    if not unfit and not leaving:
        unfit = _spared(current, deployment.replicas)
        current = [r for r in current if r not in unfit]
        yield from (Retire(replica.id, replica.drained) for replica in unfit)
    surplus = len(current) - deployment.replicas
    missing = deployment.replicas - len(current) - len(unfit) - leaving
    if surplus > 0:
        yield from (Retire(replica.id) for replica in sorted(current, key=_least_missed)[:surplus])
    elif missing > 0 and (deployment.next_start_at is None or deployment.next_start_at <= now):
        yield Add(deployment.id, missing)
    elif surplus == 0 and deployment.failures and all(_is_stable(replica, now) for replica in current):
        yield Forgive(deployment.id)


def _spared(current: Sequence[ReplicaFacts], wanted: int) -> list[ReplicaFacts]:
    """Those that go now because of a drain: all that do not serve; else one, once the successor of the one before
    serves. While successors fail to start nobody else goes; one that gets no place does not hold the drain up.
    """
    drained = [replica for replica in current if replica.drained]
    idle = [replica for replica in drained if replica.state is not ReplicaState.ready]
    if idle or not drained or len(current) < wanted:
        return idle
    coming = [replica for replica in current if replica.state is not ReplicaState.ready]
    if any(replica.state is not ReplicaState.pending or not replica.reason for replica in coming):
        return []
    return [min(drained, key=lambda replica: replica.id)]


def _is_stable(replica: ReplicaFacts, now: datetime) -> bool:
    return (
        replica.state is ReplicaState.ready and replica.ready_at is not None and now - replica.ready_at >= STABLE_AFTER
    )


_ORDER = (
    ReplicaState.pending,
    ReplicaState.placed,
    ReplicaState.starting,
    ReplicaState.joining,
    ReplicaState.ready,
)


def _least_missed(replica: ReplicaFacts) -> tuple[bool, int, str]:
    """Those that are to go anyway go first, then those furthest from serving; among equals the oldest stays."""
    newest_first = "".join(chr(0x10FFFF - ord(letter)) for letter in replica.id)
    return not replica.drained, _ORDER.index(replica.state), newest_first


def summarise(service: ServiceFacts) -> Show:
    """The service's state in one word and its reason in one sentence."""
    live = [replica for replica in service.replicas if replica.state not in ENDED]
    match service.desired:
        case Desired.deleted:
            return Show(ServiceState.deleting, f"{len(live)} replicas are still stopping" if live else "")
        case Desired.stopped:
            return Show(ServiceState.stopping if live else ServiceState.stopped, "")
        case Desired.running:
            return _summarise_running(service, live)
        case _:
            assert_never(service.desired)


def _summarise_running(service: ServiceFacts, live: Sequence[ReplicaFacts]) -> Show:
    wanted = sum(deployment.replicas for deployment in service.deployments)
    ready = sum(replica.state is ReplicaState.ready for replica in live)
    reason = _why(service, live)
    if ready >= wanted:
        return Show(ServiceState.ready, "" if wanted else "no replicas are asked for")
    if ready:
        return Show(ServiceState.degraded, reason or f"{ready} of {wanted} replicas are ready")
    if any(deployment.failures for deployment in service.deployments):
        return Show(ServiceState.failed, reason)
    if any(replica.state in (ReplicaState.starting, ReplicaState.joining) for replica in live):
        return Show(ServiceState.starting, "")
    leaving = sum(replica.state in LEAVING for replica in live)
    waits = f"{leaving} former replicas are still stopping" if leaving == len(live) and leaving else ""
    return Show(ServiceState.pending, reason or waits)


def _why(service: ServiceFacts, live: Sequence[ReplicaFacts]) -> str:
    waiting = [replica.reason for replica in live if replica.state is ReplicaState.pending and replica.reason]
    failed = [deployment.last_failure for deployment in service.deployments if deployment.failures]
    return next(iter([*failed, *waiting]), "")
