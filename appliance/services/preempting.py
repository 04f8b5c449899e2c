"""Making room for a waiting replica: others who consented leave their places to it, and nobody else takes them.

Who leaves is chosen on a snapshot (`gpu.preemption`). In one transaction it is looked again whether the one still
waits, and whether the others still consent and are of a lower priority; they go as in a drain, and the devices are
reserved for the replica until it has its place or the time is over that they may take to leave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from appliance.kernel.logging import get_logger
from appliance.services.containment import contained
from appliance.services.converge import retire
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.planner import Retire
from appliance.services.states import COMING_OR_UP, HOLDING, LEAVING, Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from gpu import reservations
from gpu.preemption import Eviction, Incumbent
from gpu.reservation_tables import ReservationRow
from gpu.tables import NodeClaimRow
from gpu.wording import counted
from tenants.limits import Priority
from tenants.tables import TenantRow

log = get_logger(__name__)
PRECEDENCE: Final = {Priority.high: 0, Priority.normal: 1, Priority.low: 2}
"""The lower, the earlier a tenant's turn."""
_MARGIN: Final = timedelta(seconds=60)
"""How long the devices are kept beyond the time that those who leave them may take."""


async def incumbents(session: AsyncSession) -> list[Incumbent]:
    """Every replica that has a place; none where no service is preemptible, which is usual."""
    if not await session.scalar(select(exists().where(DeploymentRow.preemptible))):
        return []
    query = (
        select(ReplicaRow.id, ReplicaRow.state, NodeClaimRow.node_id, NodeClaimRow.memory_bytes)
        .add_columns(DeploymentRow.preemptible, TenantRow.priority)
        .join(NodeClaimRow, NodeClaimRow.replica_id == ReplicaRow.id)
        .join(DeploymentRow, DeploymentRow.id == ReplicaRow.deployment_id)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .where(ReplicaRow.state.in_([state.value for state in HOLDING]))
    )
    leaving = {state.value for state in LEAVING}
    return [
        Incumbent(
            replica_id=id_,
            node_id=node_id,
            memory_bytes=memory_bytes,
            precedence=PRECEDENCE[Priority(priority)],
            consents=consents,
            is_leaving=state in leaving,
        )
        for id_, state, node_id, memory_bytes, consents, priority in await session.execute(query)
    ]


async def make_room(machinery: Machinery, evictions: Iterable[Eviction]) -> bool:
    """Carry them out, each by itself; whether any was."""
    made = False
    for eviction in evictions:
        with contained(replica=eviction.waiting.replica_id):
            async with machinery.guarded.write() as session:
                made |= await _evict(machinery, session, eviction)
    return made


async def end_reservations(machinery: Machinery) -> None:
    """Forget what was kept for replicas that have their place, or do not wait any more, or whose time is over."""
    waiting = select(ReplicaRow.id).where(ReplicaRow.state == ReplicaState.pending.value)
    is_over = or_(
        ReservationRow.ends_at <= machinery.clock.now(),
        ReservationRow.replica_id.not_in(waiting),
    )
    over = select(ReservationRow.id).where(ReservationRow.replica_id.is_not(None), is_over)
    async with machinery.guarded.read() as session:
        ids = (await session.scalars(over)).all()
    if ids:
        async with machinery.guarded.write() as session:
            await session.execute(delete(ReservationRow).where(ReservationRow.id.in_(ids)))


async def forget_reservation(session: AsyncSession, replica_id: str) -> None:
    """The replica has its place, or is to get another."""
    await session.execute(delete(ReservationRow).where(ReservationRow.replica_id == replica_id))


async def _evict(machinery: Machinery, session: AsyncSession, eviction: Eviction) -> bool:
    waiting = await _still_waiting(session, eviction)
    if waiting is None or not await _still_consent(session, eviction):
        return False
    if not await _reserve(machinery, session, waiting, eviction.plan.device_ids):
        return False
    priority = await session.scalar(select(TenantRow.priority).where(TenantRow.id == waiting.tenant_id))
    reason = f"its service is preemptible, and a replica of {priority} priority needs its place"
    for replica_id in eviction.victims:
        await retire(session, machinery.clock, Retire(replica_id, reason), machinery.timing)
    await _count(session, eviction.victims)
    message = f"{counted(len(eviction.victims), 'replica')} of lower priority told to make room"
    note(session, machinery.clock, waiting.service_id, Phase.placing, message, replica_id=waiting.id)
    log.info("replica.preempted", replicas=eviction.victims, replica=waiting.id, node=eviction.plan.node_id)
    return True


