"""From `pending` to `placed`: find a place for each waiting replica, take its leases, say why where there is none.

A round reads the compute once, decides on every waiting replica in a thread (`gpu.fairness`), then takes each place in
a transaction of its own, which looks again whether the replica still waits and what its tenant's grants permit. A place
that was lost meanwhile is sought again in the next round. What still fits nowhere for the reason that was told costs
no transaction that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.models.tables import ModelVersionRow
from appliance.runtimes.errors import CombinationRefused
from appliance.services import holdings, permits, preempting, trust
from appliance.services.containment import contained
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.preempting import PRECEDENCE
from appliance.services.requesting import placement_request
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from appliance.services.transitions import PLACED_DEADLINE, move
from gpu import leasing, reservations
from gpu.errors import PlacementLost
from gpu.fairness import Outcome, Use, Waiting, plan_round
from gpu.placement import after
from gpu.preemption import Eviction, Incumbent, evictions
from gpu.requests import PlacementRequest, Plan
from gpu.reserving import holders_in, rejection, seek
from gpu.snapshot import ComputeSnapshot
from gpu.tables import FlavorRow
from tenants.limits import Priority
from tenants.tables import TenantRow


class _Refused(NamedTuple):
    """Why a replica waits: a sentence for its owner, every cause, and single changes that would help."""

    sentence: str
    reasons: tuple[str, ...] = ()
    would_help: tuple[str, ...] = ()


class _Place(NamedTuple):
    """`classes` are the (vendor, model) of its devices."""

    request: PlacementRequest
    plan: Plan
    classes: tuple[tuple[str, str], ...]


Answer = _Place | _Refused


class Decision(NamedTuple):
    """An answer for each replica, in the order in which they are to be carried out; who leaves for which of them."""

    answers: Mapping[str, Answer]
    evictions: Sequence[Eviction]


class _Ask(NamedTuple):
    """What the replicas of a deployment ask for, and when it is their turn."""

    request: PlacementRequest
    precedence: int


async def place_waiting(machinery: Machinery, waiting: Sequence[ReplicaRow]) -> bool:
    """Try to place these replicas, each tenant in its turn; whether there was anything to change."""
    known = {row.id: row.reason for row in waiting}
    answers, leaving = await decide(machinery, waiting)
    news = {id_: answer for id_, answer in answers.items() if _sentence(answer) != known[id_]}
    for replica_id, answer in news.items():
        with contained(replica=replica_id):
            async with machinery.guarded.write() as session:
                await settle(machinery, session, replica_id, answer)
    return await preempting.make_room(machinery, leaving) or bool(news)


async def decide(machinery: Machinery, waiting: Sequence[ReplicaRow]) -> Decision:
    """Read all that the decision is made on, and make it in a thread."""
    async with machinery.guarded.read() as session:
        reserved = await reservations.active(session, machinery.clock.now())
        snapshot = machinery.reserved.over(await machinery.compute.read(session), reserved)
        asks = await _asks(session, machinery, {row.deployment_id for row in waiting}, snapshot)
        held = await holdings.by_tenant(session)
        incumbents = await preempting.incumbents(session)
    return await asyncio.to_thread(_decided, snapshot, waiting, asks, held, holders_in(reserved), incumbents)


def _sentence(answer: Answer) -> str | None:
    return answer.sentence if isinstance(answer, _Refused) else None


async def _asks(
    session: AsyncSession, machinery: Machinery, deployment_ids: set[str], snapshot: ComputeSnapshot
) -> dict[str, _Ask | _Refused]:
    """By deployment."""
    query = (
        select(DeploymentRow, FlavorRow, TenantRow, ModelVersionRow.details)
        .join(FlavorRow, FlavorRow.id == DeploymentRow.flavor_id)
        .join(TenantRow, TenantRow.id == DeploymentRow.tenant_id)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .where(DeploymentRow.id.in_(deployment_ids))
    )
    known = await permits.permits(session, deployment_ids, machinery.clock.now())
    siblings = await holdings.by_node(session, deployment_ids)
    asks: dict[str, _Ask | _Refused] = {}
    for deployment, flavor, tenant, details in await session.execute(query):
        permit = known[deployment.id]
        if refused := trust.refusal(machinery.launcher, tenant) or permit.refusal():
            asks[deployment.id] = _Refused(refused)
            continue
        try:
            beside = siblings.get(deployment.id)
            request = placement_request(machinery.catalog, deployment, flavor, details, snapshot, siblings=beside)
        except (NotFound, CombinationRefused) as gone:  # the runtime, or what the flavor was when it was chosen
            asks[deployment.id] = _Refused(gone.detail)
            continue
        asks[deployment.id] = _Ask(permit.narrowed(request, snapshot), PRECEDENCE[Priority(tenant.priority)])
    return asks


def _decided(
    snapshot: ComputeSnapshot,
    waiting: Sequence[ReplicaRow],
    asks: Mapping[str, _Ask | _Refused],
    held: Mapping[str, Use],
    holders: frozenset[str],
    incumbents: Sequence[Incumbent],
) -> Decision:
    refused = {row.id: ask for row in waiting if isinstance(ask := asks[row.deployment_id], _Refused)}
    queue = [_queued(row, ask, holders) for row in waiting if isinstance(ask := asks[row.deployment_id], _Ask)]
    outcomes = list(plan_round(snapshot, queue, held, seek))
    return Decision(refused | _answers(snapshot, outcomes), _evictions(snapshot, outcomes, incumbents))


def _queued(row: ReplicaRow, ask: _Ask, holders: frozenset[str]) -> Waiting:
    return Waiting(
        replica_id=row.id,
        deployment_id=row.deployment_id,
        tenant_id=row.tenant_id,
        precedence=ask.precedence,
        request=replace(ask.request, holders=holders & {row.tenant_id, row.id}),
    )


def _answers(snapshot: ComputeSnapshot, outcomes: Sequence[Outcome]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    told: dict[Hashable, _Refused] = {}
    for outcome in outcomes:
        request = outcome.waiting.request
        if outcome.plan is not None:
            answers[outcome.waiting.replica_id] = _Place(request, outcome.plan, _classes(snapshot, outcome.plan))
            continue
        kind = (request.needs, request.other_pools, frozenset(request.excluded_models.items()))
        if kind not in told:
            told[kind] = _explained(outcome.snapshot, request)
        answers[outcome.waiting.replica_id] = told[kind]
    return answers


def _evictions(
    snapshot: ComputeSnapshot, outcomes: Sequence[Outcome], incumbents: Sequence[Incumbent]
) -> list[Eviction]:
    """Who leaves for those that fit nowhere, on what all the others leave."""
    left_out = [outcome.waiting for outcome in outcomes if outcome.plan is None]
    if not left_out or not incumbents:
        return []
    for one, plan, _ in outcomes:
        if plan is not None:
            snapshot = after(snapshot, one.replica_id, one.request, plan)
    return list(evictions(snapshot, left_out, incumbents))


def _explained(snapshot: ComputeSnapshot, request: PlacementRequest) -> _Refused:
    refused = rejection(snapshot, request)
    reasons = tuple(reason.text for reason in refused.reasons)
    return _Refused(refused.sentence, reasons, tuple(remedy.text for remedy in refused.remedies))


def _classes(snapshot: ComputeSnapshot, plan: Plan) -> tuple[tuple[str, str], ...]:
    node = snapshot.nodes[snapshot.positions[plan.node_id]]
    return tuple((device.vendor, device.model) for device in node.devices if device.id in plan.device_ids)


async def settle(machinery: Machinery, session: AsyncSession, replica_id: str, answer: Answer) -> None:
    """Take the place, or tell why there is none, where the replica still waits and its grants still permit it."""
    replica = await session.get(ReplicaRow, replica_id)
    if replica is None or replica.state != ReplicaState.pending:
        return
    if isinstance(answer, _Place):
        answer = await _permitted(machinery, session, replica, answer)
    if isinstance(answer, _Refused):
        await _explain(machinery, session, replica, answer)
    else:
        await _take(machinery, session, replica, answer)


async def _permitted(machinery: Machinery, session: AsyncSession, replica: ReplicaRow, answer: _Place) -> Answer:
    """The same, unless a grant was taken away since; what is permitted stays so until the transaction ends."""
    await permits.hold(session, replica.tenant_id, replica.deployment_id)
    known = await permits.permits(session, {replica.deployment_id}, machinery.clock.now())
    refused = known[replica.deployment_id].refusal_on(answer.classes)
    return answer if refused is None else _Refused(refused)


async def _take(machinery: Machinery, session: AsyncSession, replica: ReplicaRow, answer: _Place) -> None:
    request, plan, _ = answer
    try:
        await leasing.take(session, machinery.clock, replica.id, plan, request)
    except PlacementLost:
        return  # a later round plans again, on what is there then
    await preempting.forget_reservation(session, replica.id)
    await move(
        session,
        machinery.clock,
        replica.id,
        ReplicaState.pending,
        ReplicaState.placed,
        deadline=PLACED_DEADLINE,
        node_id=plan.node_id,
        reason="",
    )
    note(session, machinery.clock, replica.service_id, Phase.placed, f"placed{_with(request)}", replica_id=replica.id)


def _with(request: PlacementRequest) -> str:
    if request.is_shared:
        return f" with {request.device_share} % of a device"
    return f" with {request.devices} devices" if request.devices else ""


async def _explain(machinery: Machinery, session: AsyncSession, replica: ReplicaRow, refused: _Refused) -> None:
    """Tell the reason once; it is told again only when it changes."""
    if replica.reason == refused.sentence:
        return
    changed = update(ReplicaRow).where(ReplicaRow.id == replica.id).values(reason=refused.sentence)
    await session.execute(changed)
    told = {"reasons": list(refused.reasons), "would_help": list(refused.would_help)}
    detail = {name: texts for name, texts in told.items() if texts} or None
    note(
        session,
        machinery.clock,
        replica.service_id,
        Phase.placing,
        refused.sentence,
        replica_id=replica.id,
        detail=detail,
    )
