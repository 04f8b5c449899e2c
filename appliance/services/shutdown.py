"""Stopping every engine because the appliance itself stops; what is desired stays as it is.

Run after the reconciler and the gateway have stopped, so that nobody starts or asks anything meanwhile. A replica
whose process could not be stopped keeps its row and its leases: the next start deals with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import select, update

from appliance.kernel.errors import ApplianceError
from appliance.kernel.logging import get_logger
from appliance.services import metering
from appliance.services.machinery import Machinery
from appliance.services.states import ENDED, Desired, ReplicaState, ServiceState
from appliance.services.tables import ReplicaRow, ServiceRow

log = get_logger(__name__)


async def stop_all(machinery: Machinery, *, grace_s: float) -> int:
    """Stop what runs and record it as stopped; the number of engines that were stopped. Each is killed if it has not
    ended within `grace_s` seconds.
    """
    observed = [replica.replica_id for replica in await machinery.launcher.list()]
    ended = await asyncio.gather(*(_stop(machinery, replica_id, grace_s) for replica_id in observed))
    failed = [replica_id for replica_id, is_gone in zip(observed, ended, strict=True) if not is_gone]
    await _record(machinery, failed)
    return len(observed) - len(failed)


async def _stop(machinery: Machinery, replica_id: str, grace_s: float) -> bool:
    try:
        await machinery.launcher.stop(replica_id, grace_s=grace_s)
        await machinery.launcher.remove(replica_id)
    except ApplianceError:
        log.exception("replica.stop_failed", replica=replica_id)
        return False
    return True


async def _record(machinery: Machinery, still_there: Sequence[str]) -> None:
    async with machinery.guarded.write() as session:
        live = select(ReplicaRow.id).where(ReplicaRow.state.not_in([state.value for state in ENDED]))
        gone = [id_ for id_ in (await session.scalars(live)).all() if id_ not in still_there]
        await metering.release(session, machinery.clock, gone)
        await session.execute(
            update(ReplicaRow)
            .where(ReplicaRow.id.in_(gone))
            .values(
                state=ReplicaState.stopped.value,
                outcome=ReplicaState.stopped.value,
                reason="the appliance was stopped",
                ended_at=machinery.clock.now(),
                deadline_at=None,
            )
        )
        await session.execute(
            update(ServiceRow)
            .where(ServiceRow.desired == Desired.running.value)
            .values(state=ServiceState.pending.value, reason="", state_since=machinery.clock.now())
        )
