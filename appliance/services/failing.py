"""A replica that failed: the reason is kept, its process is stopped, and its deployment waits before the next start."""

from __future__ import annotations

import msgspec
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.launchers.contract import ExitInfo
from appliance.services.backoff import STABLE_AFTER
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.quoting import quote
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from appliance.services.transitions import move


async def fail(
    machinery: Machinery, replica_id: str, came_from: ReplicaState, reason: str, *, exit_info: ExitInfo | None = None
) -> None:
    """Move the replica to `stopping` with the outcome `failed`; the stopping job does the rest."""
    async with machinery.guarded.write() as session:
        await move(
            session,
            machinery.clock,
            replica_id,
            came_from,
            ReplicaState.stopping,
            deadline=machinery.timing.stopping,
            outcome=ReplicaState.failed.value,
            reason=reason,
            exit=msgspec.to_builtins(_quoted(exit_info)) if exit_info else None,
        )
        replica = await session.get_one(ReplicaRow, replica_id)
        await _count_failure(machinery, session, replica)
        detail = {"exit": replica.exit} if replica.exit else {}
        note(
            session,
            machinery.clock,
            replica.service_id,
            Phase.failed,
            reason,
            replica_id=replica_id,
            detail=detail,
        )


async def _count_failure(machinery: Machinery, session: AsyncSession, replica: ReplicaRow) -> None:
    deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    now = machinery.clock.now()
    was_stable = replica.ready_at is not None and now - replica.ready_at >= STABLE_AFTER
    deployment.failures = 1 if was_stable else deployment.failures + 1
    deployment.next_start_at = now + machinery.backoff.delay(deployment.failures)


def _quoted(exit_info: ExitInfo) -> ExitInfo:
    return structs.replace(exit_info, last_lines=tuple(map(quote, exit_info.last_lines)))


def explain_exit(exit_info: ExitInfo | None) -> str:
    """One sentence on how an engine ended, with its last line."""
    if exit_info is None:
        return "the engine's process vanished"
    last = f": {quote(exit_info.last_lines[-1])}" if exit_info.last_lines else ""
    if exit_info.out_of_memory:
        return f"the engine ran out of memory; choose a flavor with more{last}"
    if exit_info.signal is not None:
        return f"the engine was killed by signal {exit_info.signal}{last}"
    if exit_info.code is None:
        return f"the engine ended while nobody watched{last}"
    return f"the engine exited with code {exit_info.code}{last}"