async def _still_waiting(session: AsyncSession, eviction: Eviction) -> ReplicaRow | None:
    """The replica, if it waits and its tenant's priority is what was decided on."""
    query = (
        select(ReplicaRow, TenantRow.priority)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .where(ReplicaRow.id == eviction.waiting.replica_id, ReplicaRow.state == ReplicaState.pending.value)
    )
    for replica, priority in await session.execute(query.with_for_update(read=True, of=TenantRow)):
        return replica if PRECEDENCE[Priority(priority)] == eviction.waiting.precedence else None
    return None


async def _still_consent(session: AsyncSession, eviction: Eviction) -> bool:
    """Whether each is still there, and its service and tenant are as they have to be, until the transaction ends."""
    query = (
        select(ReplicaRow.id, DeploymentRow.preemptible, TenantRow.priority)
        .join(DeploymentRow, DeploymentRow.id == ReplicaRow.deployment_id)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .where(ReplicaRow.id.in_(eviction.victims))
        .where(ReplicaRow.state.in_([state.value for state in COMING_OR_UP]))
        .order_by(TenantRow.id, DeploymentRow.id)
    )
    rows = (await session.execute(query.with_for_update(read=True, of=(TenantRow, DeploymentRow)))).all()
    return len(rows) == len(eviction.victims) and all(
        consents and PRECEDENCE[Priority(priority)] > eviction.waiting.precedence for _, consents, priority in rows
    )


async def _reserve(
    machinery: Machinery, session: AsyncSession, waiting: ReplicaRow, device_ids: Collection[str]
) -> bool:
    """Keep the devices for the replica, but for those that are kept for its tenant anyway; until others have reserved
    one of them, at the longest. False where somebody else has one by now.
    """
    await reservations.lock_nodes_of(session, device_ids)
    now = machinery.clock.now()
    ends_at = now + machinery.timing.drain + machinery.timing.stopping + _MARGIN
    kept = set[str]()
    for theirs, device_id in await reservations.overlapping(session, device_ids, now, ends_at):
        if theirs.replica_id == waiting.id:
            continue  # of an eviction before, which this one takes the place of
        if theirs.starts_at > now:
            ends_at = min(ends_at, theirs.starts_at)
        elif theirs.replica_id is None and theirs.tenant_id == waiting.tenant_id:
            kept.add(device_id)
        else:
            return False
    missing = set(device_ids) - kept
    return await _insert(machinery.clock, session, waiting, missing, ends_at)


async def _insert(
    clock: Clock, session: AsyncSession, waiting: ReplicaRow, device_ids: Collection[str], ends_at: datetime
) -> bool:
    row = ReservationRow(
        id=new_id("rsv"),
        tenant_id=waiting.tenant_id,
        replica_id=waiting.id,
        starts_at=clock.now(),
        ends_at=ends_at,
        reason="others leave to make room for the replica",
        created_by="system:services",
        created_at=clock.now(),
    )
    try:
        async with session.begin_nested():
            await forget_reservation(session, waiting.id)
            if device_ids:
                await reservations.insert(session, row, device_ids)
    except IntegrityError:
        return False  # somebody reserved one just now
    return True


async def _count(session: AsyncSession, replica_ids: Sequence[str]) -> None:
    """With each one's deployment."""
    for replica_id in replica_ids:
        deployment_id = select(ReplicaRow.deployment_id).where(ReplicaRow.id == replica_id).scalar_subquery()
        counted_on = update(DeploymentRow).where(DeploymentRow.id == deployment_id)
        more = DeploymentRow.preemptions + 1
        await session.execute(counted_on.values(preemptions=more).execution_options(synchronize_session=False))
